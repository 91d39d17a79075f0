"""
Replay buffers in files of their own: archives of JSON and safetensors, or SB3's pickles.

The archive holds ``replay_buffer/layout`` (class, spaces, sizes) and ``replay_buffer/columns.safetensors``,
which is written and read row by row. Rows that are not in use are not written.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import warnings
from typing import Any

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.formats.archive import (
    ArchiveReader,
    Content,
    ModelFileError,
    atomic_open,
    bounded_json,
    printable,
    write_entries,
)
from mlx_baselines3.common.formats.classes import class_of
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.formats.names import UnknownName, path_of
from mlx_baselines3.common.formats.paths import open_path, starts_as_archive
from mlx_baselines3.common.formats.version import check_format, version_entries
from mlx_baselines3.common.saving.buffer_parts import Layout, empty_buffer, layout_of
from mlx_baselines3.common.saving.buffer_stream import read_buffer, write_buffer
from mlx_baselines3.common.saving.sb3_buffers import NotABuffer, read_pickled_buffer

__all__ = ["load_replay_buffer", "save_replay_buffer"]

_FOLDER = "replay_buffer/"
_LAYOUT, _COLUMNS = f"{_FOLDER}layout", f"{_FOLDER}columns.safetensors"

FileOrStream = str | pathlib.Path | io.BufferedIOBase


def save_replay_buffer(buffer: ReplayBuffer, path: FileOrStream, verbose: int = 0) -> None:
    """
    Write a replay buffer as an archive. A file given by its path is replaced as a whole.

    :param buffer: the buffer
    :param path: the file (".pkl" is added if there is no suffix, as in SB3) or an open binary file
    :param verbose: 2 to be told of a file that is replaced
    :raises ValueError: if its class cannot be found again by its import path, or a space cannot be kept
    """
    lost: list[str] = []
    layout = layout_of(buffer)
    try:
        parts = {name: Encoder().encode(value, name) for name, value in layout._asdict().items()}
        parts["class"] = path_of(type(buffer))
    except (UnknownName, Unencodable) as error:
        raise ValueError(
            f"A {type(buffer).__name__} cannot be kept in a file: {error}. Define its class in a module."
        ) from error
    columns = write_buffer(buffer, lost, type(buffer).__name__, by_itself=True)
    if lost:
        warnings.warn(
            f"Not kept in the replay buffer's file: {', '.join(lost)}. Only numbers, texts, arrays and "
            "containers of them are.",
            stacklevel=3,
        )
    entries: dict[str, Content] = {
        _LAYOUT: json.dumps({**parts, "lost": lost}).encode(),
        _COLUMNS: columns,
        **version_entries(),
    }
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path, verbose, suffix="pkl") as stream:
            write_entries(stream, entries)
    else:
        write_entries(open_path(path, "w", verbose), entries)


def load_replay_buffer(path: FileOrStream, verbose: int = 0) -> Any:
    """
    Read a replay buffer that this package or SB3 (1.5 to 2.9) saved, without executing anything that is in
    the file. Its contents decide how it is read, not its suffix.

    :param path: a path (tried with ".pkl" behind it if it is not there) or an open binary file
    :param verbose: 2 to be told when the suffix was needed
    :return: the buffer; HER's has no environment
    :raises NotABuffer: if it holds something else
    :raises ModelFileError: if it is damaged, or needs a class that is not imported
    :raises FileNotFoundError: if there is no such file
    """
    stream = open_path(path, "r", verbose, suffix="pkl")
    label = str(path) if isinstance(path, (str, pathlib.Path)) else "the replay buffer's file"
    with contextlib.nullcontext(stream) if stream is path else stream:
        if starts_as_archive(stream, label):
            return _read_archive(ArchiveReader(stream, label))
        return read_pickled_buffer(stream, label)


def _read_archive(archive: ArchiveReader) -> Any:
    if _LAYOUT not in archive.names:
        raise NotABuffer(
            f"{archive.label} is an archive, but not of a replay buffer: `save_replay_buffer` writes those."
        )
    check_format(archive)
    label = f"{archive.label}: {_LAYOUT}"
    try:
        parts = bounded_json(archive.text(_LAYOUT), archive.length, "it is")
        kind = class_of(parts["class"], ReplayBuffer)
        layout = Layout(*(Decoder().decode(parts[name]) for name in Layout._fields))
        lost = [text for text in parts["lost"] if isinstance(text, str)]
        buffer = empty_buffer(kind, layout)
    except (UnknownName, ModelFileError) as error:
        said = str(error)
        raise ModelFileError(said if said.startswith(archive.label) else f"{label}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{label} is damaged ({error!r:.200}).") from error
    read_buffer(buffer, archive, _COLUMNS)
    if lost:
        warnings.warn(printable(f"Not part of {archive.label}: {', '.join(lost)[:1000]}."), stacklevel=4)
    return buffer
