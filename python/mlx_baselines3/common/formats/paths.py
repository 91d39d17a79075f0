"""Opening files as SB3 does: suffixes are added, folders created, streams passed through."""

import functools
import io
import pathlib
import warnings
from typing import IO

from mlx_baselines3.common.formats.archive import ModelFileError, target_path

Stream = io.BufferedWriter | io.BufferedReader | io.BytesIO | io.BufferedRandom
_STREAMS = (io.BufferedWriter, io.BufferedReader, io.BytesIO, io.BufferedRandom)
_ZIP = b"PK\x03\x04"
_MODES = {"write": "w", "read": "r", "w": "w", "r": "r"}


@functools.singledispatch
def open_path(
    path: str | pathlib.Path | io.BufferedIOBase, mode: str, verbose: int = 0, suffix: str | None = None
) -> Stream:
    """
    Open a file for reading or writing, or check an open stream.

    :param path: a path, or a binary stream, which is returned unchanged
    :param mode: ``"r"`` or ``"read"``, ``"w"`` or ``"write"``
    :param verbose: at 2, warn when a file is replaced, or was only found with its suffix
    :param suffix: without a dot; added to a path without one when writing, tried second when reading
    :return: the open stream. A missing folder is created, and ``_2`` is appended to a path that is a folder,
        both with a warning
    :raises TypeError: if ``path`` is neither a path nor a binary stream
    :raises ValueError: if the stream is closed or does not fit the mode, or the mode is unknown
    :raises FileNotFoundError: if a file to read does not exist, with and without suffix
    """
    if not isinstance(path, _STREAMS):
        raise TypeError(f"Path {path} parameter has invalid type: expected a path or one of {_STREAMS}.")
    if path.closed:
        raise ValueError(f"File stream {path} is closed.")
    kind = _MODES.get(mode.lower())
    if kind is None:
        raise ValueError(f"Expected mode to be either 'w' or 'r', not {mode!r}.")
    if not (path.writable() if kind == "w" else path.readable()):
        raise ValueError(f"Expected a {'writable' if kind == 'w' else 'readable'} file.")
    return path


@open_path.register(str)
def open_path_str(path: str, mode: str, verbose: int = 0, suffix: str | None = None) -> Stream:
    """
    :func:`open_path` for a string.

    :param path: the path
    :param mode: ``"w"`` or ``"r"``
    :param verbose: see :func:`open_path`
    :param suffix: see :func:`open_path`
    :return: the open stream
    """
    return open_path_pathlib(pathlib.Path(path), mode, verbose, suffix)


@open_path.register(pathlib.Path)
def open_path_pathlib(path: pathlib.Path, mode: str, verbose: int = 0, suffix: str | None = None) -> Stream:
    """
    :func:`open_path` for a ``pathlib.Path``.

    :param path: the path
    :param mode: ``"w"`` or ``"r"``
    :param verbose: see :func:`open_path`
    :param suffix: see :func:`open_path`
    :return: the open stream
    """
    kind = _MODES.get(mode.lower())
    if kind is None:
        raise ValueError(f"Expected mode to be either 'w' or 'r', not {mode!r}.")
    if kind == "w":
        return target_path(path, verbose, suffix).open("wb")
    try:
        return _opened(path)
    except FileNotFoundError:
        if not suffix:
            raise
    longer = pathlib.Path(f"{path}.{suffix}")
    if verbose >= 2:
        warnings.warn(f"Path '{path}' not found. Attempting {longer}.", stacklevel=2)
    return _opened(longer)


def _opened(path: pathlib.Path) -> Stream:
    if path.exists() and not path.is_file() and not path.is_dir():
        # Opening a pipe would wait for its writer, and a device may yield endless bytes.
        raise ModelFileError(f"{path} is a pipe or a device, expected a seekable file.")
    return path.open("rb")


def starts_as_archive(stream: IO[bytes], label: str) -> bool:
    """
    :param stream: a binary file; its position is kept
    :param label: name of the file in error messages
    :return: whether a zip starts here, and not a pickle
    :raises ModelFileError: if it is empty or not seekable
    """
    try:
        start = stream.tell()
        begin = stream.read(len(_ZIP))
        stream.seek(start)
    except OSError as error:
        raise ModelFileError(f"{label} cannot be read: a seekable file is needed.") from error
    if not begin:
        raise ModelFileError(f"{label} is empty, or an open file at its end: call seek(0) first.")
    return begin == _ZIP
