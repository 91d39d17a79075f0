"""Stretches of an off-policy algorithm in Rust: policy, exploration, environments and replay buffer.

What Python's generators decide is drawn ahead, each generator in the order of single steps: the coins of
an epsilon-greedy policy, random actions from the action space, the user's action noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3._native import CollectedTransitions
from mlx_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.native.interrupts import interrupts_allowed
from mlx_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

__all__ = ["CollectedTransitions", "Explorer", "fills", "noise_ahead"]

# Steps drawn ahead where an episode's end may make some of them useless.
MOST_IN_VAIN = 32
_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def fills(buffer: Any, action_space: spaces.Space[Any]) -> bool:
    """
    :param buffer: a replay buffer
    :param action_space: the action space
    :return: whether Rust can store steps as the buffer's own ``add`` does
    """
    if type(buffer) not in (ReplayBuffer, NStepReplayBuffer) or "add" in vars(buffer):
        return False
    choices = np.int64 if isinstance(action_space, spaces.Discrete) else np.float32
    rows = (buffer.buffer_size, buffer.n_envs)
    columns = [vars(buffer)[name] for name in _COLUMNS if name in vars(buffer)]
    return all(
        column.dtype == (choices if column is buffer.actions else np.float32)
        and column.flags.c_contiguous
        and column.shape[:2] == rows
        for column in columns
    )


def noise_ahead(noise: ActionNoise | None) -> list[ActionNoise] | None:
    """
    :param noise: the noise of all environments
    :return: the processes it consists of, if they are known to draw from NumPy's global generator and to
        give float32 numbers; else None
    """
    if noise is None:
        return []
    parts = noise.noises if type(noise) is VectorizedActionNoise else [noise]
    known = (NormalActionNoise, OrnsteinUhlenbeckActionNoise)
    if any(type(part) not in known or {"__call__", "reset"} & vars(part).keys() for part in parts):
        return None
    return parts if all(np.dtype(part._dtype) == np.float32 for part in parts) else None  # type: ignore[attr-defined]


class _Generators:
    """Where the generators are, to go back there when too much was drawn."""

    def __init__(self, space: spaces.Space[Any], walks: list[OrnsteinUhlenbeckActionNoise]):
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - SB3's generator
        self._space, self._space_state = space, space.np_random.bit_generator.state
        self._walks = [(walk, walk.noise_prev) for walk in walks]

    def restore(self) -> None:
        np.random.set_state(self._numpy)  # noqa: NPY002
        self._space.np_random.bit_generator.state = self._space_state
        for walk, before in self._walks:
            walk.noise_prev = before


class Explorer:
    """
    Takes steps in Rust, for one actor, environments and buffer.

    :param actor: the policy's twin, with the present weights
    :param envs: the environments
    :param buffer: the replay buffer; :func:`fills` is true of it
    :param action_space: the action space
    :param random_steps: says for a number of steps to come which of them take random actions
    :param noise: noise on scaled actions, of which :func:`noise_ahead` knows the parts
    """

    def __init__(
        self,
        actor: NativeActor,
        envs: _native.EnvBatch,
        buffer: ReplayBuffer,
        action_space: spaces.Space[Any],
        random_steps: Callable[[int], list[bool]],
        noise: ActionNoise | None = None,
    ):
        self.actor, self.envs, self.buffer, self.noise = actor, envs, buffer, noise
        self._space, self._random_steps = action_space, random_steps
        self._walks = [
            part for part in noise_ahead(noise) or [] if type(part) is OrnsteinUhlenbeckActionNoise
        ]
        none = np.empty(0, np.float32)
        self._bounds: _native.ActionBounds = {"low": none, "high": none}
        if isinstance(action_space, spaces.Box):
            self._bounds = {"low": action_space.low.ravel(), "high": action_space.high.ravel()}
        self._nothing = np.empty(0, buffer.actions.dtype)
        counted = buffer.timeouts if buffer.handle_timeout_termination else None
        following = buffer.next_observations if buffer._terminal is None else buffer._terminal
        self._columns: _native.ReplayColumns = {
            "observations": buffer.observations,
            "next_observations": following,
            "actions": buffer.actions,
            "rewards": buffer.rewards,
            "dones": buffer.dones,
            "timeouts": counted,
        }

    def explore(self, last_obs: np.ndarray, count: int, until_end: bool = False) -> CollectedTransitions:
        """
        Take steps and store them.

        :param last_obs: (n_envs, obs) observations to begin with
        :param count: most steps
        :param until_end: stop after a step that ends an episode
        :return: what happened. The buffer's cursor has moved; noise is not reset
        :raises ValueError: actor, environments and buffer do not fit each other; nothing has happened then
        :raises RuntimeError: the environments are closed or not reset
        """
        # A walk starts anew with each episode.
        until_end = until_end or bool(self._walks)
        generators = None
        if until_end and count > 1:
            count = min(count, MOST_IN_VAIN)
            generators = _Generators(self._space, self._walks)
        plan = self._draw(count)
        explored = self._run(last_obs, plan, until_end)
        if generators is not None and explored.n_steps < count:
            generators.restore()
            self._draw(explored.n_steps)
        return explored

    def _draw(self, count: int) -> tuple[list[bool], np.ndarray, np.ndarray | None]:
        """Which of the next steps are random, their actions, and the noise of all."""
        n_envs = self.buffer.n_envs
        random = self._random_steps(count)
        drawn, n_random = self._nothing, sum(random)
        if n_random:
            drawn = np.array([self._space.sample() for _ in range(n_random * n_envs)])
        if self.noise is None:
            return random, drawn, None
        noise = np.empty((count, n_envs, self.buffer.action_dim), np.float32)
        for i in range(count):
            noise[i] = self.noise()
        return random, drawn, noise

    def _run(
        self, last_obs: np.ndarray, plan: tuple[list[bool], np.ndarray, np.ndarray | None], until_end: bool
    ) -> CollectedTransitions:
        buffer = self.buffer
        random, drawn, noise = plan
        whole_plan: _native.ActionPlan = {
            "is_random": random,
            "random_actions": drawn,
            "noise": noise,
            "bounds": self._bounds,
            "until_end": until_end,
        }
        # A signal that is seen to in Rust comes back as an error, with the steps before it.
        with interrupts_allowed():
            explored = self.actor.collect_transitions(
                self.envs, last_obs, whole_plan, self._columns, buffer._cursor()
            )
        after = buffer.pos + explored.n_steps
        buffer.full = buffer.full or after >= buffer.buffer_size
        buffer.pos = after % buffer.buffer_size
        return explored
