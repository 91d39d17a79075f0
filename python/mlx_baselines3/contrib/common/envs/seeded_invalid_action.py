"""The environment with forbidden actions that Rust steps, too."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["SeededInvalidActionEnv"]


class SeededInvalidActionEnv(gym.Env[np.ndarray, int]):
    """
    :class:`InvalidActionEnvDiscrete` with 80 actions and Gymnasium's seeds, registered as
    ``mlx_baselines3/InvalidAction-v0`` with episodes of 100 steps. ``NativeVecEnv`` steps it in Rust, with
    the same numbers.

    The observation has a 1 at the action that gives the reward 1. ``state`` is that action, then for each
    action whether it is allowed.

    :param n_invalid_actions: actions that are forbidden at each step
    :param render_mode: None
    :raises ValueError: every action would be forbidden, or the number is negative
    """

    N_ACTIONS = 80

    def __init__(self, n_invalid_actions: int = 60, render_mode: str | None = None):
        if not 0 <= n_invalid_actions < self.N_ACTIONS:
            raise ValueError(
                f"n_invalid_actions is {n_invalid_actions}, expected 0 to {self.N_ACTIONS - 1}: one of "
                f"{self.N_ACTIONS} actions gives the reward and is always allowed."
            )
        self.n_invalid_actions = n_invalid_actions
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (self.N_ACTIONS,), np.float32)
        self.action_space = spaces.Discrete(self.N_ACTIONS)  # type: ignore[assignment]
        self.state: np.ndarray | None = None

    def _draw(self) -> np.ndarray:
        draws = self.np_random.random(1 + self.N_ACTIONS)
        right, keys = int(draws[0] * self.N_ACTIONS), draws[1:]
        # Above all others: never among the smallest.
        keys[right] = 2.0
        allowed = np.ones(self.N_ACTIONS)
        allowed[np.argsort(keys, kind="stable")[: int(self.n_invalid_actions)]] = 0
        self.state = np.concatenate([[right], allowed])
        return (np.arange(self.N_ACTIONS) == right).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: seed of the generator
        :param options: not used
        :return: the first observation, and an empty info
        """
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: the choice
        :return: observation, reward, False, False and an empty info
        """
        assert self.state is not None, "Call reset before step."
        reward = float(action == self.state[0])
        return self._draw(), reward, False, False, {}

    def action_masks(self) -> np.ndarray:
        """:return: (80,) whether each action is allowed"""
        assert self.state is not None, "Call reset before asking for masks."
        masks: np.ndarray = np.asarray(self.state[1:], dtype=bool)
        return masks
