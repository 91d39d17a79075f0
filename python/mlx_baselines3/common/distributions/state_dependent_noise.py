"""Generalised state-dependent exploration (gSDE), https://arxiv.org/abs/2005.05719."""

import mlx.core as mx
import mlx.nn as nn

from mlx_baselines3.common.distributions.base import Distribution, TanhBijector, sum_independent_dims
from mlx_baselines3.common.distributions.probability import Normal
from mlx_baselines3.common.nn.layers import Linear

__all__ = ["StateDependentNoiseDistribution"]


class StateDependentNoiseDistribution(Distribution):
    """
    Gaussian actions whose noise is a linear function of the policy's features: the noise of a state is the
    same until the exploration matrix is resampled.

    :param action_dim: number of action components
    :param full_std: learn one standard deviation per (feature, action) instead of one per feature
    :param use_expln: use ``expln`` (section 3.2 of the paper) instead of ``exp`` for positive standard
        deviations
    :param squash_output: squash the actions with tanh
    :param learn_features: propagate the gradient of the noise to the features
    :param epsilon: keeps variances and logarithms away from zero
    """

    weights_dist: Normal
    exploration_mat: mx.array
    exploration_matrices: mx.array
    distribution: Normal

    def __init__(
        self,
        action_dim: int,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        learn_features: bool = False,
        epsilon: float = 1e-6,
    ):
        self.action_dim = action_dim
        self.latent_sde_dim: int | None = None
        self.use_expln = use_expln
        self.full_std = full_std
        self.epsilon = epsilon
        self.learn_features = learn_features
        self.bijector = TanhBijector(epsilon) if squash_output else None

    def get_std(self, log_std: mx.array) -> mx.array:
        """
        :param log_std: (latent_sde_dim, action_dim), or (latent_sde_dim, 1) without ``full_std``
        :return: (latent_sde_dim, action_dim) standard deviations
        """
        if self.use_expln:
            # The unused branch still has a gradient: clip its argument so that log1p is finite.
            above = mx.log1p(mx.maximum(log_std, 0.0) + self.epsilon) + 1.0
            std = mx.where(log_std > 0, above, mx.exp(log_std))
        else:
            std = mx.exp(log_std)
        if self.full_std:
            return std
        assert self.latent_sde_dim is not None, "call proba_distribution_net() first"
        return mx.broadcast_to(std, (self.latent_sde_dim, self.action_dim))

    def sample_weights(self, log_std: mx.array, batch_size: int = 1, noise: mx.array | None = None) -> None:
        """
        Sample the exploration matrix and, for parallel environments, one matrix each.

        :param log_std: as in :meth:`get_std`
        :param batch_size: number of parallel environments
        :param noise: (1 + batch_size, latent_sde_dim, action_dim) standard normals, the common matrix
            first; drawn from MLX's generator if not given
        """
        std = self.get_std(log_std)
        self.weights_dist = Normal(mx.zeros_like(std), std)
        if noise is None:
            noise = mx.random.normal((1 + batch_size, *std.shape))
        self.exploration_mat = std * noise[0]
        self.exploration_matrices = std * noise[1:]

    def proba_distribution_net(
        self, latent_dim: int, log_std_init: float = -2.0, latent_sde_dim: int | None = None
    ) -> tuple[nn.Module, mx.array]:
        """
        :param latent_dim: number of features for the mean action
        :param log_std_init: initial value of every log standard deviation
        :param latent_sde_dim: number of features for the noise (default: ``latent_dim``)
        :return: the layer of the mean actions, and the log standard deviations
        """
        self.latent_sde_dim = latent_dim if latent_sde_dim is None else latent_sde_dim
        columns = self.action_dim if self.full_std else 1
        log_std = mx.full((self.latent_sde_dim, columns), float(log_std_init))
        self.sample_weights(log_std)
        return Linear(latent_dim, self.action_dim), log_std

    def proba_distribution(
        self, mean_actions: mx.array, log_std: mx.array, latent_sde: mx.array
    ) -> "StateDependentNoiseDistribution":
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: as in :meth:`get_std`
        :param latent_sde: (batch, latent_sde_dim) features
        :return: self
        """
        self._latent_sde = latent_sde if self.learn_features else mx.stop_gradient(latent_sde)
        variance = mx.square(self._latent_sde) @ mx.square(self.get_std(log_std))
        self.distribution = Normal(mean_actions, mx.sqrt(variance + self.epsilon))
        return self

    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch, action_dim), squashed if the distribution is
        :return: (batch,) log likelihood
        """
        if self.bijector is None:
            return sum_independent_dims(self.distribution.log_prob(actions))
        gaussian_actions = self.bijector.inverse(actions)
        log_prob = sum_independent_dims(self.distribution.log_prob(gaussian_actions))
        return log_prob - self.bijector.log_prob_correction(gaussian_actions).sum(axis=1)

    def entropy(self) -> mx.array | None:
        """:return: (batch,) entropy, or None for squashed actions, which have no closed form"""
        if self.bijector is not None:
            return None
        return sum_independent_dims(self.distribution.entropy())

    def sample(self) -> mx.array:
        """:return: (batch, action_dim) mean actions plus the noise of their states"""
        return self._squash(self.distribution.mean + self.get_noise(self._latent_sde))

    def mode(self) -> mx.array:
        """:return: (batch, action_dim) mean actions"""
        return self._squash(self.distribution.mean)

    def _squash(self, actions: mx.array) -> mx.array:
        return actions if self.bijector is None else self.bijector.forward(actions)

    def get_noise(self, latent_sde: mx.array) -> mx.array:
        """
        :param latent_sde: (batch, latent_sde_dim) features
        :return: (batch, action_dim) noise; row i uses environment i's matrix if there are as many
            matrices as rows, the common matrix otherwise
        """
        if not self.learn_features:
            latent_sde = mx.stop_gradient(latent_sde)
        batch = latent_sde.shape[0]
        if batch == 1 or batch != self.exploration_matrices.shape[0]:
            return latent_sde @ self.exploration_mat
        return (latent_sde[:, None, :] @ self.exploration_matrices).squeeze(axis=1)

    def actions_from_params(
        self, mean_actions: mx.array, log_std: mx.array, latent_sde: mx.array, deterministic: bool = False
    ) -> mx.array:
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: as in :meth:`get_std`
        :param latent_sde: (batch, latent_sde_dim) features
        :param deterministic: return the mean actions instead of samples
        :return: (batch, action_dim) actions
        """
        return self.proba_distribution(mean_actions, log_std, latent_sde).get_actions(deterministic)

    def log_prob_from_params(
        self, mean_actions: mx.array, log_std: mx.array, latent_sde: mx.array
    ) -> tuple[mx.array, mx.array]:
        """
        :param mean_actions: (batch, action_dim)
        :param log_std: as in :meth:`get_std`
        :param latent_sde: (batch, latent_sde_dim) features
        :return: (batch, action_dim) samples and their (batch,) log likelihood
        """
        actions = self.actions_from_params(mean_actions, log_std, latent_sde)
        return actions, self.log_prob(actions)
