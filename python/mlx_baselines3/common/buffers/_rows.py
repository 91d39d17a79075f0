"""Checks of the values added to a buffer, and the available memory."""

import sys
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.nn.memory import available_memory

__all__ = ["available_memory", "check_batch_size", "check_sizes", "fit_action", "fit_row", "fit_scalar"]

# Largest number of rows that an index can address.
MOST = sys.maxsize


def check_sizes(buffer_size: int, n_envs: int) -> None:
    """
    :param buffer_size: requested number of elements
    :param n_envs: number of environments
    :raises ValueError: one of them is not a positive integer
    """
    for name, number in (("buffer_size", buffer_size), ("n_envs", n_envs)):
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or number < 1:
            raise ValueError(f"{name} is {number!r}, expected an integer of at least 1")


def check_batch_size(batch_size: Any, name: str = "batch_size") -> None:
    """
    :param batch_size: requested number of elements
    :param name: its name in the message
    :raises ValueError: it is not a positive integer, or larger than an array can be
    """
    whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise ValueError(f"{name} is {batch_size!r}, expected an integer of at least 1")
    if batch_size > MOST:
        raise ValueError(f"{name} is {batch_size}, more than any array can hold")


def _numbers(name: str, value: Any) -> np.ndarray:
    # MLX arrays are read through the buffer protocol, which has no bfloat16.
    if isinstance(value, mx.array) and value.dtype == mx.bfloat16:
        value = value.astype(mx.float32)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}, expected numbers")
    return array


def _is_ready(value: Any, shape: tuple[int, ...]) -> bool:
    # The usual case; this test is half of the cost of a check.
    return type(value) is np.ndarray and value.shape == shape and value.dtype.kind in "biuf"


def fit_row(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """
    Reshape ``value`` to a row. Only axes of length one may be added or removed, so that values of one
    environment are never stored for another.

    :param name: its name in the message
    :param value: an array, or anything NumPy can convert
    :param shape: shape of the row, ``(n_envs, ...)``
    :return: an array of that shape, without a copy where possible
    :raises ValueError: the shape does not fit or the values are not numbers
    """
    if _is_ready(value, shape):
        return cast(np.ndarray, value)
    array = _numbers(name, value)
    if [n for n in array.shape if n != 1] != [n for n in shape if n != 1]:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape} (n_envs first)")
    return array.reshape(shape)


def fit_scalar(name: str, value: Any, n_envs: int) -> np.ndarray:
    """
    :param name: its name in the message
    :param value: one number per environment, or one for all
    :param n_envs: number of environments
    :return: an array that broadcasts to ``(n_envs,)``
    :raises ValueError: neither 1 nor ``n_envs`` numbers
    """
    if _is_ready(value, (n_envs,)):
        return cast(np.ndarray, value)
    array = _numbers(name, value)
    if array.size not in (1, n_envs):
        raise ValueError(f"{name} has shape {array.shape}, expected ({n_envs},): one number per environment")
    return array.reshape(-1)


def fit_action(action: Any, n_envs: int, action_dim: int) -> np.ndarray:
    """
    :param action: actions of all environments, each of any shape with ``action_dim`` entries
    :param n_envs: number of environments
    :param action_dim: entries of one action
    :return: the same numbers as ``(n_envs, action_dim)``
    :raises ValueError: there are more or fewer numbers, or they are not grouped by environment
    """
    array = _numbers("action", action)
    grouped = array.ndim < 2 or n_envs == 1 or array.shape[0] == n_envs
    if array.size != n_envs * action_dim or not grouped:
        raise ValueError(
            f"action has shape {array.shape}, expected ({n_envs}, {action_dim}): "
            f"{action_dim} entries for each of {n_envs} environments"
        )
    return array.reshape(n_envs, action_dim)
