"""Frame stacking."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper
from mlx_baselines3.common.vec_env.gym_vec_env import as_vec_env
from mlx_baselines3.common.vec_env.stacked_observations import StackedObservations


class VecFrameStack(VecEnvWrapper):
    """
    Stack the last ``n_stack`` observations.

    :param venv: vectorised environment with a Box or Dict observation space
    :param n_stack: number of observations to stack
    :param channels_order: ``"first"``, ``"last"``, None to detect it, or a dict of them for a Dict space;
        see :class:`StackedObservations`
    """

    def __init__(
        self, venv: VecEnv, n_stack: int, channels_order: str | Mapping[str, str | None] | None = None
    ) -> None:
        venv = as_vec_env(venv)
        space = venv.observation_space
        assert isinstance(space, spaces.Box | spaces.Dict), (
            f"VecFrameStack only works with gym.spaces.Box and gym.spaces.Dict observations, not {space}"
        )
        self.stacked_obs: StackedObservations[Any] = StackedObservations(
            venv.num_envs, n_stack, space, channels_order
        )
        super().__init__(venv, observation_space=self.stacked_obs.stacked_observation_space)

    def step_wait(
        self,
    ) -> tuple[np.ndarray | dict[str, np.ndarray], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observations, rewards, dones, infos = self.venv.step_wait()
        stacks, infos = self.stacked_obs.update(observations, dones, infos)
        return stacks, rewards, dones, infos

    def reset(self) -> np.ndarray | dict[str, np.ndarray]:
        """
        Start a new episode in every environment.

        :return: stacks of the first observations and zeros
        """
        stacks: np.ndarray | dict[str, np.ndarray] = self.stacked_obs.reset(self.venv.reset())
        return stacks
