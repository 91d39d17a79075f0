"""Memory that one sampling after the other gathers into."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["Scratch", "ScratchPool"]


class Scratch:
    """Blocks of memory by name, which grow and are used again."""

    def __init__(self) -> None:
        self._blocks: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """
        :param name: which block
        :param shape: shape of the array
        :param dtype: its dtype, without Python objects
        :return: an array over the block, with whatever numbers are left there
        """
        kind = np.dtype(dtype)
        needed = math.prod(shape) * kind.itemsize
        block = self._blocks.get(name)
        if block is None or block.nbytes < needed:
            block = self._blocks[name] = np.empty(needed, np.uint8)
        return block[:needed].view(kind).reshape(shape)


class ScratchPool:
    """Lends a :class:`Scratch` to one caller at a time: threads that sample together have one each."""

    def __init__(self) -> None:
        self._free: list[Scratch] = []

    @contextmanager
    def lend(self) -> Iterator[Scratch]:
        """:return: memory that is the caller's until the end of the ``with`` block"""
        scratch = self._free.pop() if self._free else Scratch()
        try:
            yield scratch
        finally:
            self._free.append(scratch)

    def __reduce__(self) -> tuple[type[ScratchPool], tuple[()]]:
        # What was sampled last is no part of a buffer.
        return ScratchPool, ()
