"""
Environments that reward the action equal to the observation, and forbid some of the others at each step.

The states come from the action space's generator and the forbidden choices from NumPy's global one, as in
sb3-contrib: one seed gives the same episodes.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.envs import IdentityEnv

__all__ = ["InvalidActionEnvDiscrete", "InvalidActionEnvMultiBinary", "InvalidActionEnvMultiDiscrete"]


class _InvalidActions:
    """
    Draws what is forbidden.

    ``possible_actions`` numbers the choices of all components of an action one after the other.
    """

    possible_actions: np.ndarray
    invalid_actions: list[int]
    n_invalid_actions: int

    def _forbid_other_than(self, right: list[int]) -> None:
        candidates = [choice for choice in self.possible_actions if choice not in right]
        chosen = np.random.choice(candidates, self.n_invalid_actions, replace=False)  # noqa: NPY002 - the same draws
        self.invalid_actions = chosen.tolist()

    def action_masks(self) -> list[bool]:
        """:return: for each choice whether it is allowed"""
        return [choice not in self.invalid_actions for choice in self.possible_actions]


class InvalidActionEnvDiscrete(_InvalidActions, IdentityEnv[int]):
    """
    One choice out of ``dim``.

    :param dim: number of actions, 1 by default
    :param ep_length: steps of an episode
    :param n_invalid_actions: actions that are forbidden at each step
    :raises AssertionError: every action would be forbidden
    """

    action_space: spaces.Discrete

    def __init__(self, dim: int | None = None, ep_length: int = 100, n_invalid_actions: int = 0):
        dim = 1 if dim is None else dim
        assert n_invalid_actions < dim, (
            f"Too many invalid actions: n_invalid_actions={n_invalid_actions} must be less than dim={dim}."
        )
        self.n_invalid_actions = n_invalid_actions
        self.possible_actions = np.arange(dim, dtype=int)
        self.invalid_actions = []
        super().__init__(space=spaces.Discrete(dim), ep_length=ep_length)

    def _choose_next_state(self) -> None:
        self.state: Any = self.action_space.sample()
        self._forbid_other_than([int(self.state)])


class InvalidActionEnvMultiDiscrete(_InvalidActions, IdentityEnv[np.ndarray]):
    """
    One choice for each component of a MultiDiscrete action.

    :param dims: numbers of choices, ``[1, 1]`` by default
    :param ep_length: steps of an episode
    :param n_invalid_actions: choices that are forbidden at each step, over all components
    :raises ValueError: some component could be left without a choice
    """

    action_space: spaces.MultiDiscrete

    def __init__(self, dims: list[int] | None = None, ep_length: int = 100, n_invalid_actions: int = 0):
        dims = [1, 1] if dims is None else dims
        if n_invalid_actions > sum(dims) - len(dims):
            raise ValueError(
                f"n_invalid_actions={n_invalid_actions} may leave a component without a valid action. Set "
                f"n_invalid_actions <= {sum(dims) - len(dims)} for dims={dims}."
            )
        self.n_invalid_actions = n_invalid_actions
        self.possible_actions = np.arange(sum(dims))
        self.invalid_actions = []
        super().__init__(space=spaces.MultiDiscrete(dims), ep_length=ep_length)

    def _choose_next_state(self) -> None:
        self.state = self.action_space.sample()
        starts = np.cumsum(self.action_space.nvec) - self.action_space.nvec
        self._forbid_other_than((starts + self.state).tolist())


class InvalidActionEnvMultiBinary(_InvalidActions, IdentityEnv[np.ndarray]):
    """
    A 0 or a 1 for each component of a MultiBinary action; either may be forbidden.

    :param dims: number of components, 1 by default
    :param ep_length: steps of an episode
    :param n_invalid_actions: choices that are forbidden at each step, over all components
    :raises ValueError: some component would be left without a choice
    """

    action_space: spaces.MultiBinary

    def __init__(self, dims: int | None = None, ep_length: int = 100, n_invalid_actions: int = 0):
        dims = 1 if dims is None else dims
        if n_invalid_actions > dims:
            raise ValueError(
                f"n_invalid_actions={n_invalid_actions} leaves a component without a valid action. Set "
                f"n_invalid_actions <= {dims} for dims={dims}."
            )
        self.n_dims = dims
        self.n_invalid_actions = n_invalid_actions
        self.possible_actions = np.arange(2 * dims)
        self.invalid_actions = []
        super().__init__(space=spaces.MultiBinary(dims), ep_length=ep_length)

    def _choose_next_state(self) -> None:
        self.state = self.action_space.sample()
        self._forbid_other_than((2 * np.arange(self.n_dims) + self.state).tolist())
