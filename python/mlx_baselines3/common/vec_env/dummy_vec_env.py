"""Environments stepped one after the other in the calling process."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from mlx_baselines3.common.vec_env.patch_gym import _patch_env
from mlx_baselines3.common.vec_env.util import copy_value, dict_to_obs, is_wrapped, no_images, obs_space_info


class DummyVecEnv(VecEnv):
    """
    Step the environments one after the other in this process.

    For environments that step in microseconds this is faster than subprocesses: there is nothing to send.

    :param env_fns: functions that each make a new environment
    :raises ValueError: if there are none, or if two of them return the same instance
    """

    actions: np.ndarray

    def __init__(self, env_fns: list[Callable[[], gym.Env]]) -> None:
        if len(env_fns) == 0:
            raise ValueError(
                "DummyVecEnv needs at least one function that makes an environment, got an empty list."
            )
        self.envs = [_patch_env(fn()) for fn in env_fns]
        if len({id(env.unwrapped) for env in self.envs}) != len(self.envs):
            raise ValueError(
                "The functions passed to DummyVecEnv returned the same environment instance more than once. "
                "Let each call make a new one: not `make_vec_env(lambda: env)` or "
                "`DummyVecEnv([lambda: env] * n_envs)`, but a function that calls `gym.make(...)` itself."
            )
        env = self.envs[0]
        super().__init__(len(env_fns), env.observation_space, env.action_space)
        self.keys, shapes, dtypes = obs_space_info(env.observation_space)
        self.buf_obs = {key: np.zeros((self.num_envs, *shapes[key]), dtype=dtypes[key]) for key in self.keys}
        self.buf_dones = np.zeros((self.num_envs,), dtype=bool)
        self.buf_rews = np.zeros((self.num_envs,), dtype=np.float32)
        self.buf_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self.metadata = env.metadata

    def step_async(self, actions: np.ndarray) -> None:
        # As in SB3, more actions than environments are no error: the first ones are taken.
        if len(actions) < self.num_envs:
            raise ValueError(
                f"Expected one action for each of {self.num_envs} environments, got {len(actions)}."
            )
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        infos = []
        for index, env in enumerate(self.envs):
            obs, reward, terminated, truncated, env_info = env.step(self.actions[index])
            # The environment may reuse its info, so the keys added here go into a copy.
            info = {key: copy_value(value) for key, value in env_info.items()}
            done = bool(terminated or truncated)
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = copy_value(obs)
                obs, self.reset_infos[index] = env.reset()
            self.buf_rews[index] = reward
            self.buf_dones[index] = done
            self._save_obs(index, obs)
            infos.append(info)
        self.buf_infos = infos
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), list(infos)

    def reset(self) -> VecEnvObs:
        for index, env in enumerate(self.envs):
            options = self._options[index]
            # Environments that know no options are not bothered with an empty dict.
            kwargs: dict[str, Any] = {"options": options} if options else {}
            obs, self.reset_infos[index] = env.reset(seed=self._seeds[index], **kwargs)
            self._save_obs(index, obs)
        self._reset_seeds()
        self._reset_options()
        return self._obs_from_buf()

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            return no_images(self)
        images: list[Any] = [env.render() for env in self.envs]
        return images

    def _save_obs(self, env_idx: int, obs: Any) -> None:
        for key, buffer in self.buf_obs.items():
            buffer[env_idx] = obs if key is None else obs[key]

    def _obs_from_buf(self) -> VecEnvObs:
        return dict_to_obs(
            self.observation_space, {key: buffer.copy() for key, buffer in self.buf_obs.items()}
        )

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [env.get_wrapper_attr(attr_name) for env in self._get_target_envs(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for env in self._get_target_envs(indices):
            setattr(env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        targets = self._get_target_envs(indices)
        return [env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in targets]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [is_wrapped(env, wrapper_class) for env in self._get_target_envs(indices)]

    def _get_target_envs(self, indices: VecEnvIndices) -> list[gym.Env]:
        return [self.envs[index] for index in self._get_indices(indices)]
