"""Batches out of a replay buffer, as NumPy arrays and as MLX's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_baselines3 import _native
from mlx_baselines3.common._types import DictReplayBufferSamples, ReplayBufferSamples
from mlx_baselines3.common.buffers._draws import randint
from mlx_baselines3.common.buffers._fields import (
    arrays_of,
    columns_of,
    each,
    new_to_mlx,
    not_cut,
    split,
    stack,
)
from mlx_baselines3.common.buffers._rows import check_batch_size
from mlx_baselines3.common.buffers._scratch import Scratch, ScratchPool
from mlx_baselines3.common.buffers.base import BaseBuffer, as_bytes

if TYPE_CHECKING:
    from mlx_baselines3.common.vec_env import VecNormalize


class SampledBuffer(BaseBuffer):
    """What :class:`ReplayBuffer` does to draw transitions and to gather what its columns hold of them."""

    next_observations: Any
    rewards: np.ndarray
    dones: np.ndarray
    timeouts: np.ndarray
    optimize_memory_usage: bool
    _terminal: _native.TerminalObs | None
    _scratch: ScratchPool

    def _draw_rows(self, batch_size: int) -> np.ndarray:
        if not (self.optimize_memory_usage and self.full):
            return super()._draw_rows(batch_size)
        check_batch_size(batch_size)
        if self.buffer_size == 1:
            raise ValueError("With optimize_memory_usage, a buffer of one row has no transition to sample")
        # Row `pos` holds the newest next observation, which is the observation of no transition.
        return (randint(1, self.buffer_size, batch_size) + self.pos) % self.buffer_size

    def _draw_envs(self, batch_inds: np.ndarray) -> np.ndarray:
        return randint(0, self.n_envs, len(batch_inds))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw transitions with replacement.

        :param batch_size: number of transitions
        :param env: normalises observations and rewards with its statistics, if given
        :return: the samples as ``mx.array``
        :raises ValueError: ``batch_size`` is below 1 or the buffer is empty
        """
        fields = self._ready_fields(1, batch_size, flat=True)
        return super().sample(batch_size, env) if fields is None else self._fields_to_mlx(fields, env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        return self._collect(batch_inds, self._draw_envs(batch_inds), env)

    def _ready_fields(self, n_batches: int, batch_size: int, flat: bool) -> _native.SampledBatches | None:
        """
        Batches as they are stored, in new arrays, if no subclass and no instance does any of this in its own
        way, and the columns need but be copied.
        """
        kind = type(self)
        if (
            kind._get_samples is not SampledBuffer._get_samples
            or kind._gather_many is not SampledBuffer._gather_many
            or kind._gather is not SampledBuffer._gather
            or kind.size is not BaseBuffer.size
            or "_get_samples" in self.__dict__
            or type(batch_size) is not int
            or batch_size < 1
        ):
            return None
        return _native.sample_batches(self.__dict__, n_batches, batch_size, flat)

    def _normalized(self, batches: _native.SampledBatches, env: VecNormalize | None) -> Any:
        rewards = batches.rewards if env is None else self._normalize_reward(batches.rewards, env)
        return self._samples(
            batches.observations, batches.actions, batches.next_observations, batches.dones, rewards, env
        )

    def sample_many(self, n_batches: int, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw the batches of many gradient steps at once, with the draws of ``n_batches`` calls of
        :meth:`sample`, and gather them in one go.

        :param n_batches: number of batches
        :param batch_size: transitions of each
        :param env: normalises observations and rewards with its statistics, if given
        :return: samples whose arrays have the axes ``(n_batches, batch_size)`` in front
        :raises ValueError: a number is below 1 or the buffer is empty
        """
        check_batch_size(n_batches, "n_batches")
        if not self._samples_as_here():
            return stack([self.sample(batch_size, env) for _ in range(n_batches)])
        fields = self._ready_fields(n_batches, batch_size, flat=False) if env is None else None
        if fields is not None:
            return self._fields_to_mlx(fields, env)
        with self._scratch.lend() as scratch:
            return self._to_mlx(self._gather_many(n_batches, batch_size, env, scratch), env)

    def sample_arrays(self, n_batches: int, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        :meth:`sample_many` for updates that are not MLX's: the same draws, and the same numbers.

        :param n_batches: number of batches
        :param batch_size: transitions of each
        :param env: normalises observations and rewards with its statistics, if given
        :return: samples of C-contiguous NumPy arrays in memory of their own (float32 where a column has
            float64), with the axes ``(n_batches, batch_size)`` in front
        :raises ValueError: a number is below 1 or the buffer is empty
        """
        check_batch_size(n_batches, "n_batches")
        many = getattr(self.sample_many, "__func__", None)
        if many is not SampledBuffer.sample_many or self._converts_itself() or not self._samples_as_here():
            return arrays_of(self.sample_many(n_batches, batch_size, env))
        return arrays_of(self._gather_many(n_batches, batch_size, env, Scratch()))

    def _samples_as_here(self) -> bool:
        """Whether no subclass has its own idea of sampling, which `sample_many` must then call."""
        kind = type(self)
        return kind.sample is SampledBuffer.sample and kind._get_samples is SampledBuffer._get_samples

    def _gather_many(
        self, n_batches: int, batch_size: int, env: VecNormalize | None, scratch: Scratch
    ) -> Any:
        # Normalisation is shown one axis of transitions, as always.
        fields = self._ready_fields(n_batches, batch_size, flat=env is not None)
        if fields is not None:
            samples = self._normalized(fields, env)
            return samples if env is None else split(samples, n_batches)
        draws = []
        for _ in range(n_batches):
            rows = self._draw_rows(batch_size)
            draws.append((rows, self._draw_envs(rows)))
        rows, envs = (np.concatenate(parts) for parts in zip(*draws, strict=True))
        return split(self._gather(rows, envs, env, scratch), n_batches)

    def _take(
        self,
        rows: np.ndarray,
        envs: np.ndarray,
        *stores: Any,
        scratch: Scratch | None = None,
        names: str = "",
    ) -> list[Any]:
        """
        Rows of many columns, or dicts of columns, in one call to Rust.

        :param rows: rows to take, counted on past the end of the buffer
        :param envs: their environments
        :param stores: columns, or dicts of columns
        :param scratch: memory to gather into; None for new arrays
        :param names: what to call that memory, so that two calls do not share it
        :return: for each store an array, or a dict of arrays
        """
        dicts = dict in map(type, stores)
        columns = [column for store in stores for column in columns_of(store)] if dicts else list(stores)
        rows, envs = np.asarray(rows, np.int64), np.asarray(envs, np.int64)
        taken = (scratch or Scratch()).arrays(names, len(rows), columns)
        if not _native.take_batch(columns, taken, rows, envs, self.buffer_size, self.n_envs):
            flat = rows % self.buffer_size * self.n_envs + envs
            _native.gather(list(map(as_bytes, columns)), list(map(as_bytes, taken)), flat)
        if not dicts:
            return taken
        left = iter(taken)
        return [
            {key: next(left) for key in store} if isinstance(store, dict) else next(left) for store in stores
        ]

    def _take_next(self, rows: np.ndarray, envs: np.ndarray, scratch: Scratch) -> Any:
        """The observations that followed the transitions of ``rows``."""
        if self._terminal is None:
            (next_obs,) = self._take(rows, envs, self.next_observations, scratch=scratch, names="next")
            return next_obs
        (next_obs,) = self._take(rows + 1, envs, self.observations, scratch=scratch, names="next")
        transitions = (rows % self.buffer_size).astype(np.int64) * self.n_envs + envs
        self._terminal.patch(transitions, as_bytes(next_obs))
        return next_obs

    def _collect(self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> Any:
        # What leaves are copies: MLX's arrays have memory of their own.
        with self._scratch.lend() as scratch:
            return self._to_mlx(self._gather(rows, envs, env, scratch), env)

    def _gather(self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None, scratch: Scratch) -> Any:
        """Samples of NumPy arrays, in the memory of ``scratch``."""
        stores = [self.observations, self.actions, self.rewards, self.dones, self.timeouts]
        if self._terminal is None:
            stores.append(self.next_observations)
        obs, actions, rewards, dones, timeouts, *after = self._take(rows, envs, *stores, scratch=scratch)
        next_obs = after[0] if after else self._take_next(rows, envs, scratch)
        rewards = self._normalize_reward(rewards.reshape(-1, 1), env)
        really = not_cut(dones, timeouts).reshape(-1, 1)
        return self._samples(obs, actions, next_obs, really, rewards, env)

    def _samples(
        self,
        obs: Any,
        actions: np.ndarray,
        next_obs: Any,
        dones: np.ndarray,
        rewards: np.ndarray,
        env: VecNormalize | None,
        discounts: np.ndarray | None = None,
    ) -> Any:
        """Samples of NumPy arrays; observations are normalised here."""
        kind = DictReplayBufferSamples if isinstance(obs, dict) else ReplayBufferSamples
        if env is not None:
            obs, next_obs = self._normalize_obs(obs, env), self._normalize_obs(next_obs, env)
        fields: tuple[Any, ...] = (obs, actions, next_obs, dones, rewards, discounts)
        return kind(*fields)

    def _fields_to_mlx(self, batches: _native.SampledBatches, env: VecNormalize | None) -> Any:
        obs, next_obs = batches.observations, batches.next_observations
        # Two samples and as many calls as there are arrays, saved for the usual kind.
        if (
            env is None
            and isinstance(obs, np.ndarray)
            and isinstance(next_obs, np.ndarray)
            and not self._converts_itself()
        ):
            fields = (obs, batches.actions, next_obs, batches.dones, batches.rewards)
            return ReplayBufferSamples(*new_to_mlx(fields))
        return self._to_mlx(self._normalized(batches, env), env)

    def _to_mlx(self, samples: Any, env: VecNormalize | None) -> Any:
        """Samples of MLX arrays, of those that were gathered here and went through `env`."""
        if env is not None or self._converts_itself():
            return each(samples, self.to_torch)
        return each(samples, lambda array: new_to_mlx((array,))[0])

    def _converts_itself(self) -> bool:
        return type(self).to_torch is not BaseBuffer.to_torch or "to_torch" in self.__dict__
