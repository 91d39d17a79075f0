"""Base class of action distributions, and the tanh bijector."""

import inspect
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import mlx.core as mx

__all__ = ["Distribution", "TanhBijector", "is_users_own", "sum_independent_dims", "takes_noise"]

SelfDistribution = TypeVar("SelfDistribution", bound="Distribution")


class Distribution(ABC):
    """A distribution over actions, whose parameters a network computes."""

    distribution: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Arrays of the last forward pass are not state: after a compiled update they are placeholders of a
        # trace.
        of_last_pass = ("distribution", "gaussian_actions", "_latent_sde")
        return {name: value for name, value in vars(self).items() if name not in of_last_pass}

    @abstractmethod
    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        """
        Create the layers (and arrays) that compute the distribution's parameters.

        :return: a module, or a module and a trainable array
        """

    @abstractmethod
    def proba_distribution(self: SelfDistribution, *args: Any, **kwargs: Any) -> SelfDistribution:
        """
        Set the parameters of the distribution.

        :return: self
        """

    @abstractmethod
    def log_prob(self, actions: mx.array) -> mx.array:
        """
        :param actions: (batch, ...) actions
        :return: (batch,) log likelihood
        """

    @abstractmethod
    def entropy(self) -> mx.array | None:
        """:return: (batch,) Shannon entropy in nats, or None if there is no closed form"""

    @abstractmethod
    def sample(self) -> mx.array:
        """:return: (batch, ...) samples"""

    @abstractmethod
    def mode(self) -> mx.array:
        """:return: (batch, ...) the most likely actions"""

    def get_actions(self, deterministic: bool = False) -> mx.array:
        """
        :param deterministic: return the most likely actions instead of samples
        :return: (batch, ...) actions
        """
        return self.mode() if deterministic else self.sample()

    @abstractmethod
    def actions_from_params(self, *args: Any, **kwargs: Any) -> mx.array:
        """
        Set the parameters and return actions.

        :return: (batch, ...) actions
        """

    @abstractmethod
    def log_prob_from_params(self, *args: Any, **kwargs: Any) -> tuple[mx.array, mx.array]:
        """
        Set the parameters, sample actions and return them with their log likelihood.

        :return: (batch, ...) actions and (batch,) log likelihood
        """


def is_users_own(dist: Distribution) -> bool:
    """
    :param dist: any distribution
    :return: whether its class is outside this package; it may draw from any generator
    """
    return not type(dist).__module__.startswith("mlx_baselines3.")


def takes_noise(dist: Distribution, *methods: str) -> bool:
    """
    :param dist: any distribution
    :param methods: names of methods
    :return: whether all of them take ``noise``, as this package's do and SB3's do not
    """
    return all("noise" in inspect.signature(getattr(dist, name)).parameters for name in methods)


def sum_independent_dims(tensor: mx.array) -> mx.array:
    """
    Sum the log likelihoods or entropies of independent action components.

    :param tensor: (batch, n_actions) or (n_actions,)
    :return: (batch,) or a scalar
    """
    return tensor.sum(axis=1) if tensor.ndim > 1 else tensor.sum()


class TanhBijector:
    """
    ``y = tanh(x)`` as a change of variables.

    :param epsilon: keeps the logarithm of the derivative finite
    """

    def __init__(self, epsilon: float = 1e-6):
        self.epsilon = epsilon

    @staticmethod
    def forward(x: mx.array) -> mx.array:
        """
        :param x: any shape
        :return: ``tanh(x)``
        """
        return mx.tanh(x)

    @staticmethod
    def atanh(x: mx.array) -> mx.array:
        """
        :param x: any shape, inside (-1, 1)
        :return: ``(log(1 + x) - log(1 - x)) / 2``
        """
        return 0.5 * (mx.log1p(x) - mx.log1p(-x))

    @staticmethod
    def inverse(y: mx.array) -> mx.array:
        """
        :param y: any shape; clipped to the largest numbers of the dtype inside (-1, 1)
        :return: ``atanh(y)``
        """
        bound = 1.0 - mx.finfo(y.dtype).eps
        return TanhBijector.atanh(mx.clip(y, -bound, bound))

    def log_prob_correction(self, x: mx.array) -> mx.array:
        """
        Logarithm of the derivative of tanh (appendix C of https://arxiv.org/abs/1812.05905).

        :param x: any shape, before squashing
        :return: ``log(1 - tanh(x)^2 + epsilon)``
        """
        return mx.log(1.0 - mx.square(mx.tanh(x)) + self.epsilon)
