"""Probability distributions over actions, one per kind of action space."""

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.distributions.base import Distribution, TanhBijector, sum_independent_dims
from mlx_baselines3.common.distributions.probability import Bernoulli, Categorical, Normal
from mlx_baselines3.common.distributions.state_dependent_noise import StateDependentNoiseDistribution
from mlx_baselines3.common.nn.layers import Linear
from mlx_baselines3.common.preprocessing import get_action_dim

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "np")

__all__ = [
    "BernoulliDistribution",
    "CategoricalDistribution",
    "DiagGaussianDistribution",
    "Distribution",
    "MultiCategoricalDistribution",
    "SquashedDiagGaussianDistribution",
    "StateDependentNoiseDistribution",
    "TanhBijector",
    "get_action_dim",
    "kl_divergence",
    "make_proba_distribution",
    "sum_independent_dims",
]


class DiagGaussianDistribution(Distribution):
    """
    Independent Gaussians, for continuous actions.

    :param action_dim: number of action components
    """

    distribution: Normal

    def __init__(self, action_dim: int):
        self.action_dim = action_dim

    def proba_distribution_net(
        self, latent_dim: int, log_std_init: float = 0.0
    ) -> tuple[nn.Module, mx.array]:
        """
        :param latent_dim: length of the policy's features
        :param log_std_init: initial value of every log standard deviation
        :return: the layer of the means, and (action_dim,) log standard deviations
        """
        return Linear(latent_dim, self.action_dim), mx.full((self.action_dim,), float(log_std_init))

    def proba_distribution(self, mean_actions: mx.array, log_std: mx.array) -> "DiagGaussianDistribution":
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: (action_dim,) or (batch, action_dim)
        :return: self
        """
        # The standard deviation stays (action_dim,) if possible, so that its exponential and logarithm are
        # computed once, not per row.
        self.distribution = Normal(mean_actions, mx.exp(log_std))
        return self

    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch, action_dim)
        :return: (batch,) log likelihood
        """
        return sum_independent_dims(self.distribution.log_prob(actions))

    def entropy(self) -> mx.array | None:
        """:return: (batch,) entropy in nats"""
        return sum_independent_dims(self.distribution.entropy())

    def sample(self, noise: mx.array | None = None) -> mx.array:
        """
        :param noise: (batch, action_dim) standard normals; drawn from MLX's generator by default
        :return: (batch, action_dim) reparametrised samples
        """
        return self.distribution.sample(noise)

    def mode(self) -> mx.array:
        """:return: (batch, action_dim) means"""
        return self.distribution.mean

    def actions_from_params(
        self, mean_actions: mx.array, log_std: mx.array, deterministic: bool = False
    ) -> mx.array:
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: (action_dim,) or (batch, action_dim)
        :param deterministic: return the means instead of samples
        :return: (batch, action_dim) actions
        """
        return self.proba_distribution(mean_actions, log_std).get_actions(deterministic)

    def log_prob_from_params(self, mean_actions: mx.array, log_std: mx.array) -> tuple[mx.array, mx.array]:
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: (action_dim,) or (batch, action_dim)
        :return: (batch, action_dim) samples and their (batch,) log likelihood
        """
        actions = self.actions_from_params(mean_actions, log_std)
        return actions, self.log_prob(actions)


class SquashedDiagGaussianDistribution(DiagGaussianDistribution):
    """
    Independent Gaussians squashed by tanh, so that actions stay in (-1, 1). Appendix C of
    https://arxiv.org/abs/1812.05905.

    :param action_dim: number of action components
    :param epsilon: keeps the logarithm of tanh's derivative finite
    """

    def __init__(self, action_dim: int, epsilon: float = 1e-6):
        super().__init__(action_dim)
        self.epsilon = epsilon
        self.gaussian_actions: mx.array | None = None

    def log_prob(self, actions: mx.array, gaussian_actions: mx.array | None = None) -> mx.array:
        """
        ``sum(log N(u) - log(1 - a^2 + epsilon))`` with ``a = tanh(u)``

        :param actions: (batch, action_dim) squashed actions a
        :param gaussian_actions: the actions u before squashing, by default recovered from ``actions``
        :return: (batch,) log likelihood
        """
        if gaussian_actions is None:
            gaussian_actions = TanhBijector.inverse(actions)
        log_prob = super().log_prob(gaussian_actions)
        return log_prob - mx.log(1 - mx.square(actions) + self.epsilon).sum(axis=1)

    def entropy(self) -> mx.array | None:
        """:return: None: there is no closed form, estimate it by ``-log_prob``"""
        return None

    def sample(self, noise: mx.array | None = None) -> mx.array:
        """
        :param noise: (batch, action_dim) standard normals; drawn from MLX's generator by default
        :return: (batch, action_dim) squashed reparametrised samples
        """
        self.gaussian_actions = super().sample(noise)
        return mx.tanh(self.gaussian_actions)

    def mode(self) -> mx.array:
        """:return: (batch, action_dim) squashed means"""
        self.gaussian_actions = super().mode()
        return mx.tanh(self.gaussian_actions)

    def log_prob_from_params(
        self, mean_actions: mx.array, log_std: mx.array, noise: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: (action_dim,) or (batch, action_dim)
        :param noise: (batch, action_dim) standard normals; drawn from MLX's generator by default
        :return: (batch, action_dim) squashed samples and their (batch,) log likelihood
        """
        self.proba_distribution(mean_actions, log_std)
        # A subclass's `sample` may be SB3's, without arguments.
        actions = self.sample() if noise is None else self.sample(noise)
        return actions, self.log_prob(actions, self.gaussian_actions)


class _LogitsDistribution(Distribution):
    """Base class of distributions whose only parameters are logits."""

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


class CategoricalDistribution(_LogitsDistribution):
    """
    Categorical distribution, for Discrete actions.

    :param action_dim: number of categories
    """

    distribution: Categorical

    def __init__(self, action_dim: int):
        self.action_dim = action_dim

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """
        :param latent_dim: length of the policy's features
        :return: the layer of the logits
        """
        return Linear(latent_dim, self.action_dim)

    def proba_distribution(self, action_logits: mx.array) -> "CategoricalDistribution":
        """
        :param action_logits: (batch, action_dim)
        :return: self
        """
        self.distribution = Categorical(action_logits)
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
        """:return: (batch,) int64, the most probable categories"""
        return self.distribution.mode()


class MultiCategoricalDistribution(_LogitsDistribution):
    """
    Independent categorical distributions, for MultiDiscrete actions.

    :param action_dims: number of categories of each action component
    """

    distribution: list[Categorical]

    def __init__(self, action_dims: list[int]):
        self.action_dims = [int(n) for n in action_dims]

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """
        :param latent_dim: length of the policy's features
        :return: the layer of all logits, concatenated
        """
        return Linear(latent_dim, sum(self.action_dims))

    def proba_distribution(self, action_logits: mx.array) -> "MultiCategoricalDistribution":
        """
        :param action_logits: (batch, sum of action_dims)
        :return: self
        """
        starts = [sum(self.action_dims[:i]) for i in range(1, len(self.action_dims))]
        self.distribution = [Categorical(logits) for logits in mx.split(action_logits, starts, axis=1)]
        return self

    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch, n_components) integers
        :return: (batch,) log probability
        """
        parts = [choice.log_prob(actions[:, i]) for i, choice in enumerate(self.distribution)]
        return mx.stack(parts, axis=1).sum(axis=1)

    def entropy(self) -> mx.array:
        """:return: (batch,) entropy in nats"""
        return mx.stack([choice.entropy() for choice in self.distribution], axis=1).sum(axis=1)

    def sample(self) -> mx.array:
        """:return: (batch, n_components) int64 samples"""
        return mx.stack([choice.sample() for choice in self.distribution], axis=1)

    def mode(self) -> mx.array:
        """:return: (batch, n_components) int64, the most probable categories"""
        return mx.stack([choice.mode() for choice in self.distribution], axis=1)


class BernoulliDistribution(_LogitsDistribution):
    """
    Independent Bernoulli distributions, for MultiBinary actions.

    :param action_dims: number of action components
    """

    distribution: Bernoulli

    def __init__(self, action_dims: int):
        self.action_dims = action_dims

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """
        :param latent_dim: length of the policy's features
        :return: the layer of the logits
        """
        return Linear(latent_dim, self.action_dims)

    def proba_distribution(self, action_logits: mx.array) -> "BernoulliDistribution":
        """
        :param action_logits: (batch, action_dims)
        :return: self
        """
        self.distribution = Bernoulli(action_logits)
        return self

    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch, action_dims) zeros and ones
        :return: (batch,) log probability
        """
        return self.distribution.log_prob(actions).sum(axis=1)

    def entropy(self) -> mx.array:
        """:return: (batch,) entropy in nats"""
        return self.distribution.entropy().sum(axis=1)

    def sample(self) -> mx.array:
        """:return: (batch, action_dims) float32 zeros and ones"""
        return self.distribution.sample()

    def mode(self) -> mx.array:
        """:return: (batch, action_dims) float32, the more likely value of each component"""
        return self.distribution.mode()


def make_proba_distribution(
    action_space: spaces.Space[Any], use_sde: bool = False, dist_kwargs: dict[str, Any] | None = None
) -> Distribution:
    """
    Create the distribution for an action space.

    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary
    :param use_sde: for a Box, :class:`StateDependentNoiseDistribution` instead of a plain Gaussian
    :param dist_kwargs: further arguments of the distribution's class
    :return: a distribution without parameters
    :raises NotImplementedError: for any other space
    """
    kwargs = dist_kwargs or {}
    if isinstance(action_space, spaces.Box):
        cls = StateDependentNoiseDistribution if use_sde else DiagGaussianDistribution
        return cls(get_action_dim(action_space), **kwargs)
    if isinstance(action_space, spaces.Discrete):
        return CategoricalDistribution(int(action_space.n), **kwargs)
    if isinstance(action_space, spaces.MultiDiscrete):
        return MultiCategoricalDistribution(list(action_space.nvec), **kwargs)
    if isinstance(action_space, spaces.MultiBinary):
        assert isinstance(action_space.n, int), (
            f"MultiBinary({action_space.n}) action space has more than one dimension, which is not "
            "supported: flatten it."
        )
        return BernoulliDistribution(action_space.n, **kwargs)
    raise NotImplementedError(
        f"No probability distribution for the action space {action_space} ({type(action_space).__name__}): "
        "it must be a Box, Discrete, MultiDiscrete or MultiBinary."
    )


def kl_divergence(dist_true: Distribution, dist_pred: Distribution) -> mx.array:
    """
    Kullback-Leibler divergence of two distributions of the same kind.

    :param dist_true: the distribution p
    :param dist_pred: the distribution q
    :return: KL(p || q): (batch,) for categorical distributions, (batch, n) per component for Gaussian and
        Bernoulli distributions
    :raises AssertionError: if the kinds or the numbers of categories differ
    """
    assert type(dist_true) is type(dist_pred), (
        f"KL divergence needs two distributions of the same kind, got {type(dist_true).__name__} and "
        f"{type(dist_pred).__name__}."
    )
    if isinstance(dist_pred, MultiCategoricalDistribution):
        assert isinstance(dist_true, MultiCategoricalDistribution)
        assert dist_true.action_dims == dist_pred.action_dims, (
            f"The numbers of categories differ: {dist_true.action_dims} and {dist_pred.action_dims}."
        )
        pairs = zip(dist_true.distribution, dist_pred.distribution, strict=True)
        return mx.stack([p.kl_divergence(q) for p, q in pairs], axis=1).sum(axis=1)
    return dist_true.distribution.kl_divergence(dist_pred.distribution)
