"""What MLX keeps for each thread of Python, and what a fork leaves of it.

MLX's streams and its random generator belong to threads. A model goes from thread to thread all the same:
its arrays are evaluated where a call ends (``_evaluated.py``), and its random numbers go on in the next
thread.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import mlx.core as mx
import numpy as np

__all__ = [
    "CompiledFunctions",
    "GeneratorPlace",
    "computing",
    "inside_call",
    "random_key",
    "random_state_kept",
    "seeded_by_user",
    "set_random_key",
    "tracing",
    "use_generator",
    "use_mlx",
    "with_fork",
]

Answer = TypeVar("Answer")

# Older versions of MLX have one generator and one set of streams for all threads.
_PER_THREAD = hasattr(mx, "clear_streams") and not isinstance(mx.random.state, list)

# Held while the networks of a model hold the placeholders of a trace, and by those who read them meanwhile.
tracing = threading.RLock()


class _Process:
    """
    This process, or what a fork made of it.

    :param forked: whether it is a forked child
    :param used: whether it, or the parent before the fork, has used MLX
    :param lost: why MLX cannot be used any more
    """

    def __init__(self, forked: bool = False, used: bool = False, lost: str | None = None):
        self.forked = forked
        self.used = used
        self.lost = lost


class _ThreadEnd:
    """
    Destroyed by its thread when that ends, and then gives up what MLX keeps for the thread.

    MLX's own destructor of the thread's generator asks for Python's lock when `join` has returned already. If
    the interpreter is ending by then, the process dies with "terminate called without an active exception".
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._get_ident = threading.get_ident
        self._clear = mx.clear_streams

    def __del__(self) -> None:
        if self._get_ident() == self._thread:
            self._clear()


class _Local(threading.local):
    """What is known about the present thread."""

    def __init__(self) -> None:
        self.token = object()
        # The processes for which the thread's generator, and its streams, are ready.
        self.generator_of: _Process | None = None
        self.streams_of: _Process | None = None
        self.end: _ThreadEnd | None = None
        self.from_entropy = False
        # The generator's key when a model last left it.
        self.seen = b""
        self.key: tuple[Any, bytes] = (None, b"")
        self.depth = 0
        self.version = 0


_local = _Local()
_process = _Process()
# Threads that are computing with MLX.
_active: set[object] = set()
_first_key: bytes | None = None


def random_key() -> bytes:
    """:return: the key of this thread's generator, 8 bytes"""
    array = mx.random.state[0]  # type: ignore[index]
    known, key = _local.key
    if array is not known:
        key = np.asarray(array).tobytes()
        _local.key = array, key
    return key


@contextmanager
def random_state_kept() -> Iterator[None]:
    """
    Keep MLX's random generator usable when a function raises while it is traced: its key would be left
    a placeholder, and every later draw of the process would fail.
    """
    (key,) = cast(Iterable[mx.array], mx.random.state)
    try:
        yield
    except BaseException:
        high, low = np.asarray(key).tolist()
        mx.random.seed(high << 32 | low)
        raise


def set_random_key(key: bytes) -> None:
    """
    :param key: what :func:`random_key` gave, in any thread
    """
    high, low = np.frombuffer(key, np.uint32).tolist()
    mx.random.seed(high << 32 | low)


def _key_of_new_threads() -> bytes:
    """The key that MLX gives every thread to begin with; it depends on the time of its first use."""
    global _first_key
    if _first_key is None:
        keys: list[bytes] = []

        def read() -> None:
            keys.append(np.asarray(mx.random.state[0]).tobytes())  # type: ignore[index]
            mx.clear_streams()

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        _first_key = keys[0]
    return _first_key


def seeded_by_user() -> None:
    """Called when this thread's generator was seeded: a forked child goes on with the seed's numbers."""
    _local.from_entropy = False


def use_generator() -> None:
    """
    To be called before MLX's random numbers are used. The first time in a thread, a generator that nobody has
    seeded or drawn from is seeded from the operating system's entropy. So is that of a forked child, if its
    parent's was: otherwise all children would draw the same numbers.
    """
    if _local.generator_of is not _process:
        _begin_generator()


def _begin_generator() -> None:
    if _PER_THREAD:
        if _local.generator_of is None:
            if threading.get_ident() != threading.main_thread().ident:
                _local.end = _ThreadEnd()
            _local.seen = _key_of_new_threads()
            _local.from_entropy = random_key() == _local.seen
        if _local.from_entropy:
            mx.random.seed(int.from_bytes(os.urandom(8), "little"))
            _local.seen = random_key()
    _local.generator_of = _process


def use_mlx() -> None:
    """
    To be called before MLX computes something.

    :raises RuntimeError: this is a forked child in which MLX would wait for ever
    """
    if _local.streams_of is not _process:
        _begin_streams()


def _begin_streams() -> None:
    if _process.lost is not None:
        raise RuntimeError(
            "MLX cannot be used in this process, which was forked from one that had used it: "
            f"{_process.lost}. Start the process with multiprocessing.get_context('spawn') or 'forkserver' "
            "instead of 'fork'. "
            "Only predict() of policies that the native actor computes works here."
        )
    if _process.forked and threading.get_ident() == threading.main_thread().ident:
        # The thread behind the parent's stream was not copied by the fork.
        mx.set_default_stream(mx.new_stream(mx.Device(mx.cpu)))
    use_generator()
    _process.used = True
    _local.streams_of = _process


@contextmanager
def computing() -> Iterator[None]:
    """
    For computations with MLX: a fork from another thread meanwhile leaves the child without MLX.

    :raises RuntimeError: this is a forked child in which MLX would wait for ever
    """
    use_mlx()
    token = _local.token
    inside = token in _active
    _active.add(token)
    _local.depth += 1
    try:
        yield
    finally:
        _local.depth -= 1
        if not inside:
            _active.discard(token)


def inside_call() -> bool:
    """:return: whether this thread is inside :func:`computing`"""
    return _local.depth > 0


class GeneratorPlace:
    """
    Where a model's random numbers have got to, so that they go on in whichever thread the next call is made.

    A model follows the generator of the thread it is used in, as it would follow torch's only one. In another
    thread than that of the last call, the generator first takes over the key that the last call left behind,
    unless someone has seeded or used it since a model left it.
    """

    def __init__(self) -> None:
        self._thread = _local.token
        self._key: bytes | None = None
        self._version = 0
        self._lock, self._lock_of = threading.RLock(), _process

    def __deepcopy__(self, memo: dict[int, Any]) -> "GeneratorPlace":
        clone = GeneratorPlace()
        clone._thread, clone._key, clone._version = self._thread, self._key, self._version
        return clone

    def __reduce__(self) -> tuple[Any, ...]:
        return GeneratorPlace, ()

    def enter(self) -> bool:
        """
        Let this thread's generator go on where the model's last call stopped.

        :return: whether :meth:`leave` is to be called; not inside another call, whose numbers go on
        """
        use_generator()
        if not _PER_THREAD or _local.depth > 0:
            return False
        if self._thread is not _local.token and self._key is not None and random_key() == _local.seen:
            set_random_key(self._key)
        _local.version = self._version
        return True

    def leave(self, always: bool = True) -> None:
        """
        Keep the place for the next call.

        :param always: False if a call that ended meanwhile in another thread keeps its place
        """
        if not _PER_THREAD:
            return
        _local.seen = random_key()
        if always or self._version == _local.version:
            self._thread, self._key = _local.token, _local.seen
            self._version += 1

    def draw(self, draws: bool, work: Callable[[], Answer]) -> Answer:
        """
        :param draws: whether the work may draw random numbers
        :param work: a short call, for instance a prediction
        :return: what it gives
        """
        if not draws or _local.depth > 0:
            return work()
        # One after the other: two threads that start from the same key would draw the same numbers.
        with self._current_lock():
            kept = self.enter()
            try:
                return work()
            finally:
                # A `learn` that ended meanwhile in another thread keeps its place.
                if kept:
                    self.leave(always=False)

    def _current_lock(self) -> Any:
        if self._lock_of is not _process:
            # After a fork: a thread that the child does not have may hold the old one.
            self._lock, self._lock_of = threading.RLock(), _process
        return self._lock


class CompiledFunctions(threading.local):
    """
    Functions compiled by MLX, by any name, for each thread its own: MLX keeps what it compiled in the thread
    that called, and forgets it only in the thread that compiled.
    """

    def __init__(self) -> None:
        self.by_name: dict[Any, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledFunctions, ()


_lock_sources: list[Callable[[], Iterable[Any]]] = [lambda: (tracing,)]
_held: list[Any] = []
_renewed: list[Callable[[], None]] = []


def with_fork(
    locks: Callable[[], Iterable[Any]] | None = None, renew: Callable[[], None] | None = None
) -> None:
    """
    :param locks: gives locks that no other thread may hold during a fork
    :param renew: called in the child
    """
    if locks is not None:
        _lock_sources.append(locks)
    if renew is not None:
        _renewed.append(renew)


def _before_fork() -> None:
    for source in _lock_sources:
        for lock in source():
            lock.acquire()
            _held.append(lock)
    if _local.streams_of is _process:
        mx.synchronize()
    if _local.generator_of is _process:
        random_key()


def _release() -> None:
    while _held:
        _held.pop().release()


def _has_gpu() -> bool:
    if hasattr(mx, "is_available"):
        return bool(mx.is_available(mx.gpu))
    return bool(mx.default_device().type == mx.gpu)


def _why_lost(parent: _Process) -> str | None:
    if parent.lost is not None or not parent.used:
        return parent.lost
    if _active - {_local.token}:
        return "another thread was computing at that moment, and what it had locked stays locked"
    if sys.platform != "linux" or _has_gpu():
        return "a GPU's state cannot be taken over"
    return None


def _in_child() -> None:
    global _process
    _process = _Process(forked=True, used=_process.used, lost=_why_lost(_process))
    _active.intersection_update({_local.token})
    for renew in _renewed:
        renew()
    _release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_release, after_in_child=_in_child)
