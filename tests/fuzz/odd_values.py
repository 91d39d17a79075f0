"""Values that spoil the arguments of a call."""

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np

INTS = [
    *(0, -1, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 2**128 - 1, 2**128, 10**40, -(2**31), -(2**63), -(10**40)),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e30, 1e300, float("nan"), float("inf"), float("-inf"), 5e7]
DTYPES = ["f4", "f8", "f2", "i8", "i4", "u4", "u8", "u1", "?", ">f4", ">i8", "O", "c8", "U3", "M8[s]"]


class Liar(Sequence):  # type: ignore[type-arg]
    """A sequence that says something else about its length than is true."""

    def __init__(self, says: int):
        self.says = says

    def __len__(self) -> int:
        return self.says

    def __getitem__(self, index: Any) -> Any:
        if index > 3:
            raise IndexError
        return 0.5


class Spiteful:
    """Raises whenever it is asked for a number, and collects garbage before."""

    def __index__(self) -> int:
        gc.collect()
        raise ZeroDivisionError

    __float__ = __len__ = __index__  # type: ignore[assignment]


class Sub(np.ndarray):  # type: ignore[type-arg]
    """A subclass of an array."""
