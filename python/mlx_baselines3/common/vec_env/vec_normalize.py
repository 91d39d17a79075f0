"""Observations and rewards scaled by running statistics."""

import inspect
import io
import pathlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.preprocessing import is_image_space
from mlx_baselines3.common.running_mean_std import RunningMeanStd
from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvStepReturn, VecEnvWrapper
from mlx_baselines3.common.vec_env.util import check_shape_equal, copy_value

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), names={"utils": "mlx_baselines3.common.utils"})

Obs = np.ndarray | dict[str, np.ndarray]


class VecNormalize(VecEnvWrapper):
    """
    Scale observations to mean 0 and variance 1, and rewards so that their discounted return has variance 1.

    The statistics are part of what an agent has learned: save them with it, and set ``training`` to False to
    evaluate it.

    :param venv: the vectorised environment to wrap
    :param training: update the statistics with every step
    :param norm_obs: normalise observations
    :param norm_reward: normalise rewards
    :param clip_obs: largest absolute value of a normalised observation
    :param clip_reward: largest absolute value of a normalised reward
    :param gamma: discount factor of the return whose variance scales the rewards
    :param epsilon: added to variances, against division by zero
    :param norm_obs_keys: keys of a Dict observation to normalise; None for all of them
    :raises ValueError: if a space to be normalised is not a Box, or if keys are given without a Dict space
    """

    obs_spaces: dict[str, spaces.Space[Any]]
    obs_rms: RunningMeanStd | dict[str, RunningMeanStd]
    old_obs: Obs

    def __init__(
        self,
        venv: VecEnv,
        training: bool = True,
        norm_obs: bool = True,
        norm_reward: bool = True,
        clip_obs: float = 10.0,
        clip_reward: float = 10.0,
        gamma: float = 0.99,
        epsilon: float = 1e-8,
        norm_obs_keys: list[str] | None = None,
    ) -> None:
        super().__init__(venv)
        self.norm_obs = norm_obs
        self.norm_obs_keys = norm_obs_keys
        self.clip_obs = clip_obs
        self.clip_reward = clip_reward
        self.gamma = gamma
        self.epsilon = epsilon
        self.training = training
        self.norm_reward = norm_reward
        if norm_obs:
            self._sanity_checks()
            self._init_obs_statistics()
        self.ret_rms = RunningMeanStd(shape=())
        # Discounted sum of the rewards of each running episode.
        self.returns = np.zeros(self.num_envs)
        self.old_reward = np.array([])

    def _init_obs_statistics(self) -> None:
        if isinstance(self.observation_space, spaces.Dict):
            assert self.norm_obs_keys is not None
            # The space of the wrapped environment stays as it is.
            space = deepcopy(self.observation_space)
            self.observation_space, self.obs_spaces = space, space.spaces
            self.obs_rms = {
                key: RunningMeanStd(shape=_shape(self.obs_spaces[key])) for key in self.norm_obs_keys
            }
            for key in self.norm_obs_keys:
                self.obs_spaces[key] = self._normalised_space(self.obs_spaces[key])
        else:
            self.obs_rms = RunningMeanStd(shape=_shape(self.observation_space))
            self.observation_space = self._normalised_space(self.observation_space)

    def _normalised_space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        # A normalised image must not be taken for one to be divided by 255. The bounds of other spaces stay,
        # as in SB3: saved models compare spaces.
        if not is_image_space(space):
            return space
        return spaces.Box(-self.clip_obs, self.clip_obs, shape=_shape(space), dtype=np.float32)

    def _sanity_checks(self) -> None:
        """Refuse spaces that cannot be normalised, and settle which keys of a Dict are."""
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            if self.norm_obs_keys is None:
                self.norm_obs_keys = list(space.spaces)
            for key in self.norm_obs_keys:
                if key not in space.spaces:
                    raise ValueError(
                        f"norm_obs_keys names {key!r}, but the observations have {list(space.spaces)}."
                    )
                if not isinstance(space.spaces[key], spaces.Box):
                    raise ValueError(
                        f"VecNormalize only supports `gym.spaces.Box` spaces but {key} is of type "
                        f"{space.spaces[key]}. You should explicitly pass the observation keys to normalise "
                        "via the `norm_obs_keys` parameter."
                    )
        elif not isinstance(space, spaces.Box):
            raise ValueError(
                f"VecNormalize only supports `gym.spaces.Box` and `gym.spaces.Dict`, not the space {space}"
            )
        elif self.norm_obs_keys is not None:
            raise ValueError(
                "`norm_obs_keys` param is applicable only with `gym.spaces.Dict` observation spaces"
            )

    def __getstate__(self) -> dict[str, Any]:
        # Environments cannot be pickled in general, and the running returns belong to them.
        return {k: v for k, v in self.__dict__.items() if k not in ("venv", "class_attributes", "returns")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """
        Restore everything but the environment: call :meth:`set_venv` before use.

        :param state: what pickling kept
        """
        # Files from before SB3 1.6 have no keys.
        if "norm_obs_keys" not in state and isinstance(state["observation_space"], spaces.Dict):
            state["norm_obs_keys"] = list(state["observation_space"].spaces)
        self.__dict__.update(state)
        self.__dict__["venv"] = None

    def set_venv(self, venv: VecEnv) -> None:
        """
        Give an unpickled wrapper its environment.

        :param venv: the vectorised environment to wrap
        :raises ValueError: if the wrapper has one already
        :raises AssertionError: if the shapes of the observations differ
        """
        if self.__dict__["venv"] is not None:
            raise ValueError("Trying to set venv of already initialized VecNormalize wrapper.")
        check_shape_equal(self.observation_space, venv.observation_space)
        self.venv = venv
        self.num_envs = venv.num_envs
        self.class_attributes = dict(inspect.getmembers(self.__class__))
        self.render_mode = venv.render_mode
        self.returns = np.zeros(self.num_envs)
        # As many as there are environments now, and not as there were.
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self.metadata = venv.metadata
        self._reset_seeds()
        self._reset_options()
        # Not kept if its class is the user's.
        self.__dict__.setdefault("action_space", venv.action_space)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray | dict), (
            f"expected an array or a dict of observations, got {type(obs)}"
        )
        self.old_obs = obs
        self.old_reward = rewards
        self._update_obs(obs)
        if self.training:
            self._update_reward(rewards)
        for index in np.flatnonzero(dones):
            if "terminal_observation" in infos[index]:
                infos[index]["terminal_observation"] = self.normalize_obs(
                    infos[index]["terminal_observation"]
                )
        self.returns[dones] = 0
        return self.normalize_obs(obs), self.normalize_reward(rewards), dones, infos

    def reset(self) -> Obs:
        """
        Start a new episode in every environment; the observations count for the statistics.

        :return: the first observations, normalised
        """
        obs = self.venv.reset()
        assert isinstance(obs, np.ndarray | dict), (
            f"expected an array or a dict of observations, got {type(obs)}"
        )
        self.old_obs = obs
        self.returns = np.zeros(self.num_envs)
        self._update_obs(obs)
        normalised: Obs = self.normalize_obs(obs)
        return normalised

    def _update_obs(self, obs: Obs) -> None:
        if not (self.training and self.norm_obs):
            return
        if isinstance(self.obs_rms, dict):
            for key, statistics in self.obs_rms.items():
                statistics.update(_part(obs, key))
        else:
            assert isinstance(obs, np.ndarray)
            self.obs_rms.update(obs)

    def _update_reward(self, reward: np.ndarray) -> None:
        """
        Count the discounted returns for the statistics.

        :param reward: rewards of one step ``(n_envs,)``
        """
        self.returns = self.returns * self.gamma + reward
        self.ret_rms.update(self.returns)

    def _normalize_obs(self, obs: np.ndarray, obs_rms: RunningMeanStd) -> np.ndarray:
        scaled = (obs - obs_rms.mean) / np.sqrt(obs_rms.var + self.epsilon)
        return np.asarray(np.clip(scaled, -self.clip_obs, self.clip_obs).astype(np.float32))

    def _unnormalize_obs(self, obs: np.ndarray, obs_rms: RunningMeanStd) -> np.ndarray:
        return np.asarray(obs * np.sqrt(obs_rms.var + self.epsilon) + obs_rms.mean)

    def normalize_obs(self, obs: Obs) -> Any:
        """
        Normalise observations with the present statistics, which stay as they are.

        :param obs: one observation or a batch; an array, or a dict of them
        :return: new observations, float32 where normalised
        """
        return self._map_obs(obs, self._normalize_obs)

    def unnormalize_obs(self, obs: Obs) -> Any:
        """
        Undo :meth:`normalize_obs`, but for what was clipped.

        :param obs: one normalised observation or a batch; an array, or a dict of them
        :return: new observations, float64 where they were normalised
        """
        return self._map_obs(obs, self._unnormalize_obs)

    def _map_obs(self, obs: Obs, scale: Any) -> Any:
        if not self.norm_obs:
            return copy_value(obs)
        if not isinstance(self.obs_rms, dict):
            return scale(obs, self.obs_rms)
        assert isinstance(obs, dict), f"expected a dict with keys {list(self.obs_spaces)}, got {type(obs)}"
        return {
            key: scale(part, self.obs_rms[key]) if key in self.obs_rms else copy_value(part)
            for key, part in obs.items()
        }

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """
        Normalise rewards with the present statistics, which stay as they are.

        :param reward: rewards of any shape
        :return: float32 rewards of the same shape
        """
        if self.norm_reward:
            scaled = reward / np.sqrt(self.ret_rms.var + self.epsilon)
            reward = np.clip(scaled, -self.clip_reward, self.clip_reward)
        return np.asarray(reward.astype(np.float32))

    def unnormalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """
        Undo :meth:`normalize_reward`, but for what was clipped.

        :param reward: normalised rewards of any shape
        :return: rewards of the same shape
        """
        if self.norm_reward:
            return np.asarray(reward * np.sqrt(self.ret_rms.var + self.epsilon))
        return reward

    def get_original_obs(self) -> Any:
        """
        :return: the observations of the last step or reset, as the environments gave them
        """
        return copy_value(self.old_obs)

    def get_original_reward(self) -> np.ndarray:
        """
        :return: the rewards of the last step ``(n_envs,)``, as the environments gave them
        """
        return np.array(self.old_reward)

    @staticmethod
    def load(load_path: str | pathlib.Path | io.BufferedIOBase, venv: VecEnv) -> "VecNormalize":
        """
        Load statistics and settings that :meth:`save`, SB3 or version 0.1.0 of this package wrote. Nothing
        that is in the file is executed.

        :param load_path: the file or an open binary file
        :param venv: the vectorised environment to wrap
        :return: the wrapper around ``venv``
        :raises ModelFileError: if the file is damaged, holds something else, or needs a class that is not
            imported
        :raises AssertionError: if the shapes of the observations differ
        """
        # Not at the top, because it needs MLX.
        from mlx_baselines3.common.formats.vec_normalize import load_vec_normalize

        vec_normalize = load_vec_normalize(load_path, VecNormalize)
        vec_normalize.set_venv(venv)
        return vec_normalize

    def save(
        self, save_path: str | pathlib.Path | io.BufferedIOBase, format: Literal["mlx", "sb3"] = "mlx"
    ) -> None:
        """
        Save statistics and settings, without the environment. The file is replaced as a whole.

        :param save_path: the file, under the very name given, or an open binary file
        :param format: "mlx", an archive that cannot run code, or "sb3", a pickle that SB3 loads
        :raises ValueError: if the format is unknown, or a part cannot be kept
        """
        from mlx_baselines3.common.formats.vec_normalize import export_vec_normalize, save_vec_normalize

        if format not in ("mlx", "sb3"):
            raise ValueError(f"The format must be 'mlx' or 'sb3', got {format!r}.")
        if format == "mlx":
            save_vec_normalize(self, save_path)
        else:
            export_vec_normalize(self, save_path, VecNormalize)


def _shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    assert space.shape is not None
    return tuple(space.shape)


def _part(obs: Obs, key: str) -> np.ndarray:
    assert isinstance(obs, dict), f"expected a dict of observations with key {key!r}, got {type(obs)}"
    return obs[key]
