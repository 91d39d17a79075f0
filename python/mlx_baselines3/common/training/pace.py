"""Long graphs, handed to the device part by part: one evaluation of thousands of steps cannot be stopped."""

import time
from typing import Any

import mlx.core as mx

__all__ = ["Pace"]

# Gradient steps before anything is handed over: most updates have fewer, and are one graph.
_FIRST = 12
# Seconds that a part should take at most. Ctrl-C waits for two parts.
_LONGEST = 0.25


class Pace:
    """
    Evaluates a chain of steps on the way, while the next ones are being put together. The numbers are those
    of one evaluation at the end.

    How many steps make a part goes by the time that parts have taken; it is kept from update to update.
    """

    def __init__(self) -> None:
        self._part = _FIRST
        self._steps = 0
        self._running: Any = None
        self._since = 0.0

    def begin(self) -> None:
        """Start another chain."""
        self._steps, self._running, self._since = 0, None, time.monotonic()

    def record_step(self, arrays: Any) -> None:
        """
        Called after each step; waits for the part before the last one.

        :param arrays: tree of arrays, the outputs of the step
        """
        self._steps += 1
        if self._steps < self._part:
            return
        mx.async_eval(arrays)  # type: ignore[no-untyped-call]
        if self._running is not None:
            mx.eval(self._running)
        took, self._since = time.monotonic() - self._since, time.monotonic()
        if took > _LONGEST:
            self._part = max(self._part // 2, 1)
        elif took < _LONGEST / 4 and self._running is not None:
            self._part *= 2
        self._steps, self._running = 0, arrays
