"""Conversion between NumPy and MLX arrays, and pickling of devices.

Each direction copies once. MLX has no float64 on its GPU backends and stores Python floats as
float32, so 64-bit floats become float32, as in SB3 when the observation is cast for the network.
"""

import copyreg
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import ArrayLike

from mlx_baselines3.common.cuda import nvrtc, upload
from mlx_baselines3.common.nn.devices import get_device

__all__ = ["all_to_mlx", "to_mlx", "to_numpy"]


def to_mlx(array: ArrayLike | mx.array) -> mx.array:
    """
    Copy a NumPy array (or anything NumPy can convert) into a new MLX array.

    :param array: any shape; an ``mx.array`` is returned unchanged
    :return: the same shape; float64 becomes float32, every other dtype is kept
    """
    if isinstance(array, mx.array):
        return array
    # Fast path for a buffer's column: further checks take half as long as the copy.
    if type(array) is np.ndarray and array.dtype.char != "d":
        return mx.array(array)
    values = np.asarray(array)
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    return mx.array(values)


def all_to_mlx(arrays: Sequence[np.ndarray]) -> list[mx.array]:
    """
    Copy NumPy arrays into new MLX arrays, to an NVIDIA GPU all in one.

    :param arrays: any shapes
    :return: for each what :func:`to_mlx` gives
    """
    if nvrtc.usable():
        try:
            return upload.staging().upload(arrays)
        except MemoryError:
            # Out of memory that may be locked: MLX's own way needs none.
            pass
    return list(map(to_mlx, arrays))


def to_numpy(array: Any) -> np.ndarray:
    """
    Evaluate an MLX array and copy it to NumPy. The caller owns the result.

    :param array: an ``mx.array`` (a NumPy array is returned unchanged)
    :return: the same shape and dtype
    """
    if isinstance(array, np.ndarray):
        return array
    return np.array(array)


def _reduce_device(device: mx.Device) -> tuple[Any, tuple[str]]:
    # MLX exposes the index in the representation only: "Device(gpu, 1)".
    kind, index = str(device).removeprefix("Device(").removesuffix(")").split(", ")
    return get_device, (f"{kind}:{index}",)


# A network stores its device, and MLX's devices support neither copy nor pickle. On a machine without a GPU,
# a GPU is restored as the CPU.
copyreg.pickle(mx.Device, _reduce_device)
