"""Memory that one sampling after the other gathers into."""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable

import numpy as np

__all__ = ["Scratch", "ScratchPool"]


class Scratch:
    """Blocks of memory by name, which grow and are used again."""

    def __init__(self) -> None:
        self._blocks: dict[Hashable, np.ndarray] = {}
        # What was handed out last: making views takes longer than looking them up.
        self._views: dict[str, tuple[int, list[np.ndarray], list[np.ndarray]]] = {}

    def arrays(self, name: str, count: int, columns: list[np.ndarray]) -> list[np.ndarray]:
        """
        :param name: which blocks
        :param count: entries of each array
        :param columns: arrays ``(rows, n_envs, ...)`` without Python objects that the entries come from
        :return: for each column an array ``(count, ...)`` of its dtype over the block, with whatever
            numbers are left there
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
    """Lends a :class:`Scratch` to one caller at a time: threads that sample together have one each."""

    def __init__(self) -> None:
        self._free: list[Scratch] = []

    def lend(self) -> _Loan:
        """:return: gives memory that is the caller's until the end of the ``with`` block"""
        return _Loan(self._free)

    def __reduce__(self) -> tuple[type[ScratchPool], tuple[()]]:
        # What was sampled last is no part of a buffer.
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
