"""Environments that reward repeating the observation as the action, and one that only shows images."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import GymStepReturn

T = TypeVar("T", int, np.ndarray)


class IdentityEnv(gym.Env[Any, Any], Generic[T]):
    """
    The reward is 1 for an action equal to the observation, else 0.

    :param dim: number of actions, 1 when neither this nor ``space`` is given
    :param space: the observation and action space, instead of ``dim``
    :param ep_length: steps in an episode
    :raises AssertionError: both ``dim`` and ``space`` are given
    """

    state: T

    def __init__(
        self, dim: int | None = None, space: spaces.Space[Any] | None = None, ep_length: int = 100
    ) -> None:
        assert dim is None or space is None, (
            "arguments for both 'dim' and 'space' provided: at most one allowed"
        )
        if space is None:
            space = spaces.Discrete(1 if dim is None else dim)
        self.action_space = self.observation_space = space
        self.ep_length = ep_length
        self.current_step = 0
        # the reset below does not count
        self.num_resets = -1
        self.reset()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[T, dict[str, Any]]:
        if seed is not None:
            super().reset(seed=seed)
        self.current_step = 0
        self.num_resets += 1
        self._choose_next_state()
        return self.state, {}

    def step(self, action: T) -> tuple[T, float, bool, bool, dict[str, Any]]:
        reward = self._get_reward(action)
        self._choose_next_state()
        self.current_step += 1
        return self.state, reward, False, self.current_step >= self.ep_length, {}

    def _choose_next_state(self) -> None:
        self.state = self.action_space.sample()

    def _get_reward(self, action: T) -> float:
        return 1.0 if np.all(self.state == action) else 0.0

    def render(self, mode: str = "human") -> None:
        """
        There is nothing to see.

        :param mode: not used
        """


class IdentityEnvBox(IdentityEnv[np.ndarray]):
    """
    :class:`IdentityEnv` with one continuous action.

    :param low: lower bound
    :param high: upper bound
    :param eps: how far off an action may be
    :param ep_length: steps in an episode
    """

    def __init__(self, low: float = -1.0, high: float = 1.0, eps: float = 0.05, ep_length: int = 100) -> None:
        super().__init__(
            space=spaces.Box(low=low, high=high, shape=(1,), dtype=np.float32), ep_length=ep_length
        )
        self.eps = eps

    def _get_reward(self, action: np.ndarray) -> float:
        return 1.0 if (self.state - self.eps) <= action <= (self.state + self.eps) else 0.0


class IdentityEnvMultiDiscrete(IdentityEnv[np.ndarray]):
    """
    :class:`IdentityEnv` with two discrete actions at once.

    :param dim: values of each action
    :param ep_length: steps in an episode
    """

    def __init__(self, dim: int = 1, ep_length: int = 100) -> None:
        super().__init__(space=spaces.MultiDiscrete([dim, dim]), ep_length=ep_length)


class IdentityEnvMultiBinary(IdentityEnv[np.ndarray]):
    """
    :class:`IdentityEnv` with binary actions.

    :param dim: number of bits
    :param ep_length: steps in an episode
    """

    def __init__(self, dim: int = 1, ep_length: int = 100) -> None:
        super().__init__(space=spaces.MultiBinary(dim), ep_length=ep_length)


class FakeImageEnv(gym.Env[Any, Any]):
    """
    Random images, no reward, episodes of 10 steps: the shape of an Atari game and nothing else.

    :param action_dim: number of discrete actions
    :param screen_height: height of the image
    :param screen_width: width of the image
    :param n_channels: channels of the image
    :param discrete: discrete actions; else five continuous ones
    :param channel_first: ``(channels, height, width)`` instead of ``(height, width, channels)``
    """

    def __init__(
        self,
        action_dim: int = 6,
        screen_height: int = 84,
        screen_width: int = 84,
        n_channels: int = 1,
        discrete: bool = True,
        channel_first: bool = False,
    ) -> None:
        size = (screen_height, screen_width)
        self.observation_shape = (n_channels, *size) if channel_first else (*size, n_channels)
        self.observation_space = spaces.Box(low=0, high=255, shape=self.observation_shape, dtype=np.uint8)
        self.action_space: spaces.Space[Any]
        if discrete:
            self.action_space = spaces.Discrete(action_dim)
        else:
            self.action_space = spaces.Box(low=-1, high=1, shape=(5,), dtype=np.float32)
        self.ep_length = 10
        self.current_step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            super().reset(seed=seed)
        self.current_step = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray | int) -> GymStepReturn:
        self.current_step += 1
        return self.observation_space.sample(), 0.0, False, self.current_step >= self.ep_length, {}

    def render(self, mode: str = "human") -> None:
        """
        There is nothing to see.

        :param mode: not used
        """
