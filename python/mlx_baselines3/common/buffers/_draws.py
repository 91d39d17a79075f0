"""Draws from NumPy's global generator, which SB3's buffers sample with; ``np.random.seed`` seeds them."""

import numpy as np

from mlx_baselines3 import _native

__all__ = ["permutation", "randint"]


def permutation(count: int) -> np.ndarray:
    """
    :param count: how many numbers
    :return: the numbers of ``np.random.permutation(count)``, in a fraction of its time
    """
    drawn = _native.permutation(count)
    return np.random.permutation(count) if drawn is None else drawn  # noqa: NPY002


def randint(low: int, high: int, count: int) -> np.ndarray:
    """
    :param low: inclusive lower bound
    :param high: exclusive upper bound
    :param count: number of draws
    :return: the numbers of ``np.random.randint(low, high, size=count)``, in a fraction of its time
    :raises ValueError: the range is empty
    """
    drawn = _native.randint(low, high, count)
    return np.random.randint(low, high, size=count) if drawn is None else drawn  # noqa: NPY002
