"""Categorical distributions some of whose choices can be forbidden."""

from abc import abstractmethod
from typing import Any, TypeAlias, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.distributions import Distribution
from mlx_baselines3.common.distributions.probability import Categorical
from mlx_baselines3.common.nn.interop import to_mlx
from mlx_baselines3.common.nn.layers import Linear
from mlx_baselines3.contrib.common.maskable.utils import mask_groups

__all__ = [
    "MaskableBernoulliDistribution",
    "MaskableCategorical",
    "MaskableCategoricalDistribution",
    "MaskableDistribution",
    "MaskableMultiCategoricalDistribution",
    "MaybeMasks",
    "make_masked_proba_distribution",
]

MaybeMasks: TypeAlias = mx.array | np.ndarray | None
SelfCategorical = TypeVar("SelfCategorical", bound="MaskableCategoricalDistribution")
SelfMultiCategorical = TypeVar("SelfMultiCategorical", bound="MaskableMultiCategoricalDistribution")

# The logit of a forbidden choice. Its probability is exactly 0 in float32, and its log-probability is finite.
_FORBIDDEN = -1e8


class MaskableCategorical(Categorical):
    """
    Distributions over the integers 0 … n-1, some of which may be forbidden.

    :param probs: (..., n) probabilities up to a factor, instead of ``logits``
    :param logits: (..., n) unnormalised log probabilities
    :param validate_args: for compatibility with sb3-contrib
    :param masks: True where a choice is allowed, as many as logits
    :raises ValueError: neither or both of ``probs`` and ``logits`` are given
    """

    def __init__(
        self,
        probs: mx.array | None = None,
        logits: mx.array | None = None,
        validate_args: bool | None = None,
        masks: MaybeMasks = None,
    ):
        if (probs is None) == (logits is None):
            raise ValueError("Give MaskableCategorical either probs or logits.")
        if probs is not None:
            logits = mx.log(probs / probs.sum(axis=-1, keepdims=True))
        assert logits is not None
        super().__init__(logits)
        self._original_logits = self.logits
        self.masks: mx.array | None = None
        if masks is not None:
            self.apply_masking(masks)

    def apply_masking(self, masks: MaybeMasks) -> None:
        """
        Forbid choices, in place of those that were forbidden before.

        :param masks: True where a choice is allowed, as many as logits; None allows all. A row that allows
            nothing has no meaning: policies and buffers reject it before it comes here
        """
        if masks is None:
            self.masks, self.logits = None, self._original_logits
            return
        allowed = masks if isinstance(masks, mx.array) else to_mlx(np.asarray(masks) != 0)
        self.masks = allowed.astype(mx.bool_).reshape(self._original_logits.shape)
        logits = mx.where(self.masks, self._original_logits, _FORBIDDEN)
        self.logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    def entropy(self) -> mx.array:
        """:return: (...) ``-sum p log p`` over the choices that are allowed"""
        if self.masks is None:
            return super().entropy()
        logits = mx.where(self.masks, self.logits, 0.0)
        return -mx.where(self.masks, mx.exp(logits) * logits, 0.0).sum(axis=-1)


class MaskableDistribution(Distribution):
    """A distribution over actions whose choices can be forbidden."""

    @abstractmethod
    def apply_masking(self, masks: MaybeMasks) -> None:
        """
        Forbid choices, in place of those that were forbidden before.

        :param masks: (batch, choices) True where a choice is allowed; None allows all
        """

    @abstractmethod
    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """:return: the layer of the logits"""

    def actions_from_params(self, action_logits: mx.array, deterministic: bool = False) -> mx.array:
        """
        :param action_logits: (batch, n_logits)
        :param deterministic: return the most likely actions instead of samples
        :return: (batch, ...) actions
        """
        return self.proba_distribution(action_logits).get_actions(deterministic)

    def log_prob_from_params(self, action_logits: mx.array) -> tuple[mx.array, mx.array]:
        """
        :param action_logits: (batch, n_logits)
        :return: (batch, ...) samples and their (batch,) log likelihood
        """
        actions = self.actions_from_params(action_logits)
        return actions, self.log_prob(actions)


class MaskableCategoricalDistribution(MaskableDistribution):
    """
    One choice, for Discrete actions.

    :param action_dim: number of choices
    """

    distribution: MaskableCategorical

    def __init__(self, action_dim: int):
        self.action_dim = action_dim

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """
        :param latent_dim: length of the policy's features
        :return: the layer of the logits
        """
        return Linear(latent_dim, self.action_dim)

    def proba_distribution(self: SelfCategorical, action_logits: mx.array) -> SelfCategorical:
        """
        :param action_logits: (batch, action_dim)
        :return: self
        """
        self.distribution = MaskableCategorical(logits=action_logits.reshape(-1, self.action_dim))
        return self

    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch,) integers
        :return: (batch,) log probability
        """
        return self.distribution.log_prob(actions)

    def entropy(self) -> mx.array:
        """:return: (batch,) entropy in nats"""
        return self.distribution.entropy()

    def sample(self) -> mx.array:
        """:return: (batch,) int64 samples"""
        return self.distribution.sample()

    def mode(self) -> mx.array:
        """:return: (batch,) int64, the most probable choices"""
        return self.distribution.mode()

    def apply_masking(self, masks: MaybeMasks) -> None:
        self.distribution.apply_masking(masks)


class MaskableMultiCategoricalDistribution(MaskableDistribution):
    """
    Independent choices, for MultiDiscrete actions.

    :param action_dims: number of choices of each action component
    """

    def __init__(self, action_dims: list[int]):
        self.distributions: list[MaskableCategorical] = []
        self.action_dims = [int(n) for n in action_dims]

    def __getstate__(self) -> dict[str, Any]:
        # Arrays of the last forward pass are not state.
        return {**super().__getstate__(), "distributions": []}

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """
        :param latent_dim: length of the policy's features
        :return: the layer of all logits, component after component
        """
        return Linear(latent_dim, sum(self.action_dims))

    def proba_distribution(self: SelfMultiCategorical, action_logits: mx.array) -> SelfMultiCategorical:
        """
        :param action_logits: (batch, sum of action_dims)
        :return: self
        """
        rows = action_logits.reshape(-1, sum(self.action_dims))
        self.distributions = [MaskableCategorical(logits=logits) for logits in self._split(rows)]
        return self

    def _split(self, rows: mx.array) -> list[mx.array]:
        ends = np.cumsum(self.action_dims)[:-1].tolist()
        parts: Any = mx.split(rows, ends, axis=1)
        return list(parts)

    def _choices(self) -> list[MaskableCategorical]:
        assert len(self.distributions) > 0, "Must set distribution parameters: call proba_distribution first."
        return self.distributions

    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch, n_components) integers
        :return: (batch,) log probability
        """
        rows = actions.reshape(-1, len(self.action_dims))
        parts = [choice.log_prob(rows[:, i]) for i, choice in enumerate(self._choices())]
        return mx.stack(parts, axis=1).sum(axis=1)

    def entropy(self) -> mx.array:
        """:return: (batch,) entropy in nats"""
        return mx.stack([choice.entropy() for choice in self._choices()], axis=1).sum(axis=1)

    def sample(self) -> mx.array:
        """:return: (batch, n_components) int64 samples"""
        return mx.stack([choice.sample() for choice in self._choices()], axis=1)

    def mode(self) -> mx.array:
        """:return: (batch, n_components) int64, the most probable choices"""
        return mx.stack([choice.mode() for choice in self._choices()], axis=1)

    def apply_masking(self, masks: MaybeMasks) -> None:
        choices = self._choices()
        if masks is None:
            parts: list[Any] = [None] * len(choices)
        else:
            allowed = masks if isinstance(masks, mx.array) else to_mlx(np.asarray(masks) != 0)
            parts = self._split(allowed.reshape(-1, sum(self.action_dims)))
        for choice, part in zip(choices, parts, strict=True):
            choice.apply_masking(part)


class MaskableBernoulliDistribution(MaskableMultiCategoricalDistribution):
    """
    A choice between 0 and 1 for each component, for MultiBinary actions. Unlike the Bernoulli distribution of
    PPO it has two logits for each.

    :param action_dim: number of action components
    """

    def __init__(self, action_dim: int):
        super().__init__([2] * action_dim)


def make_masked_proba_distribution(action_space: spaces.Space[Any]) -> MaskableDistribution:
    """
    Create the distribution for an action space.

    :param action_space: Discrete, MultiDiscrete or MultiBinary
    :return: a distribution without parameters
    :raises NotImplementedError: for any other space
    """
    kinds = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, kinds):
        raise NotImplementedError(
            f"No masked probability distribution for the action space {action_space} "
            f"({type(action_space).__name__}): it must be a Discrete, MultiDiscrete or MultiBinary."
        )
    groups = mask_groups(action_space)
    if isinstance(action_space, spaces.Discrete):
        return MaskableCategoricalDistribution(groups[0])
    if isinstance(action_space, spaces.MultiDiscrete):
        return MaskableMultiCategoricalDistribution(groups)
    return MaskableBernoulliDistribution(len(groups))
