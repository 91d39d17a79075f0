"""Programs on an NVIDIA GPU: the kernel, what it needs besides, and where the host reads the outcome."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.cuda.nvrtc import Kernel, blocks_at_once
from mlx_baselines3.common.cuda.program import Program
from mlx_baselines3.common.cuda.program_layout import THREADS, Outcome, kernel_source
from mlx_baselines3.common.cuda.upload import PageLocked, halves

__all__ = ["Launcher", "Sent", "is_compiled"]

# Bytes that the kernel's blocks share.
_SHARED_MEMORY = 36 << 10
_HEAD = "#define SHARED __shared__\n#define PAUSE()\n"


@functools.cache
def _kernel() -> Kernel:
    return Kernel("run_program", kernel_source(_HEAD))


def is_compiled() -> bool:
    """:return: whether this machine has the kernel of all programs already"""
    return _kernel().is_compiled()


class Sent(NamedTuple):
    """
    What a launch reads.

    :param control: settings, and behind them flags or the order of the rows
    :param data: columns
    :param extra: numbers that were drawn on the GPU
    """

    control: mx.array
    data: mx.array
    extra: mx.array


class _Loaded(NamedTuple):
    """A program on the GPU."""

    tasks: mx.array
    first: int
    scratch: int


class Launcher:
    """
    Runs the programs of one model, one after the other.

    Its blocks wait for each other, so that they must be on the GPU at once. Two of them fit on each
    multiprocessor, and there are not more of them than that.
    """

    def __init__(self) -> None:
        self._loaded: dict[int, tuple[Program, _Loaded]] = {}
        # The first of these counts the blocks that have arrived at a wait, in all launches. One number by
        # itself would be in memory that MLX shares with the host: a wait takes a millisecond there.
        self._counter = mx.zeros((64,), mx.uint64)
        self._pages: list[PageLocked] = []
        self._page = self._used = 0
        mx.eval(self._counter)

    def begin(self) -> None:
        """Forget the outcomes that there were. All of their launches have to have been evaluated."""
        self._page = self._used = 0

    def _room(self, count: int) -> tuple[np.ndarray, int]:
        """
        :return: as many numbers that the GPU can write to, all 0, and their address
        :raises MemoryError: no more memory can be locked
        """
        needed = 4 * count
        if self._page < len(self._pages) and self._used + needed > self._pages[self._page].bytes.size:
            self._page, self._used = self._page + 1, 0
        if self._page == len(self._pages):
            self._pages.append(self._new_page())
        page = self._pages[self._page]
        if self._used == 0:
            page.reserve(needed)
        start, self._used = self._used, self._used + needed
        numbers = page.bytes[start : self._used].view(np.float32)
        numbers[:] = 0.0
        return numbers, page.place + start

    def run(self, program: Program, rows: int, before: mx.array, sent: Sent) -> tuple[mx.array, Outcome]:
        """
        :param program: what to compute
        :param rows: of all steps
        :param before: the state
        :param sent: what it reads besides
        :return: the new state, and the outcome: to be read once the state has been evaluated
        :raises MemoryError: no more memory can be locked
        """
        loaded = self._load(program)
        numbers, place = self._room(Outcome.size(-(-rows // program.batch)))
        inputs = [loaded.tasks, self._counter, before, *sent]
        scalars = (loaded.first, len(loaded.tasks), before.size, program.batch, rows, *halves(place))
        shapes = [before.shape, (loaded.scratch,)]
        return self._start(inputs, shapes, scalars), Outcome(numbers)

    @staticmethod
    def _new_page() -> PageLocked:
        return PageLocked()

    @staticmethod
    def _start(inputs: list[mx.array], shapes: Sequence[Any], scalars: tuple[int, ...]) -> mx.array:
        return _kernel()(inputs, [*shapes], (blocks_at_once(_SHARED_MEMORY), 1), THREADS, scalars)[0]

    def _load(self, program: Program) -> _Loaded:
        known = self._loaded.get(id(program))
        if known is None:
            tasks, first = program.tasks()
            loaded = _Loaded(mx.array(tasks), first, program.scratch_size)
            mx.eval(loaded.tasks)
            known = self._loaded[id(program)] = program, loaded
        return known[1]
