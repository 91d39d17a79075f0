"""Those names of ``type_aliases`` that need no class of this package, for the modules that it imports."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol, SupportsFloat

import mlx.core as mx
import numpy as np

GymObs = tuple[Any, ...] | dict[str, Any] | np.ndarray | int
GymResetReturn = tuple[GymObs, dict[str, Any]]
AtariResetReturn = tuple[np.ndarray, dict[str, Any]]
GymStepReturn = tuple[GymObs, float, bool, bool, dict[str, Any]]
AtariStepReturn = tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]
TensorDict = dict[str, mx.array]
OptimizerStateDict = dict[str, Any]
# SB3's name for "an observation as the policy sees it"; here the tensors are MLX arrays.
PyTorchObs = mx.array | TensorDict

# From the progress remaining (1 at the start, 0 at the end) to a value such as the learning rate.
Schedule = Callable[[float], float]


class RolloutBufferSamples(NamedTuple):
    """
    One minibatch of a rollout, ``n`` rows.

    :param observations: ``(n, *obs_shape)``
    :param actions: ``(n, action_dim)``
    :param old_values: value estimates when the actions were taken, ``(n,)``
    :param old_log_prob: log probabilities when the actions were taken, ``(n,)``
    :param advantages: GAE advantages, ``(n,)``
    :param returns: advantages plus values, ``(n,)``
    """

    observations: mx.array
    actions: mx.array
    old_values: mx.array
    old_log_prob: mx.array
    advantages: mx.array
    returns: mx.array


class DictRolloutBufferSamples(NamedTuple):
    """
    :class:`RolloutBufferSamples` for a ``Dict`` observation space.

    :param observations: one array ``(n, *shape)`` for each key
    :param actions: ``(n, action_dim)``
    :param old_values: ``(n,)``
    :param old_log_prob: ``(n,)``
    :param advantages: ``(n,)``
    :param returns: ``(n,)``
    """

    observations: TensorDict
    actions: mx.array
    old_values: mx.array
    old_log_prob: mx.array
    advantages: mx.array
    returns: mx.array


class ReplayBufferSamples(NamedTuple):
    """
    One batch of transitions, ``n`` rows.

    :param observations: ``(n, *obs_shape)``
    :param actions: ``(n, action_dim)``
    :param next_observations: ``(n, *obs_shape)``
    :param dones: 1 where the episode really ended (a time limit does not count), ``(n, 1)``
    :param rewards: ``(n, 1)``
    :param discounts: ``gamma ** steps`` for n-step returns, ``(n, 1)``; ``None`` for one-step ones
    """

    observations: mx.array
    actions: mx.array
    next_observations: mx.array
    dones: mx.array
    rewards: mx.array
    discounts: mx.array | None = None


class DictReplayBufferSamples(NamedTuple):
    """
    :class:`ReplayBufferSamples` for a ``Dict`` observation space.

    :param observations: one array ``(n, *shape)`` for each key
    :param actions: ``(n, action_dim)``
    :param next_observations: one array ``(n, *shape)`` for each key
    :param dones: ``(n, 1)``
    :param rewards: ``(n, 1)``
    :param discounts: ``(n, 1)`` or ``None``
    """

    observations: TensorDict
    actions: mx.array
    next_observations: TensorDict
    dones: mx.array
    rewards: mx.array
    discounts: mx.array | None = None


class RolloutReturn(NamedTuple):
    """
    What an off-policy rollout reports.

    :param episode_timesteps: environment steps collected
    :param n_episodes: episodes that ended
    :param continue_training: False when a callback asked to stop
    """

    episode_timesteps: int
    n_episodes: int
    continue_training: bool


class TrainFrequencyUnit(Enum):
    """What ``train_freq`` counts: environment steps or episodes."""

    STEP = "step"
    EPISODE = "episode"


class TrainFreq(NamedTuple):
    """
    How much to collect between two updates.

    :param frequency: how many
    :param unit: of what
    """

    frequency: int
    unit: TrainFrequencyUnit


class PolicyPredictor(Protocol):
    """Anything that maps observations to actions: an algorithm, a policy, or a user's own object."""

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions for one observation or a batch of them.

        :param observation: one observation, or a batch with a leading axis ``n_envs``
        :param state: hidden state of a recurrent policy
        :param episode_start: True where an episode has just begun, so that the hidden state is dropped,
            ``(n_envs,)``
        :param deterministic: take the most likely action instead of sampling
        :return: the actions and the next hidden state
        """
