"""Batches of many gradient steps, drawn from a replay buffer at once."""

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers._fields import arrays_of, stack
from mlx_baselines3.common.buffers._rows import check_batch_size
from mlx_baselines3.common.buffers.image_ring import ring_of
from mlx_baselines3.common.nn.integer_observations import check_integers, holds_integers
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.preprocessing import get_obs_shape

__all__ = ["FLUSH_BYTES", "replay_arrays", "replay_batches", "rows_of"]

# Bytes of batches that are gathered at once and passed to the device before the next ones. Enough for
# hundreds of gradient steps on vectors; images must not fill the memory.
FLUSH_BYTES = 1 << 27


def replay_batches(buffer: Any, count: int, batch_size: int, env: Any = None) -> Iterator[Arrays]:
    """
    Draw batches from a replay buffer, many in one call if the buffer supports it.

    :param buffer: a replay buffer. If it has no ``sample_many``, its ``sample`` is called for each batch
    :param count: number of batches
    :param batch_size: transitions in each
    :param env: a VecNormalize whose statistics normalise observations and rewards, or None
    :return: dictionaries of the fields of :class:`ReplayBufferSamples`; ``discounts`` only if present
    """
    if env is None and (ring := ring_of(buffer)) is not None:
        check_batch_size(batch_size)
        yield from ring.batches(buffer, count, batch_size)
        return
    if not hasattr(buffer, "sample_many"):
        for _ in range(count):
            yield _fields(buffer, buffer.sample(batch_size, env=env))
        return
    for at_once in _portions(buffer, count, batch_size):
        samples = _fields(buffer, buffer.sample_many(at_once, batch_size, env=env))
        rows = {name: rows_of(value, at_once) for name, value in samples.items()}
        for i in range(at_once):
            yield {name: value[i] for name, value in rows.items()}


def replay_arrays(buffer: Any, count: int, batch_size: int, env: Any = None) -> Iterator[dict[str, Any]]:
    """
    The batches of :func:`replay_batches`, with the same draws, for updates in Rust.

    :param buffer: a replay buffer. If it has no ``sample_arrays``, its ``sample`` is called for each batch
    :param count: number of batches
    :param batch_size: transitions in each
    :param env: a VecNormalize whose statistics normalise observations and rewards, or None
    :return: chunks of batches of bounded size: field of :class:`ReplayBufferSamples` -> C-contiguous NumPy
        array ``(batches, batch_size, ...)`` that owns its memory, or a dict of them; ``discounts`` only if
        present
    """
    for at_once in _portions(buffer, count, batch_size):
        if hasattr(buffer, "sample_arrays"):
            yield _fields(buffer, buffer.sample_arrays(at_once, batch_size, env=env))
        else:
            batches = [buffer.sample(batch_size, env=env) for _ in range(at_once)]
            yield _fields(buffer, arrays_of(stack(batches)))


def _portions(buffer: Any, count: int, batch_size: int) -> list[int]:
    """Sizes of the chunks of batches to gather at once; their sum is ``count``."""
    check_batch_size(batch_size)
    most = max(FLUSH_BYTES // (2 * batch_size * _observation_bytes(buffer.observation_space)), 1)
    return [min(most, count - start) for start in range(0, count, most)]


def _observation_bytes(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Dict):
        return sum(_observation_bytes(part) for part in space.spaces.values())
    return int(np.prod(np.array(get_obs_shape(space)))) * np.dtype(space.dtype).itemsize


def _fields(buffer: Any, samples: Any) -> dict[str, Any]:
    """
    :raises RuntimeError: an observation is outside of a Discrete or MultiDiscrete space
    """
    space = buffer.observation_space
    if holds_integers(space):
        # Checked here because the gradient step is compiled and cannot inspect values.
        for obs in (samples.observations, samples.next_observations):
            check_integers(obs, space, "transition")
    return {name: value for name, value in samples._asdict().items() if value is not None}


def rows_of(values: Any, count: int) -> list[Any]:
    """
    :param values: (count, ...) array, or a dictionary of them
    :param count: how many
    :return: the rows; parts of the same memory, where an index would copy each
    """
    if isinstance(values, Mapping):
        columns = {key: rows_of(value, count) for key, value in values.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(count)]
    return [row.squeeze(0) for row in (mx.split(values, count) if count > 1 else [values])]
