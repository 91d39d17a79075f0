"""Memory that one sampling after the other gathers into."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Scratch", "ScratchPool"]


class Scratch:
    """Blocks of memory by name, which grow and are used again."""

    def __init__(self) -> None:
        self._blocks: dict[Hashable, np.ndarray] = {}
        # What was handed out last: making views takes longer than looking them up.
        self._views: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}

    def array(
        self, name: Hashable, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        :param name: which block
        :param shape: shape of the array
        :param dtype: its dtype, without Python objects
        :return: an array over the block, with whatever numbers are left there, and the array's bytes
        """
        views = self._views.get(name)
        if views is None or views[0].shape != shape or views[0].dtype != dtype:
            needed = math.prod(shape) * dtype.itemsize
            block = self._blocks.get(name)
            if block is None or block.nbytes < needed:
                block = self._blocks[name] = np.empty(needed, np.uint8)
            views = self._views[name] = block[:needed].view(dtype).reshape(shape), block[:needed]
        return views


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
