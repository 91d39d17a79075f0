"""Episode returns and lengths of a whole vectorised environment."""

import time
import warnings
from typing import Any

import numpy as np

from mlx_baselines3.common.monitor import Monitor, ResultsWriter
from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn, VecEnvWrapper
from mlx_baselines3.common.vec_env.gym_vec_env import as_vec_env


class VecMonitor(VecEnvWrapper):
    """
    Measure episodes as ``Monitor`` does, for environments that are born vectorised.

    The last step of an episode carries ``info["episode"]`` with its return ``r`` (float32), its length ``l``
    (int32) and the time ``t`` in seconds since the wrapper was made.

    :param venv: the vectorised environment
    :param filename: where to write one line per episode; None for no file
    :param info_keywords: keys of the info of an episode's last step whose values are logged
    """

    def __init__(
        self, venv: VecEnv, filename: str | None = None, info_keywords: tuple[str, ...] = ()
    ) -> None:
        venv = as_vec_env(venv)
        if _wrapped_with(venv, Monitor):
            warnings.warn(
                "The environment is already wrapped with a `Monitor` wrapper but you are wrapping it with a "
                "`VecMonitor` wrapper: its statistics will be overwritten by those of `VecMonitor`.",
                UserWarning,
                stacklevel=2,
            )
        super().__init__(venv)
        self.episode_count = 0
        self.t_start = time.time()
        self.results_writer: ResultsWriter | None = None
        if filename:
            spec = getattr(venv, "spec", None)
            env_id = None if spec is None else spec.id
            self.results_writer = ResultsWriter(
                filename, header={"t_start": self.t_start, "env_id": str(env_id)}, extra_keys=info_keywords
            )
        self.info_keywords = info_keywords
        self._start_counting()

    def _start_counting(self) -> None:
        self.episode_returns = np.zeros(self.num_envs, dtype=np.float32)
        self.episode_lengths = np.zeros(self.num_envs, dtype=np.int32)

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self._start_counting()
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.episode_returns += rewards
        self.episode_lengths += 1
        new_infos = list(infos)
        for index in np.flatnonzero(dones):
            if "autoreset_step" in infos[index]:
                # This step only resets; see GymVecEnv.
                self.episode_returns[index] = self.episode_lengths[index] = 0
                continue
            new_infos[index] = {**infos[index], "episode": self._finish_episode(int(index), infos[index])}
        return obs, rewards, dones, new_infos

    def _finish_episode(self, index: int, info: dict[str, Any]) -> dict[str, Any]:
        episode = {
            "r": self.episode_returns[index],
            "l": self.episode_lengths[index],
            "t": round(time.time() - self.t_start, 6),
            **{key: info[key] for key in self.info_keywords},
        }
        self.episode_count += 1
        self.episode_returns[index] = 0
        self.episode_lengths[index] = 0
        if self.results_writer is not None:
            self.results_writer.write_row(episode)
        return episode

    def close(self) -> None:
        """Close the file and the environments."""
        if self.results_writer is not None:
            self.results_writer.close()
        self.venv.close()


def _wrapped_with(venv: VecEnv, wrapper_class: Any) -> bool:
    try:
        return venv.env_is_wrapped(wrapper_class)[0]
    except AttributeError:
        # Environments that are born vectorised may lack this part of the interface.
        return False
