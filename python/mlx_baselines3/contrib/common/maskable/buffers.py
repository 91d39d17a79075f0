"""Rollout buffers that remember which actions were allowed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_baselines3.common._types import TensorDict
from mlx_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from mlx_baselines3.contrib.common.maskable.utils import check_masks, mask_groups

__all__ = [
    "MaskableDictRolloutBuffer",
    "MaskableDictRolloutBufferSamples",
    "MaskableRolloutBuffer",
    "MaskableRolloutBufferSamples",
]


class MaskableRolloutBufferSamples(NamedTuple):
    """A minibatch; ``action_masks`` are ``(batch, choices)`` float32, 1 where a choice was allowed."""

    observations: mx.array
    actions: mx.array
    old_values: mx.array
    old_log_prob: mx.array
    advantages: mx.array
    returns: mx.array
    action_masks: mx.array


class MaskableDictRolloutBufferSamples(NamedTuple):
    """A minibatch with Dict observations, else as :class:`MaskableRolloutBufferSamples`."""

    observations: TensorDict
    actions: mx.array
    old_values: mx.array
    old_log_prob: mx.array
    advantages: mx.array
    returns: mx.array
    action_masks: mx.array


class MaskableRolloutBuffer(RolloutBuffer):
    """
    :class:`RolloutBuffer` with a column ``action_masks`` ``(buffer_size, n_envs, choices)`` in float32: 1
    where a choice was allowed. ``mask_dims`` is the number of choices.

    :param buffer_size: number of steps
    :param observation_space: observation space
    :param action_space: Discrete, MultiDiscrete or MultiBinary
    :param device: requested device, see :class:`BaseBuffer`
    :param gae_lambda: trade-off of bias (0) against variance (1, Monte Carlo) of the advantage
    :param gamma: discount factor
    :param n_envs: number of parallel environments
    :raises ValueError: the action space is of another kind
    """

    _rows_are_plain = True
    action_masks: np.ndarray

    @property
    def _extra_columns(self) -> Mapping[str, tuple[int, ...]]:  # type: ignore[override]
        return {"action_masks": (self.mask_dims,)}

    def reset(self) -> None:
        """Start an empty rollout in newly allocated memory, all actions allowed."""
        self.mask_dims = sum(mask_groups(self.action_space))
        super().reset()
        self.action_masks.fill(1)

    def add(self, *args: Any, action_masks: np.ndarray | None = None, **kwargs: Any) -> None:
        """
        Store one step of every environment. After an error nothing is stored.

        :param args: as for :meth:`RolloutBuffer.add`
        :param action_masks: which actions were allowed, ``(n_envs, choices)``; all if None
        :param kwargs: as for :meth:`RolloutBuffer.add`
        :raises ValueError: a shape does not fit, or a mask allows nothing
        :raises IndexError: the buffer is full
        """
        row = self.pos
        masks = None
        if action_masks is not None:
            masks = check_masks(action_masks, mask_groups(self.action_space), self.n_envs)
        super().add(*args, **kwargs)
        if masks is not None:
            self.action_masks[row] = masks

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        plain = super()._get_samples(batch_inds, env)
        return MaskableRolloutBufferSamples._make((*plain, self._mask_samples(batch_inds)))

    def _mask_samples(self, batch_inds: np.ndarray) -> mx.array:
        return self.to_torch(self.action_masks[batch_inds].reshape(-1, self.mask_dims))


class MaskableDictRolloutBuffer(MaskableRolloutBuffer, DictRolloutBuffer):
    """
    :class:`MaskableRolloutBuffer` for Dict observation spaces: ``observations`` is a dict of columns.

    :param buffer_size: number of steps
    :param observation_space: observation space
    :param action_space: Discrete, MultiDiscrete or MultiBinary
    :param device: requested device, see :class:`BaseBuffer`
    :param gae_lambda: trade-off of bias (0) against variance (1, Monte Carlo) of the advantage
    :param gamma: discount factor
    :param n_envs: number of parallel environments
    :raises AssertionError: the space is not a Dict
    :raises ValueError: the action space is of another kind
    """

    _rows_are_plain = True

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        plain = DictRolloutBuffer._get_samples(self, batch_inds, env)
        return MaskableDictRolloutBufferSamples._make((*plain, self._mask_samples(batch_inds)))
