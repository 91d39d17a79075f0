"""Rollout buffers that remember the states of LSTMs, and hand out sequences."""

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from mlx_baselines3.common.buffers._rows import check_batch_size
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.contrib.common.recurrent.type_aliases import (
    RecurrentDictRolloutBufferSamples,
    RecurrentRolloutBufferSamples,
    RNNStates,
)

__all__ = [
    "RecurrentDictRolloutBuffer",
    "RecurrentRolloutBuffer",
    "Sequences",
    "create_sequencers",
    "pad",
    "pad_and_flatten",
]

# The states before each step, in the order of RNNStates.
STATES = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
_SCALARS = ("values", "log_probs", "advantages", "returns", "episode_starts")


def pad(
    seq_start_indices: np.ndarray,
    seq_end_indices: np.ndarray,
    device: mx.Device | str,
    tensor: np.ndarray,
    padding_value: float = 0.0,
) -> mx.array:
    """
    Cut rows into sequences of the same length.

    :param seq_start_indices: the first row of each sequence
    :param seq_end_indices: the last row of each
    :param device: not used: MLX's arrays are on all devices
    :param tensor: (rows, ...)
    :param padding_value: what stands after the end of shorter sequences
    :return: (n_seq, length of the longest, ...)
    """
    ends = np.minimum(seq_end_indices + 1, len(tensor))
    longest = int((ends - seq_start_indices).max())
    padded = np.full((len(ends), longest, *tensor.shape[1:]), padding_value, tensor.dtype)
    for row, start, end in zip(padded, seq_start_indices, ends, strict=True):
        row[: end - start] = tensor[start:end]
    return to_mlx(padded)


def pad_and_flatten(
    seq_start_indices: np.ndarray,
    seq_end_indices: np.ndarray,
    device: mx.Device | str,
    tensor: np.ndarray,
    padding_value: float = 0.0,
) -> mx.array:
    """
    As :func:`pad`, with one axis.

    :param seq_start_indices: the first row of each sequence
    :param seq_end_indices: the last row of each
    :param device: not used: MLX's arrays are on all devices
    :param tensor: (rows,) or (rows, 1)
    :param padding_value: what stands after the end of shorter sequences
    :return: (n_seq * length,)
    """
    return pad(seq_start_indices, seq_end_indices, device, tensor, padding_value).reshape(-1)


def create_sequencers(
    episode_starts: np.ndarray, env_change: np.ndarray, device: mx.Device | str
) -> tuple[np.ndarray, Callable[..., mx.array], Callable[..., mx.array]]:
    """
    Find the sequences of a minibatch: a new one starts with each episode and each environment.

    :param episode_starts: (rows,) whether a new episode begins
    :param env_change: (rows,) whether the rows of another environment begin
    :param device: passed to the other two functions
    :return: the first row of each sequence, and :func:`pad` and :func:`pad_and_flatten` for these sequences
    """
    starts = Sequences.of(episode_starts, env_change).starts
    ends = np.append(starts[1:] - 1, len(episode_starts))
    return starts, partial(pad, starts, ends, device), partial(pad_and_flatten, starts, ends, device)


class Sequences(NamedTuple):
    """
    The sequences of a minibatch.

    :param starts: (n_seq,) the first row of each
    :param rows: (n_seq, length) the rows of each, 0 on padding
    :param is_real: (n_seq, length) False on padding
    """

    starts: np.ndarray
    rows: np.ndarray
    is_real: np.ndarray

    @classmethod
    def of(cls, episode_starts: np.ndarray, env_change: np.ndarray, few_shapes: bool = False) -> "Sequences":
        """
        :param episode_starts: (rows,) or (rows, 1), whether a new episode begins
        :param env_change: the same, whether the rows of another environment begin
        :param few_shapes: pad the number of sequences and their length to powers of two, so that compiled
            steps fit many minibatches
        :return: the sequences
        """
        is_start = np.logical_or(episode_starts, env_change).reshape(-1)
        is_start[0] = True
        starts = np.flatnonzero(is_start)
        lengths = np.diff(np.append(starts, len(is_start)))
        shape = len(starts), int(lengths.max())
        if few_shapes:
            shape = tuple(1 << (size - 1).bit_length() for size in shape)  # type: ignore[assignment]
        rows, is_real = np.zeros(shape, np.int64), np.zeros(shape, bool)
        # Row by row the places of a sequence, then those after its end.
        is_real[: len(starts)] = np.arange(shape[1]) < lengths[:, None]
        rows[is_real] = np.arange(len(is_start))
        return cls(starts, rows, is_real)


class RecurrentRolloutBuffer(RolloutBuffer):
    """
    :class:`RolloutBuffer` with the states of the LSTMs before each step: ``hidden_states_pi``,
    ``cell_states_pi``, ``hidden_states_vf`` and ``cell_states_vf`` ``(buffer_size, layers, n_envs, hidden)``.

    :param buffer_size: number of steps
    :param observation_space: observation space
    :param action_space: action space
    :param hidden_state_shape: (buffer_size, layers, n_envs, hidden)
    :param device: requested device, see :class:`BaseBuffer`
    :param gae_lambda: trade-off of bias (0) against variance (1, Monte Carlo) of the advantage
    :param gamma: discount factor
    :param n_envs: number of parallel environments
    """

    hidden_states_pi: np.ndarray
    cell_states_pi: np.ndarray
    hidden_states_vf: np.ndarray
    cell_states_vf: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        hidden_state_shape: tuple[int, int, int, int],
        device: mx.Device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ):
        self.hidden_state_shape = hidden_state_shape
        self.seq_start_indices: np.ndarray | None = None
        self.seq_end_indices: np.ndarray | None = None
        super().__init__(
            buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs=n_envs
        )

    def reset(self) -> None:
        """Start an empty rollout in newly allocated memory."""
        super().reset()
        for name in STATES:
            setattr(self, name, np.zeros(self.hidden_state_shape, np.float32))

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:  # type: ignore[override]
        """
        Store one step of every environment.

        :param args: as for :meth:`RolloutBuffer.add`
        :param lstm_states: the states before the step, (layers, n_envs, hidden) each
        :param kwargs: as for :meth:`RolloutBuffer.add`
        :raises ValueError: a shape does not fit; nothing is stored then
        :raises IndexError: the buffer is full
        """
        row = self.pos
        arrays = [to_numpy(array) for array in (*lstm_states.pi, *lstm_states.vf)]
        if [array.shape for array in arrays] != [self.hidden_state_shape[1:]] * 4:
            raise ValueError(
                f"lstm_states have the shapes {[array.shape for array in arrays]}, expected four times "
                f"{self.hidden_state_shape[1:]}: (layers, n_envs, hidden)."
            )
        super().add(*args, **kwargs)
        for name, array in zip(STATES, arrays, strict=True):
            getattr(self, name)[row] = array

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """
        Yield the rollout once, cut at a random row into minibatches of sequences. The columns are reshaped to
        ``(n_envs * buffer_size, ...)``, as in sb3-contrib, until :meth:`reset`.

        :param batch_size: rows per minibatch without padding (the last may be shorter), None for a single one
        :return: minibatches as :class:`RecurrentRolloutBufferSamples`
        :raises AssertionError: the buffer is not full
        :raises ValueError: ``batch_size`` is below 1
        """
        self._assert_full()
        check_batch_size(self.buffer_size * self.n_envs if batch_size is None else batch_size)
        return self._sequences_of(batch_size)

    def _sequences_of(self, batch_size: int | None) -> Generator[Any, None, None]:
        self.flatten()
        env_change = self.env_change()
        for batch_inds in self.minibatches(batch_size):
            yield self._get_samples(batch_inds, env_change)

    def flatten(self) -> None:
        """Reshape the columns so that the steps of each environment follow each other."""
        if self.generator_ready:
            return
        columns = {**self._flat_columns(), **self._flat_memory(), "episode_starts": self._flat_starts()}
        self.__dict__.update(columns)
        self.generator_ready = True

    def env_change(self) -> np.ndarray:
        """:return: (n_envs * buffer_size, 1) 1 at the first step of each environment"""
        change = np.zeros((self.n_envs, self.buffer_size), np.float32)
        change[:, 0] = 1
        return change.reshape(-1, 1)

    def shuffled_rows(self) -> np.ndarray:
        """
        Draw the order of one pass over the rollout: that of time, environment after environment, from a
        random row on.

        :return: rows of :meth:`flattened`, each once, without ``dead_steps``
        """
        count = self.buffer_size * self.n_envs
        split = np.random.randint(count)  # noqa: NPY002 - sb3-contrib's generator, sb3-contrib's minibatches
        order = np.roll(np.arange(count), -split)
        return order if self.dead_steps is None else order[~self.dead_steps.T.reshape(-1)[order]]

    def minibatches(self, batch_size: int | None) -> Iterator[np.ndarray]:
        """
        :param batch_size: rows per minibatch, None for all
        :return: the rows of each minibatch of one pass
        """
        order = self.shuffled_rows()
        size = batch_size or len(order)
        return (order[start : start + size] for start in range(0, len(order), size))

    def flattened(self) -> dict[str, Any]:
        """
        As :meth:`RolloutBuffer.flattened`, with ``episode_starts`` and the states before each step
        ``(n_envs * buffer_size, layers, hidden)``.

        :return: the columns of the whole rollout
        :raises AssertionError: the buffer is not full
        """
        columns = super().flattened()
        return {**columns, **self._flat_memory(), "episode_starts": self._flat_starts()}

    def _flat_starts(self) -> np.ndarray:
        return self.episode_starts if self.generator_ready else self.swap_and_flatten(self.episode_starts)

    def _flat_memory(self) -> dict[str, np.ndarray]:
        columns = {name: getattr(self, name) for name in STATES}
        if self.generator_ready:
            return columns
        return {name: self.swap_and_flatten(column.swapaxes(1, 2)) for name, column in columns.items()}

    def sequences(self, batch_inds: np.ndarray, env_change: np.ndarray) -> Sequences:
        """
        :param batch_inds: rows of the flattened buffer
        :param env_change: as :meth:`env_change` gives it
        :return: their sequences in few shapes; ``rows`` and ``starts`` are rows of the flattened buffer
        """
        parts = Sequences.of(self.episode_starts[batch_inds], env_change[batch_inds], few_shapes=True)
        return parts._replace(starts=batch_inds[parts.starts], rows=batch_inds[parts.rows])

    def _get_samples(self, batch_inds: np.ndarray, env_change: np.ndarray, env: Any = None) -> Any:  # type: ignore[override]
        starts, self.pad, self.pad_and_flatten = create_sequencers(
            self.episode_starts[batch_inds], env_change[batch_inds], self.device
        )
        self.seq_start_indices = starts
        # Policies take float32 actions for every space.
        actions = self.pad(self.actions[batch_inds].astype(np.float32, copy=False))
        rows = actions.shape[0] * actions.shape[1]
        scalars = {name: self.pad_and_flatten(getattr(self, name)[batch_inds]) for name in _SCALARS}
        states = [self.to_torch(getattr(self, name)[batch_inds][starts].swapaxes(0, 1)) for name in STATES]
        mask = self.pad_and_flatten(np.ones(len(batch_inds), np.float32))
        return self._samples(
            self._padded_observations(batch_inds, rows),
            actions.reshape(rows, -1),
            *(scalars[name] for name in _SCALARS[:-1]),
            RNNStates((states[0], states[1]), (states[2], states[3])),
            scalars["episode_starts"],
            mask,
        )

    _samples: Callable[..., Any] = RecurrentRolloutBufferSamples

    def _padded_observations(self, batch_inds: np.ndarray, rows: int) -> Any:
        return self.pad(self.observations[batch_inds]).reshape(rows, *self.obs_shape)


class RecurrentDictRolloutBuffer(RecurrentRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """
    :class:`RecurrentRolloutBuffer` for Dict observation spaces: ``observations`` is a dict of columns.

    :param buffer_size: number of steps
    :param observation_space: observation space
    :param action_space: action space
    :param hidden_state_shape: (buffer_size, layers, n_envs, hidden)
    :param device: requested device, see :class:`BaseBuffer`
    :param gae_lambda: trade-off of bias (0) against variance (1, Monte Carlo) of the advantage
    :param gamma: discount factor
    :param n_envs: number of parallel environments
    :raises AssertionError: the space is not a Dict
    """

    _samples = RecurrentDictRolloutBufferSamples

    def _padded_observations(self, batch_inds: np.ndarray, rows: int) -> Any:
        return {
            key: self.pad(column[batch_inds]).reshape(rows, *self.obs_shape[key])
            for key, column in self.observations.items()
        }
