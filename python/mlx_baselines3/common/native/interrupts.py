"""Ctrl-C and a model that is changing: it waits until the change is whole, but not for the computation."""

# Not `signal`, which looks for every handler in an enum: that takes longer than all else here.
import _signal  # type: ignore[import-not-found]
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

__all__ = ["interrupts_allowed", "interrupts_deferred"]

_Handler = Callable[[int, FrameType | None], Any]

# Signals whose handlers raise exceptions: KeyboardInterrupt, and what programs make of a request to end.
_SIGNALS = (_signal.SIGINT, _signal.SIGTERM)


class _Deferral:
    """Takes the place of the signals' handlers, and calls them later."""

    def __init__(self) -> None:
        self._handlers: dict[int, _Handler] = {}
        self._waiting: list[tuple[int, FrameType | None]] = []
        self._allowed = False

    def begin(self) -> None:
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            # None, SIG_DFL and SIG_IGN raise nothing.
            if callable(handler):
                self._handlers[number] = handler
                _signal.signal(number, self._on_signal)

    def end(self) -> None:
        try:
            for number, handler in self._handlers.items():
                if _signal.getsignal(number) == self._on_signal:  # nobody has set another one meanwhile
                    _signal.signal(number, handler)
        finally:
            # If a handler has raised in between, this object is still in the place of the other one.
            self._allowed = True
            self.call_waiting()

    def set_to(self, allowed: bool) -> bool:
        """:return: whether signals came through before"""
        before = self._allowed
        try:
            self._allowed = allowed
            if allowed:
                self.call_waiting()
        except BaseException:
            self._allowed = before
            raise
        return before

    def call_waiting(self) -> None:
        while self._waiting:
            number, frame = self._waiting.pop(0)
            self._handlers[number](number, frame)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._allowed:
            self._handlers[number](number, frame)
        else:
            self._waiting.append((number, frame))


# Signals reach the main thread alone, so that one is enough.
_current: _Deferral | None = None


class _Block:
    """
    A ``with`` block. No generator: every update enters a handful, and each would cost more than what is done.

    :param allowed: whether signals come through in it, or wait
    """

    __slots__ = ("_allowed", "_before", "_begun", "_deferral")

    def __init__(self, allowed: bool):
        self._allowed = allowed

    def __enter__(self) -> None:
        global _current
        self._begun = self._deferral = None
        if threading.current_thread() is not threading.main_thread():
            return
        if _current is not None:
            self._before = _current.set_to(self._allowed)
            self._deferral = _current
        elif not self._allowed:
            try:
                self._begun = _current = _Deferral()
                self._begun.begin()
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *error: Any) -> None:
        global _current
        if self._deferral is not None:
            self._deferral.set_to(self._before)
        elif self._begun is not None:
            _current = None
            self._begun.end()


def interrupts_deferred() -> AbstractContextManager[None]:
    """
    Let Ctrl-C wait for the end of a block, so that everything in it happens or nothing. In threads other than
    the main one, which signals do not reach, nothing changes.

    :return: what begins the block
    """
    return _Block(allowed=False)


def interrupts_allowed() -> AbstractContextManager[None]:
    """
    Let Ctrl-C through in a part of :func:`interrupts_deferred` that computes and changes nothing yet.

    :return: what begins that part
    """
    return _Block(allowed=True)
