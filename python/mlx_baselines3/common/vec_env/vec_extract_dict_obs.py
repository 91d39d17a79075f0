"""One entry of dict observations."""

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvStepReturn, VecEnvWrapper
from mlx_baselines3.common.vec_env.gym_vec_env import as_vec_env


class VecExtractDictObs(VecEnvWrapper):
    """
    Keep only one entry of dict observations.

    :param venv: vectorised environment with a Dict observation space
    :param key: the entry to keep
    :raises AssertionError: if the observation space is not a Dict
    :raises KeyError: if the space has no such entry
    """

    def __init__(self, venv: VecEnv, key: str) -> None:
        self.key = key
        venv = as_vec_env(venv)
        space = venv.observation_space
        assert isinstance(space, spaces.Dict), (
            f"VecExtractDictObs can only be used with Dict obs space, not {space}"
        )
        if key not in space.spaces:
            raise KeyError(f"The observations have no entry {key!r}, only {list(space.spaces)}.")
        super().__init__(venv=venv, observation_space=space.spaces[key])

    def reset(self) -> np.ndarray:
        """
        Start a new episode in every environment.

        :return: the entry ``key`` of the first observations
        """
        obs = self.venv.reset()
        assert isinstance(obs, dict)
        return obs[self.key]

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, dict)
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = info["terminal_observation"][self.key]
        return obs[self.key], rewards, dones, infos
