"""Action noise for the exploration of off-policy algorithms."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

# Draws from NumPy's global generator, seeded by `set_random_seed`, as in SB3.


class ActionNoise(ABC):
    """A source of noise; calling it gives the next sample."""

    def __init__(self) -> None:
        super().__init__()

    def reset(self) -> None:  # noqa: B027  only processes with memory have something to forget
        """Start a new episode."""

    @abstractmethod
    def __call__(self) -> np.ndarray:
        raise NotImplementedError


class NormalActionNoise(ActionNoise):
    """
    Independent Gaussian noise.

    :param mean: mean, ``(action_dim,)``
    :param sigma: standard deviation, ``(action_dim,)``
    :param dtype: type of the samples
    """

    def __init__(self, mean: np.ndarray, sigma: np.ndarray, dtype: DTypeLike = np.float32) -> None:
        self._mu = mean
        self._sigma = sigma
        self._dtype = dtype
        super().__init__()

    def __call__(self) -> np.ndarray:
        sample: np.ndarray = np.asarray(np.random.normal(self._mu, self._sigma))  # noqa: NPY002
        return sample.astype(self._dtype)

    def __repr__(self) -> str:
        return f"NormalActionNoise(mu={self._mu}, sigma={self._sigma})"


class OrnsteinUhlenbeckActionNoise(ActionNoise):
    r"""
    Correlated, mean-reverting noise (Uhlenbeck and Ornstein 1930, in the discrete form of
    https://arxiv.org/abs/1509.02971):
    :math:`x_{t+1} = x_t + \theta (\mu - x_t) \Delta t + \sigma \sqrt{\Delta t}\, \mathcal{N}(0, 1)`.

    :param mean: :math:`\mu`, ``(action_dim,)``
    :param sigma: :math:`\sigma`, ``(action_dim,)``
    :param theta: rate of mean reversion
    :param dt: length of a time step
    :param initial_noise: value at the start of an episode; ``None`` for 0
    :param dtype: type of the samples
    """

    def __init__(
        self,
        mean: np.ndarray,
        sigma: np.ndarray,
        theta: float = 0.15,
        dt: float = 1e-2,
        initial_noise: np.ndarray | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self._theta = theta
        self._mu = mean
        self._sigma = sigma
        self._dt = dt
        self._dtype = dtype
        self.initial_noise = initial_noise
        self.noise_prev: np.ndarray = np.zeros_like(self._mu)
        self.reset()
        super().__init__()

    def __call__(self) -> np.ndarray:
        pull = self._theta * (self._mu - self.noise_prev) * self._dt
        kick = self._sigma * np.sqrt(self._dt) * np.random.normal(size=self._mu.shape)  # noqa: NPY002
        self.noise_prev = self.noise_prev + pull + kick
        return self.noise_prev.astype(self._dtype)

    def reset(self) -> None:
        """Reset to the initial value."""
        self.noise_prev = np.zeros_like(self._mu) if self.initial_noise is None else self.initial_noise

    def __repr__(self) -> str:
        return f"OrnsteinUhlenbeckActionNoise(mu={self._mu}, sigma={self._sigma})"


class VectorizedActionNoise(ActionNoise):
    """
    One noise process per environment.

    :param base_noise: the process to copy
    :param n_envs: number of environments
    :raises ValueError: ``n_envs`` is not a positive integer, or there is no base noise
    :raises TypeError: the base noise is not an :class:`ActionNoise`
    """

    def __init__(self, base_noise: ActionNoise, n_envs: int) -> None:
        try:
            self.n_envs = int(n_envs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected n_envs={n_envs} to be positive integer greater than 0") from error
        if self.n_envs <= 0:
            raise ValueError(f"Expected n_envs={n_envs} to be positive integer greater than 0")
        self.base_noise = base_noise
        self.noises = [copy.deepcopy(self.base_noise) for _ in range(self.n_envs)]

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """
        Start new episodes.

        :param indices: indices of the environments; ``None`` for all
        """
        for index in range(len(self.noises)) if indices is None else indices:
            self.noises[index].reset()

    def __repr__(self) -> str:
        return f"VecNoise(BaseNoise={self.base_noise!r}), n_envs={len(self.noises)})"

    def __call__(self) -> np.ndarray:
        return np.stack([noise() for noise in self.noises])

    @property
    def base_noise(self) -> ActionNoise:
        """The process that is copied for each environment."""
        return self._base_noise

    @base_noise.setter
    def base_noise(self, base_noise: ActionNoise) -> None:
        if base_noise is None:
            raise ValueError("Expected base_noise to be an instance of ActionNoise, not None", ActionNoise)
        if not isinstance(base_noise, ActionNoise):
            raise TypeError("Expected base_noise to be an instance of type ActionNoise", ActionNoise)
        self._base_noise = base_noise

    @property
    def noises(self) -> list[ActionNoise]:
        """The processes, one per environment; setting them resets them."""
        return self._noises

    @noises.setter
    def noises(self, noises: list[ActionNoise]) -> None:
        noises = list(noises)
        assert len(noises) == self.n_envs, (
            f"Expected a list of {self.n_envs} ActionNoises, found {len(noises)}."
        )
        odd = [i for i, noise in enumerate(noises) if not isinstance(noise, type(self.base_noise))]
        if odd:
            raise ValueError(
                f"Noise instances at indices {odd} don't match the type of base_noise", type(self.base_noise)
            )
        self._noises = noises
        for noise in noises:
            noise.reset()
