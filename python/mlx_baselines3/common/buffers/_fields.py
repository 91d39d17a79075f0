"""Fields of batches: arrays or dicts of arrays."""

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.nn.interop import all_to_mlx, to_mlx, to_numpy

__all__ = ["arrays_of", "columns_of", "each", "new_to_mlx", "not_cut", "split", "stack"]

# mx.array() first tests for numbers, lists and MLX arrays.
_from_dlpack = getattr(mx, "from_dlpack", None)
# NumPy takes longer to convert a Python number than to subtract a batch.
_ONE = np.ones((), np.float32)


def not_cut(dones: np.ndarray, timeouts: np.ndarray) -> np.ndarray:
    """
    :param dones: ends of episodes; overwritten
    :param timeouts: truncations; overwritten
    :return: ``dones * (1 - timeouts)``, in the memory of ``dones``
    """
    np.subtract(_ONE, timeouts, out=timeouts)
    return np.multiply(dones, timeouts, out=dones)


def columns_of(store: Any) -> list[np.ndarray]:
    """
    :param store: a column, or a dict of columns
    :return: the columns
    """
    return list(store.values()) if isinstance(store, dict) else [store]


def stack(batches: list[Any]) -> Any:
    """
    :param batches: samples of one kind
    :return: samples of that kind whose arrays have the batches as their first axis
    """

    def stacked(fields: list[Any]) -> Any:
        if isinstance(fields[0], dict):
            return {key: stacked([field[key] for field in fields]) for key in fields[0]}
        return None if fields[0] is None else mx.stack(fields)

    return batches[0]._make(stacked(list(fields)) for fields in zip(*batches, strict=True))


def each(samples: Any, change: Callable[[Any], Any]) -> Any:
    """
    :param samples: samples of any kind
    :param change: function applied to each array
    :return: samples of the same kind with the results
    """

    def changed(field: Any) -> Any:
        if isinstance(field, dict):
            return {key: change(value) for key, value in field.items()}
        return None if field is None else change(field)

    return samples._make(map(changed, samples))


def split(samples: Any, n_batches: int) -> Any:
    """
    :param samples: concatenated samples of many batches
    :param n_batches: number of batches
    :return: the same samples; their arrays have the batches as their first axis
    """
    return each(samples, lambda array: array.reshape(n_batches, -1, *array.shape[1:]))


def new_to_mlx(arrays: Iterable[np.ndarray]) -> list[mx.array]:
    """
    :param arrays: writable C-contiguous numeric arrays in native byte order
    :return: the result of ``to_mlx``, in half of the time
    """
    if nvrtc.usable():
        return all_to_mlx([*arrays])
    if _from_dlpack is None:
        return list(map(to_mlx, arrays))
    return [_from_dlpack(array, copy=True) for array in arrays]


def arrays_of(samples: Any) -> Any:
    """
    :param samples: samples of NumPy or MLX arrays
    :return: samples of C-contiguous NumPy arrays, in the dtypes that MLX would use
    """

    def array_of(field: Any) -> np.ndarray:
        array = np.ascontiguousarray(to_numpy(field))
        return array.astype(np.float32) if array.dtype == np.float64 else array

    return each(samples, array_of)
