"""Programs on an NVIDIA GPU: the kernel, what it needs besides, and where the host reads the outcome."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.cuda.nvrtc import Kernel, blocks_at_once
from mlx_baselines3.common.cuda.program import Program
from mlx_baselines3.common.cuda.program_layout import BLOCKS_AT_ONCE, THREADS, Outcome, kernel_source
from mlx_baselines3.common.cuda.upload import PageLocked, halves

__all__ = ["Launcher", "Sent", "is_compiled"]

# Bytes that the threads of a block share.
_SHARED_MEMORY = 46 << 10
# Rows of a step from which on there are as many blocks for each multiprocessor as possible, and not two: more
# of them hide each other's waiting for memory, and take longer to wait for each other.
_MANY_ROWS = 4096
# Numbers from one count to the next, so that they do not share a line of the cache.
_COUNTER_SIZE = 32
_HEAD = """
#define SHARED __shared__
#define PAUSE()
#if __CUDA_ARCH__ >= 800
// Four bytes from the GPU's memory to the block's, zeros if not inside; this thread goes on meanwhile.
__device__ void copy_later(float* to, const float* from, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
               "l"(from), "r"(inside ? 4 : 0));
}
#define COPY_LATER copy_later
#define CLOSE_COPIES() asm volatile("cp.async.commit_group;")
#define AWAIT_COPIES() asm volatile("cp.async.wait_group 1;")
#else
#define COPY_LATER(to, from, inside) *(to) = (inside) ? *(from) : 0.f
#define CLOSE_COPIES()
#define AWAIT_COPIES()
#endif
"""


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

    Its blocks wait for each other, so that they must be on the GPU at once: there are no more of them than
    fit there.
    """

    def __init__(self) -> None:
        self._loaded: dict[int, tuple[Program, _Loaded]] = {}
        # Count the blocks that have arrived at a wait, in all launches. One number by itself would be in
        # memory that MLX shares with the host: a wait takes a millisecond there.
        self._counters = mx.zeros(((BLOCKS_AT_ONCE + 1) * _COUNTER_SIZE,), mx.uint64)
        self._pages: list[PageLocked] = []
        self._page = self._used = 0
        mx.eval(self._counters)

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
        inputs = [loaded.tasks, self._counters, before, *sent]
        wanted = BLOCKS_AT_ONCE if program.batch >= _MANY_ROWS else 2
        # A count for each number of blocks.
        sizes = (before.size, program.batch, rows, wanted * _COUNTER_SIZE)
        scalars = (loaded.first, len(loaded.tasks), *sizes, *halves(place))
        shapes = [before.shape, (loaded.scratch,)]
        return self._start(inputs, shapes, scalars, wanted), Outcome(numbers)

    @staticmethod
    def _new_page() -> PageLocked:
        return PageLocked()

    @staticmethod
    def _start(
        inputs: list[mx.array], shapes: Sequence[Any], scalars: tuple[int, ...], wanted: int
    ) -> mx.array:
        blocks = blocks_at_once(_SHARED_MEMORY, wanted)
        return _kernel()(inputs, [*shapes], (blocks, 1), THREADS, scalars)[0]

    def _load(self, program: Program) -> _Loaded:
        known = self._loaded.get(id(program))
        if known is None:
            tasks, first = program.tasks()
            loaded = _Loaded(mx.array(tasks), first, program.scratch_size)
            mx.eval(loaded.tasks)
            known = self._loaded[id(program)] = program, loaded
        return known[1]
