"""Draws from NumPy's global generator, which SB3's buffers sample with; ``np.random.seed`` seeds them."""

import numpy as np

from mlx_baselines3 import _native

__all__ = ["permutation", "randint"]


# Rust takes 56 us to take over the generator's state and to give it back.
_FEWEST = 8192


def permutation(count: int) -> np.ndarray:
    """
    :param count: how many numbers
    :return: the numbers of ``np.random.permutation(count)``; of many, in a fraction of its time
    """
    drawn = _native.permutation(count) if count >= _FEWEST else None
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
