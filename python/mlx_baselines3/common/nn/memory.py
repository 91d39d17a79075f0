"""How much memory there is, and whether a layer fits in it."""

import functools
import os
from importlib import import_module
from importlib.util import find_spec

__all__ = ["available_memory", "check_widths"]

# MLX counts along an axis with 32 bits, and ends the process when it counts wrong.
_WIDEST = 2**31 - 1
# Smaller layers are not worth the question.
_LARGE = 2**28
# Of each weight there are the gradient and two averages of an optimizer.
_BYTES_OF_A_WEIGHT = 16


@functools.cache
def _has_psutil() -> bool:
    # Asked once: looking for a module reads folders, and loading a file is to read nothing but the file.
    return find_spec("psutil") is not None


def available_memory() -> int | None:
    """
    :return: bytes that a new program could take without swapping, ``None`` where nobody tells
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
    :param inputs: numbers that a layer takes
    :param outputs: numbers that it gives
    :raises ValueError: more than an array of MLX can have along an axis
    :raises MemoryError: there is no memory to train so many weights
    """
    if max(inputs, outputs) > _WIDEST:
        raise ValueError(
            f"A layer of {inputs} inputs and {outputs} outputs is wider than MLX can count ({_WIDEST}): see "
            "net_arch and features_dim."
        )
    needed = _BYTES_OF_A_WEIGHT * inputs * outputs
    if needed > _LARGE and (available := available_memory()) is not None and needed > available:
        raise MemoryError(
            f"A layer of {inputs} inputs and {outputs} outputs takes {needed / 1e9:.1f} GB to train, and "
            f"{available / 1e9:.1f} GB are free: see net_arch and features_dim."
        )
