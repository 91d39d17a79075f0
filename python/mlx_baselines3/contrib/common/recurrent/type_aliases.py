"""States of LSTMs, and minibatches of sequences."""

from typing import NamedTuple

import mlx.core as mx

from mlx_baselines3.common._types import TensorDict

__all__ = ["RNNStates", "RecurrentDictRolloutBufferSamples", "RecurrentRolloutBufferSamples"]


class RNNStates(NamedTuple):
    """Hidden and cell states ``(layers, batch, hidden)`` of the actor's LSTM and of the critic's."""

    pi: tuple[mx.array, ...]
    vf: tuple[mx.array, ...]


class RecurrentRolloutBufferSamples(NamedTuple):
    """
    A minibatch of sequences padded to the same length, one after the other: ``(n_seq * length, ...)``.
    ``mask`` is 0 on padding, ``lstm_states`` are those before the first step of each sequence.
    """

    observations: mx.array
    actions: mx.array
    old_values: mx.array
    old_log_prob: mx.array
    advantages: mx.array
    returns: mx.array
    lstm_states: RNNStates
    episode_starts: mx.array
    mask: mx.array


class RecurrentDictRolloutBufferSamples(NamedTuple):
    """A minibatch with Dict observations, else as :class:`RecurrentRolloutBufferSamples`."""

    observations: TensorDict
    actions: mx.array
    old_values: mx.array
    old_log_prob: mx.array
    advantages: mx.array
    returns: mx.array
    lstm_states: RNNStates
    episode_starts: mx.array
    mask: mx.array
