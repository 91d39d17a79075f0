"""Atomic file replacement: readers see the old or the new file, even if the writer is killed."""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import secrets
import stat
import time
import warnings
from collections.abc import Iterator
from typing import IO, Any

_fcntl: Any
try:
    import fcntl as _fcntl
except ImportError:  # On Windows an open file cannot be removed, which serves as a lock.
    _fcntl = None

__all__ = ["atomic_open", "atomic_path", "target_path"]

FilePath = str | pathlib.Path
# A temporary file of another machine counts as abandoned after a day without writes.
_ABANDONED = 24 * 3600.0


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def target_path(path: pathlib.Path, verbose: int = 0, suffix: str | None = None) -> pathlib.Path:
    """
    Resolve the path that a file is written to, and create its folder.

    :param path: the requested path
    :param verbose: at 2, warn that an existing file will be replaced
    :param suffix: appended (without a dot) when ``path`` has none
    :return: ``path`` with the suffix; ``_2`` is appended if it is a folder (with a warning). Missing parent
        folders are created (with a warning).
    """
    if path.suffix == "" and suffix:
        path = pathlib.Path(f"{path}.{suffix}")
    if path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=3)
        return target_path(pathlib.Path(f"{path}_2"), verbose, suffix)
    if path.is_file() and verbose >= 2:
        warnings.warn(f"Path '{path}' exists, will overwrite it.", stacklevel=3)
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=3)
        path.parent.mkdir(exist_ok=True, parents=True)
    return path


@contextlib.contextmanager
def atomic_open(path: FilePath, verbose: int = 0, suffix: str | None = None) -> Iterator[IO[bytes]]:
    """
    Open a file for writing so that readers see either the old or the new contents, never a part.

    The bytes go to a temporary file in the same folder, are flushed to disk, and the file is renamed to the
    target when the block ends. If the block raises, the temporary file is removed and the target unchanged.
    Temporary files of killed processes are removed by the next writer of the same target.

    :param path: path of the file
    :param verbose: see :func:`target_path`
    :param suffix: see :func:`target_path`
    :return: a context manager giving a binary file, open for reading and writing
    """
    target = target_path(pathlib.Path(path), verbose, suffix)
    if target.exists() and not target.is_file():
        # A device or a pipe cannot be replaced by renaming.
        with target.open("wb") as stream:
            yield stream
        return
    real = pathlib.Path(os.path.realpath(target))
    _remove_abandoned(real)
    with _temporary(real) as (temporary, stream):
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        if real.exists():
            os.chmod(temporary, stat.S_IMODE(real.stat().st_mode))
        if os.name == "nt":
            stream.close()
        os.replace(temporary, real)
    _sync_folder(real.parent)


@contextlib.contextmanager
def atomic_path(path: FilePath) -> Iterator[pathlib.Path]:
    """
    :func:`atomic_open` for code that opens the file itself, by name.

    :param path: path of the file; its suffix is kept
    :return: a context manager giving the path to write to
    """
    real = pathlib.Path(os.path.realpath(target_path(pathlib.Path(path))))
    _remove_abandoned(real)
    with _temporary(real, real.suffix) as (temporary, stream):
        yield temporary
        if os.name == "nt":
            stream.close()
        os.replace(temporary, real)
    _sync_folder(real.parent)


@contextlib.contextmanager
def _temporary(real: pathlib.Path, suffix: str = "") -> Iterator[tuple[pathlib.Path, IO[bytes]]]:
    """A new locked file in the folder of ``real``, removed at the end unless it was renamed."""
    while True:
        name = f"{_prefix(real)}{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp{suffix}"
        temporary = real.with_name(name)
        stream = temporary.open("x+b")
        # Between the two, another process may consider the file abandoned; it then holds the lock.
        _lock(stream, wait=True)
        if os.name == "nt" or os.fstat(stream.fileno()).st_nlink > 0:
            break
        stream.close()
    try:
        with stream:
            yield temporary, stream
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _lock(stream: IO[bytes], wait: bool) -> bool:
    """:return: whether the file is locked now; False also if the file system does not support locks"""
    if _fcntl is None:
        return False
    try:
        _fcntl.flock(stream.fileno(), _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _prefix(real: pathlib.Path) -> str:
    return f".{real.name[:100]}."


def _remove_abandoned(real: pathlib.Path) -> None:
    """
    Remove the temporary files of killed writers. A writer holds a lock on its file, which ends with its
    process. A process id would not suffice: in containers it is often the same.
    """
    pattern = re.compile(
        re.escape(_prefix(real))
        + r"(?:([0-9a-f]{8})\.)?[0-9]+\.[0-9a-f]{8}\.tmp"
        + rf"(?:{re.escape(real.suffix)})?"
    )
    with contextlib.suppress(OSError), os.scandir(real.parent) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match is not None and entry.is_file(follow_symlinks=False):
                _remove_if_abandoned(pathlib.Path(entry.path), match[1] == _host())


def _remove_if_abandoned(temporary: pathlib.Path, is_ours: bool) -> None:
    with contextlib.suppress(OSError):
        # Locks may not work across machines.
        if not is_ours and time.time() - temporary.stat().st_mtime < _ABANDONED:
            return
        if _fcntl is None:
            temporary.unlink()
            return
        with temporary.open("r+b") as stream:
            if _lock(stream, wait=False):
                temporary.unlink()


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the rename durable across power loss, where the system allows opening a folder."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
