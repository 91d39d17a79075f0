"""Available memory, and checks that a layer fits into it."""

import functools
import os
from importlib import import_module
from importlib.util import find_spec

__all__ = ["available_memory", "check_widths"]

# MLX's axes have 32-bit sizes, and overflow ends the process.
_WIDEST = 2**31 - 1
# Smaller layers are not checked.
_LARGE = 2**28
# Each weight has a gradient and two moments of an optimizer.
_BYTES_OF_A_WEIGHT = 16


@functools.cache
def _has_psutil() -> bool:
    # Cached: looking for a module reads folders, and loading a file must not read anything but the file.
    return find_spec("psutil") is not None


def available_memory() -> int | None:
    """
    :return: bytes that can be allocated without swapping, ``None`` if unknown
    """
    if _has_psutil():
        return int(import_module("psutil").virtual_memory().available)
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    return None


def check_widths(inputs: int, outputs: int) -> None:
    """
    :param inputs: input size of a layer
    :param outputs: output size of the layer
    :raises ValueError: a size exceeds the limit of an axis in MLX
    :raises MemoryError: there is not enough memory to train the layer
    """
    if max(inputs, outputs) > _WIDEST:
        raise ValueError(
            f"A layer of {inputs} inputs and {outputs} outputs is wider than MLX supports ({_WIDEST}): see "
            "net_arch and features_dim."
        )
    needed = _BYTES_OF_A_WEIGHT * inputs * outputs
    if needed > _LARGE and (available := available_memory()) is not None and needed > available:
        raise MemoryError(
            f"A layer of {inputs} inputs and {outputs} outputs takes {needed / 1e9:.1f} GB to train, and "
            f"{available / 1e9:.1f} GB are free: see net_arch and features_dim."
        )
