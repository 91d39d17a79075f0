"""The elementary distributions behind :mod:`mlx_baselines3.common.distributions`."""

import math

import mlx.core as mx

from mlx_baselines3.common.nn.sums import repeated

__all__ = ["Bernoulli", "Categorical", "Normal"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Normal:
    """
    Independent Gaussians.

    :param loc: means, any shape
    :param scale: standard deviations, broadcastable to ``loc``
    """

    def __init__(self, loc: mx.array, scale: mx.array):
        self.loc = loc
        self.scale = scale

    @property
    def mean(self) -> mx.array:
        """:return: the means"""
        return self.loc

    @property
    def stddev(self) -> mx.array:
        """:return: the standard deviations"""
        return self.scale

    @property
    def variance(self) -> mx.array:
        """:return: the variances"""
        return mx.square(self.scale)

    def log_prob(self, value: mx.array) -> mx.array:
        """
        ``-(x - mu)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2``

        :param value: points, the shape of ``loc``
        :return: log density of each point
        """
        z = (value - self.loc) / self._of_rows(self.scale)
        return -0.5 * mx.square(z) - self._of_rows(mx.log(self.scale)) - _HALF_LOG_TWO_PI

    def entropy(self) -> mx.array:
        """:return: ``1/2 + log(2 pi) / 2 + log sigma`` for each Gaussian"""
        entropy = self._of_rows(0.5 + _HALF_LOG_TWO_PI + mx.log(self.scale))
        return mx.broadcast_to(entropy, self.loc.shape)

    def _of_rows(self, of_columns: mx.array) -> mx.array:
        """Repeat a value per column for all rows, with a gradient that is accurate for many rows."""
        return repeated(of_columns, self.loc) if of_columns.ndim == 1 and self.loc.ndim == 2 else of_columns

    def sample(self, noise: mx.array | None = None) -> mx.array:
        """
        A reparametrised sample: the gradient flows to ``loc`` and ``scale``.

        :param noise: standard normals of the shape of ``loc``; drawn from MLX's generator if not given
        :return: one sample of each Gaussian
        """
        if noise is None:
            noise = mx.random.normal(self.loc.shape)
        return self.loc + self.scale * noise

    def kl_divergence(self, other: "Normal") -> mx.array:
        """
        :param other: the distribution q
        :return: KL(self || q) of each pair of Gaussians
        """
        ratio = mx.square(self.scale / other.scale)
        return 0.5 * (ratio + mx.square((self.loc - other.loc) / other.scale) - 1 - mx.log(ratio))


class Categorical:
    """
    Distributions over the integers 0 … n-1.

    :param logits: (..., n) unnormalised log probabilities
    """

    def __init__(self, logits: mx.array):
        self.logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    @property
    def probs(self) -> mx.array:
        """:return: (..., n) probabilities"""
        return mx.exp(self.logits)

    def log_prob(self, value: mx.array) -> mx.array:
        """
        :param value: (...) integers
        :return: (...) log probability of each
        """
        # A comparison with every class is elementwise, so a compiled step fuses it, forward and backward; the
        # gradient of a gather is a scatter, which cannot be fused.
        chosen = value[..., None] == mx.arange(self.logits.shape[-1])
        return mx.where(chosen, self.logits, 0.0).sum(axis=-1)

    def entropy(self) -> mx.array:
        """:return: (...) ``-sum p log p``"""
        # A logit of -inf is a class of probability 0, whose term is 0, not nan.
        logits = mx.maximum(self.logits, mx.finfo(self.logits.dtype).min)
        return -(mx.exp(logits) * logits).sum(axis=-1)

    def sample(self) -> mx.array:
        """:return: (...) int64 samples"""
        return mx.random.categorical(self.logits).astype(mx.int64)

    def mode(self) -> mx.array:
        """:return: (...) int64, the most probable class (the first of equals)"""
        return mx.argmax(self.logits, axis=-1).astype(mx.int64)

    def kl_divergence(self, other: "Categorical") -> mx.array:
        """
        :param other: the distribution q, over as many classes
        :return: (...) KL(self || q)
        """
        # A class of probability 0 contributes 0, although the difference of two logits of -inf is nan.
        probs = self.probs
        return (probs * mx.where(probs > 0, self.logits - other.logits, 0.0)).sum(axis=-1)


class Bernoulli:
    """
    Independent Bernoulli distributions.

    :param logits: log odds of a 1, any shape
    """

    def __init__(self, logits: mx.array):
        self.logits = logits

    @property
    def probs(self) -> mx.array:
        """:return: probability of a 1"""
        return mx.sigmoid(self.logits)

    def log_prob(self, value: mx.array) -> mx.array:
        """
        :param value: zeros and ones, the shape of ``logits``
        :return: log probability of each
        """
        return value * self.logits - _softplus(self.logits)

    def entropy(self) -> mx.array:
        """:return: ``-p log p - (1 - p) log(1 - p)`` of each distribution"""
        return _softplus(self.logits) - self.probs * self.logits

    def sample(self) -> mx.array:
        """:return: float32 zeros and ones"""
        return mx.random.bernoulli(self.probs).astype(mx.float32)

    def mode(self) -> mx.array:
        """:return: float32, 1 where a 1 is more likely"""
        return mx.round(self.probs)

    def kl_divergence(self, other: "Bernoulli") -> mx.array:
        """
        :param other: the distribution q
        :return: KL(self || q) of each pair of distributions
        """
        difference = self.logits - other.logits
        return self.probs * difference - _softplus(self.logits) + _softplus(other.logits)


def _softplus(x: mx.array) -> mx.array:
    return mx.logaddexp(x, 0.0)
