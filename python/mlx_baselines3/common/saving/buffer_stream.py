"""Buffers in files, row by row: writing or reading one takes hardly more memory than the buffer itself."""

import json
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import ArchiveReader, ModelFileError, bounded_json
from mlx_baselines3.common.formats.attributes import put, take
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.saving.buffer_parts import check_buffer, layout_of

__all__ = ["read_buffer", "write_buffer"]

_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError)

# Given by the constructor, or not part of what is stored.
_SKIPPED = ("env", "_columns", "_valid", "_scratch", "_terminal")
# How `take` describes what is not an object with attributes of its own.
_VALUES = {"value", "objects"}
# In front of the names of a replay buffer's terminal observations.
_TERMINAL = "terminal."


def write_buffer(
    buffer: Any, lost: list[str], path: str, by_itself: bool = False
) -> Iterator[bytes | memoryview]:
    """
    Write a rollout or replay buffer, without the rows that are not in use yet.

    :param buffer: the buffer; not to be changed until everything is written
    :param lost: receives the paths of attributes that cannot be kept
    :param path: what to call the buffer in there
    :param by_itself: whether only its columns will be there when it is read, and not what the constructor of
        a subclass makes besides: objects cannot be kept then
    :return: the contents of a safetensors file, a piece at a time
    """
    arrays: dict[str, np.ndarray] = {}
    # With optimize_memory_usage the row at the cursor is the next observation of the one before.
    rows = min(buffer.size() + 1, buffer.buffer_size)
    # Unless a rollout was flattened for its minibatches, or a subclass has put an array of its own there.
    whole = {
        id(buffer._column(name)) for name, spec in buffer._columns.items() if _as_made(buffer, name, spec)
    }

    def store(path: str, array: Any) -> str:
        if not isinstance(array, np.ndarray) or not _safetensors.is_storable(array.dtype):
            raise Unencodable(f"{path} is no array of numbers")
        name = f"{len(arrays)}{path}"
        arrays[name] = array[:rows] if id(array) in whole else array
        return name

    fields = take(buffer, _SKIPPED, lost, path, Encoder(store))
    if by_itself:
        lost += [f"{path}.{name}" for name, part in fields.items() if not part.keys() & _VALUES]
        fields = {name: part for name, part in fields.items() if part.keys() & _VALUES}
    if hasattr(buffer, "_terminal_arrays"):
        arrays |= {_TERMINAL + key: array for key, array in buffer._terminal_arrays().items()}
    return _safetensors.pieces(arrays, {"structure": json.dumps(fields, allow_nan=False)})


def _as_made(buffer: Any, name: str, spec: tuple[tuple[int, ...], Any]) -> bool:
    """Whether a column is as the buffer's constructor makes it, so that its home is there when reading."""
    column = buffer._column(name)
    shape = (buffer.buffer_size, buffer.n_envs, *spec[0])
    return isinstance(column, np.ndarray) and column.shape == shape and column.dtype == np.dtype(spec[1])


class _Reader:
    """Finds a home for each array before any of them is read."""

    def __init__(self, places: list[_safetensors.Place]) -> None:
        self._places = {place.name: place for place in places}
        self._decoder = Decoder(self._places)
        self._homes: dict[str, np.ndarray] = {}

    def settle(self, encoded: Any, present: Any) -> Any:
        return self._home(self._decoder.decode(encoded), present)

    def _home(self, value: Any, present: Any) -> Any:
        if isinstance(value, _safetensors.Place):
            if value.name in self._homes:
                # Only one of them would get the numbers.
                raise ModelFileError(f"the array '{value.name}' is used twice.")
            home = present if isinstance(present, np.ndarray) and _fits(value, present) else None
            if home is None:
                home = np.empty(value.shape, value.dtype)
            self._homes[value.name] = home
            return home
        if type(value) is dict:
            known = present if isinstance(present, dict) else {}
            return {key: self._home(item, known.get(key)) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._home(item, None) for item in value)
        return value

    def fresh(self, prefix: str) -> dict[str, np.ndarray]:
        """New arrays for those whose names begin so, by the rest of their names."""
        names = [name for name in self._places if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._home(self._places[name], None) for name in names}

    def read(self, stream: IO[bytes], label: str) -> None:
        for place in self._places.values():
            home = self._homes.get(place.name)
            rows = None if home is None else home[: place.shape[0]] if place.shape else home
            _read_into(rows, place.stop - place.start, stream, place.tag == "BOOL", label)
        if stream.read(1):
            raise ModelFileError(f"{label} is longer than it says.")


def _fits(place: _safetensors.Place, array: np.ndarray) -> bool:
    if place.dtype != array.dtype or len(place.shape) != array.ndim or not array.flags.c_contiguous:
        return False
    return place.shape[1:] == array.shape[1:] and place.shape[:1] <= array.shape[:1]


def _read_into(home: np.ndarray | None, size: int, stream: IO[bytes], flags: bool, label: str) -> None:
    target = None if home is None else home.reshape(-1).view(np.uint8)
    for start in range(0, size, _safetensors.PIECE):
        expected = min(_safetensors.PIECE, size - start)
        piece = stream.read(expected)
        if len(piece) != expected:
            raise ModelFileError(f"{label} ends early.")
        if target is not None:
            numbers = np.frombuffer(piece, np.uint8)
            # Any byte but 0 and 1 would be an invalid boolean.
            target[start : start + len(piece)] = numbers != 0 if flags else numbers


def read_buffer(buffer: Any, archive: ArchiveReader, name: str) -> None:
    """
    Give a new buffer what another one held. Its arrays stay where they are in memory.

    :param buffer: a buffer made with the same arguments
    :param archive: the archive
    :param name: its entry that :func:`write_buffer` wrote
    :raises ModelFileError: if it is damaged, or made for another buffer
    """
    label = f"{archive.label}: {name}"
    layout = layout_of(buffer) if isinstance(buffer, ReplayBuffer) else None
    with archive.open(name) as stream:
        places, metadata = _safetensors.read_header(stream, archive.size(name), label, archive.length)
        reader = _Reader(places)
        try:
            put(buffer, bounded_json(metadata["structure"], archive.length, "it is"), reader.settle)
            terminal = reader.fresh(_TERMINAL)
            reader.read(stream, label)
            if terminal:
                buffer._load_terminal(**terminal)
            check_buffer(buffer, layout)
        except ModelFileError as error:
            raise ModelFileError(
                str(error) if str(error).startswith(label) else f"{label}: {error}"
            ) from error
        except _DAMAGE as error:
            raise ModelFileError(f"{label} does not fit the {type(buffer).__name__} ({error}).") from error
