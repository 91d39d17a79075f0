"""Rollout buffers: experience of on-policy algorithms."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common._types import DictRolloutBufferSamples, RolloutBufferSamples
from mlx_baselines3.common.buffers._draws import permutation
from mlx_baselines3.common.buffers._rows import check_batch_size, fit_action, fit_scalar
from mlx_baselines3.common.buffers.base import BaseBuffer, action_dtype

if TYPE_CHECKING:
    from mlx_baselines3.common.vec_env import VecNormalize

_SCALARS = ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages")
_SAMPLED_SCALARS = ("values", "log_probs", "advantages", "returns")


class RolloutBuffer(BaseBuffer):
    """
    The ``buffer_size`` latest steps of every environment with the current policy, as A2C and PPO need them.

    The columns are NumPy arrays over memory that Rust owns: ``observations``
    ``(buffer_size, n_envs, *obs_shape)`` and ``actions`` ``(buffer_size, n_envs, action_dim)`` in the
    dtypes of their spaces, and ``rewards``, ``values``, ``log_probs``, ``episode_starts``,
    ``advantages``, ``returns`` ``(buffer_size, n_envs)`` in float32. ``dead_steps`` ``(buffer_size, n_envs)``
    is True at steps that only reset an environment; None if there are none. They count as separate episodes
    and are excluded from minibatches.

    :param buffer_size: number of steps
    :param observation_space: observation space
    :param action_space: action space
    :param device: requested device, see :class:`BaseBuffer`
    :param gae_lambda: trade-off of bias (0) against variance (1, Monte Carlo) of the advantage
    :param gamma: discount factor
    :param n_envs: number of parallel environments
    :raises ValueError: ``buffer_size`` or ``n_envs`` is not at least 1
    :raises MemoryError: the columns do not fit into memory
    """

    rewards: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    episode_starts: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray
    dead_steps: np.ndarray | None = None
    # Columns of a subclass besides these, ``(buffer_size, n_envs, ...)`` float32: name -> shape of one entry.
    # They are flattened and sampled with the others.
    _extra_columns: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    # Rust may write the rows. Not inherited: subclasses may store something else.
    _rows_are_plain = True

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: mx.Device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ):
        super().__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.gae_lambda = gae_lambda
        self.gamma = gamma
        self.generator_ready = False
        self.reset()

    def reset(self) -> None:
        """Start an empty rollout in newly allocated memory; arrays returned earlier keep their values."""
        self._allocate(
            {
                **self._observation_columns("observations"),
                "actions": ((self.action_dim,), action_dtype(self.action_space)),
                **dict.fromkeys(_SCALARS, ((), np.float32)),
                **{name: (shape, np.float32) for name, shape in self._extra_columns.items()},
            }
        )
        self.generator_ready = False
        self.dead_steps = None
        super().reset()

    def compute_returns_and_advantage(self, last_values: mx.array | np.ndarray, dones: np.ndarray) -> None:
        """
        Fill ``advantages`` with GAE(lambda) (https://arxiv.org/abs/1506.02438) and ``returns`` with the
        TD(lambda) estimate, ``advantages + values``. With ``gae_lambda=1`` it is the Monte Carlo advantage:
        the discounted sum of rewards (plus the last value) minus the value.

        :param last_values: value of the observation after the last step, ``n_envs`` numbers
        :param dones: whether the last step ended an episode, ``n_envs`` flags
        :raises ValueError: not one number per environment, or the columns no longer have the shape
            ``(buffer_size, n_envs)``, as after :meth:`get`
        """
        shape = (self.buffer_size, self.n_envs)
        ends = [
            np.broadcast_to(fit_scalar(name, value, self.n_envs), self.n_envs)
            for name, value in (("last_values", last_values), ("dones", dones))
        ]
        for name in ("rewards", "values", "episode_starts", "advantages", "returns"):
            if self._column(name).shape != shape:
                raise ValueError(
                    f"{name} has shape {self._column(name).shape}, expected {shape}; call reset() first"
                )
        rewards, values, starts, last, ended = (
            np.ascontiguousarray(column, np.float32)
            for column in (self.rewards, self.values, self.episode_starts, *ends)
        )
        advantages, returns = (
            np.require(column, np.float32, ["C", "W"]) for column in (self.advantages, self.returns)
        )
        _native.gae(
            rewards=rewards,
            values=values,
            episode_starts=starts,
            last_values=last,
            dones=ended,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            advantages=advantages,
            returns=returns,
        )
        # The same arrays, unless a subclass has replaced columns by others of another dtype.
        self.advantages, self.returns = advantages, returns

    def add(
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: mx.array | np.ndarray,
        log_prob: mx.array | np.ndarray,
    ) -> None:
        """
        Store one step of every environment. After an error nothing is stored.

        :param obs: observations ``(n_envs, *obs_shape)``, or a dict of them
        :param action: actions ``(n_envs, ...)``
        :param reward: ``(n_envs,)``
        :param episode_start: whether ``obs`` is the first of an episode, ``(n_envs,)``
        :param value: value estimates of ``obs``, ``n_envs`` numbers
        :param log_prob: log probabilities of ``action``, ``n_envs`` numbers
        :raises ValueError: a shape does not fit
        :raises IndexError: the buffer is full
        """
        if self.pos >= self.buffer_size:
            raise IndexError(
                f"The {type(self).__name__} is full: {self.buffer_size} steps. Call reset() first."
            )
        rows = [
            *self._observation_rows("obs", obs, self.observations),
            (self.actions, fit_action(action, self.n_envs, self.action_dim)),
            (self.rewards, fit_scalar("reward", reward, self.n_envs)),
            (self.episode_starts, fit_scalar("episode_start", episode_start, self.n_envs)),
            (self.values, fit_scalar("value", value, self.n_envs)),
            (self.log_probs, fit_scalar("log_prob", log_prob, self.n_envs)),
        ]
        for column, row in rows:
            column[self.pos] = row
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True

    def flattened(self) -> dict[str, Any]:
        """
        The whole rollout; indexed by :meth:`shuffled_rows` it gives the minibatches of :meth:`get`.

        :return: ``observations`` (a dict for Dict spaces) and ``actions`` ``(n_envs * buffer_size, ...)`` in
            their stored dtypes, ``values``, ``log_probs``, ``advantages`` and ``returns``
            ``(n_envs * buffer_size,)`` float32; the first environment's steps first. Views if ``n_envs``
            is 1: read them before the next rollout
        :raises AssertionError: the buffer is not full
        """
        self._assert_full()
        flat = self._flat_columns()
        return {**flat, **{name: flat[name].reshape(-1) for name in _SAMPLED_SCALARS}}

    def as_stored(self) -> dict[str, Any]:
        """
        :return: the columns of :meth:`flattened` without a copy, step after step: :meth:`places` says where
        :raises AssertionError: the buffer is not full
        """
        self._assert_full()
        names = ("observations", "actions", *_SAMPLED_SCALARS, *self._extra_columns)
        return {name: _merge_axes(self.__dict__[name], self.generator_ready) for name in names}

    def places(self, rows: mx.array) -> mx.array:
        """
        :param rows: rows of :meth:`flattened`
        :return: the same rows of :meth:`as_stored`
        """
        if self.generator_ready:
            return rows
        return rows % self.buffer_size * self.n_envs + rows // self.buffer_size

    def shuffled_rows(self) -> np.ndarray:
        """
        Draw the order of one pass over the rollout.

        :return: rows of :meth:`flattened`, each once, without ``dead_steps``
        """
        # SB3's generator, SB3's order.
        order = permutation(self.buffer_size * self.n_envs)
        if self.dead_steps is None:
            return order
        return order[~self.dead_steps.T.reshape(-1)[order]]

    def _flat_columns(self) -> dict[str, Any]:
        names = ("observations", "actions", *_SAMPLED_SCALARS, *self._extra_columns)
        if self.generator_ready:
            return {name: self.__dict__[name] for name in names}
        return {name: _flatten(self, self.__dict__[name]) for name in names}

    def _assert_full(self) -> None:
        assert self.full, (
            f"The {type(self).__name__} holds {self.pos} of {self.buffer_size} steps; "
            "fill it before taking minibatches"
        )

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """
        Yield the rollout once in random order, without ``dead_steps``. The sampled columns are reshaped to
        ``(n_envs * buffer_size, ...)``, as in SB3, until :meth:`reset`.

        :param batch_size: rows per minibatch (the last may be shorter), ``None`` for a single one
        :return: minibatches as :class:`RolloutBufferSamples`
        :raises AssertionError: the buffer is not full
        :raises ValueError: ``batch_size`` is below 1
        """
        self._assert_full()
        if batch_size is None:
            batch_size = self.buffer_size * self.n_envs
        check_batch_size(batch_size)
        return self._minibatches(batch_size)

    def _minibatches(self, batch_size: int) -> Generator[Any, None, None]:
        indices = self.shuffled_rows().astype(np.intp)
        self.__dict__.update(self._flat_columns())
        self.generator_ready = True
        for start in range(0, len(indices), batch_size):
            yield self._get_samples(indices[start : start + batch_size])

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        return RolloutBufferSamples(
            self.to_torch(self.observations[batch_inds]), *self._scalar_samples(batch_inds)
        )

    def _scalar_samples(self, batch_inds: np.ndarray) -> list[mx.array]:
        # Policies take float32 actions for every space.
        actions = self.actions[batch_inds].astype(np.float32, copy=False)
        scalars = (self.__dict__[name][batch_inds].reshape(-1) for name in _SAMPLED_SCALARS)
        return [self.to_torch(array) for array in (actions, *scalars)]


def _merge_axes(column: Any, are_merged: bool) -> Any:
    if isinstance(column, dict):
        return {key: _merge_axes(array, are_merged) for key, array in column.items()}
    return column if are_merged else column.reshape(-1, *(column.shape[2:] or (1,)))


def _flatten(buffer: BaseBuffer, column: Any) -> Any:
    if isinstance(column, dict):
        return {key: buffer.swap_and_flatten(array) for key, array in column.items()}
    return buffer.swap_and_flatten(column)


class DictRolloutBuffer(RolloutBuffer):
    """
    :class:`RolloutBuffer` for Dict observation spaces: ``observations`` is a dict of columns.

    :param buffer_size: number of steps
    :param observation_space: observation space
    :param action_space: action space
    :param device: requested device, see :class:`BaseBuffer`
    :param gae_lambda: trade-off of bias (0) against variance (1, Monte Carlo) of the advantage
    :param gamma: discount factor
    :param n_envs: number of parallel environments
    :raises AssertionError: the space is not a Dict
    """

    _rows_are_plain = True
    obs_shape: dict[str, tuple[int, ...]]
    observations: dict[str, np.ndarray]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        device: mx.Device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ):
        assert isinstance(observation_space, spaces.Dict), (
            "DictRolloutBuffer must be used with Dict obs space only"
        )
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            gae_lambda=gae_lambda,
            gamma=gamma,
            n_envs=n_envs,
        )

    def _get_samples(
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> DictRolloutBufferSamples:
        observations = {key: self.to_torch(column[batch_inds]) for key, column in self.observations.items()}
        return DictRolloutBufferSamples(observations, *self._scalar_samples(batch_inds))
