"""Reusable memory that sampling gathers into."""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable

import numpy as np

__all__ = ["Scratch", "ScratchPool"]


class Scratch:
    """Named blocks of memory that grow and are reused."""

    def __init__(self) -> None:
        self._blocks: dict[Hashable, np.ndarray] = {}
        # The latest views: creating views takes longer than looking them up.
        self._views: dict[str, tuple[int, list[np.ndarray], list[np.ndarray]]] = {}

    def arrays(self, name: str, count: int, columns: list[np.ndarray]) -> list[np.ndarray]:
        """
        :param name: key of the blocks
        :param count: entries of each array
        :param columns: source arrays ``(rows, n_envs, ...)`` without Python objects
        :return: for each column an uninitialised array ``(count, ...)`` of its dtype over the block
        """
        last = self._views.get(name)
        if last is None or last[0] != count or not _same(last[1], columns):
            arrays = [self._array((name, i), count, column) for i, column in enumerate(columns)]
            last = self._views[name] = count, columns, arrays
        return last[2]

    def _array(self, name: Hashable, count: int, column: np.ndarray) -> np.ndarray:
        shape, dtype = (count, *column.shape[2:]), column.dtype
        needed = math.prod(shape) * dtype.itemsize
        block = self._blocks.get(name)
        if block is None or block.nbytes < needed:
            block = self._blocks[name] = np.empty(needed, np.uint8)
        return block[:needed].view(dtype).reshape(shape)


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


class ScratchPool:
    """Lends each :class:`Scratch` to one caller at a time, so that concurrent threads do not share one."""

    def __init__(self) -> None:
        self._free: list[Scratch] = []

    def lend(self) -> _Loan:
        """:return: a context manager that lends memory for the ``with`` block"""
        return _Loan(self._free)

    def __reduce__(self) -> tuple[type[ScratchPool], tuple[()]]:
        # Scratch memory is not part of a buffer's state.
        return ScratchPool, ()


class _Loan:
    # Not @contextmanager: its generator takes as long as copying a column.
    def __init__(self, free: list[Scratch]) -> None:
        self._free = free

    def __enter__(self) -> Scratch:
        self._scratch = self._free.pop() if self._free else Scratch()
        return self._scratch

    def __exit__(self, *error: object) -> None:
        self._free.append(self._scratch)
