"""Buffers in files, streamed row by row: writing and reading need hardly any additional memory."""

import json
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import ArchiveReader, ModelFileError, bounded_json
from mlx_baselines3.common.formats.attributes import encode_attributes, restore_attributes
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.saving.buffer_parts import check_buffer, layout_of

__all__ = ["read_buffer", "write_buffer"]

_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError)

# Set by the constructor, or not stored.
_SKIPPED = ("env", "_columns", "_valid", "_scratch", "_terminal", "_added")
# Tags of `encode_attributes` for values that are not objects with attributes.
_VALUES = {"value", "objects"}
# Prefix of the names of a replay buffer's terminal observations.
_TERMINAL = "terminal."


def write_buffer(
    buffer: Any, unsaved: list[str], path: str, by_itself: bool = False
) -> Iterator[bytes | memoryview]:
    """
    Write a rollout or replay buffer, without unused rows.

    :param buffer: the buffer; must not change until everything is written
    :param unsaved: receives the paths of attributes that cannot be stored
    :param path: name of the buffer in these paths
    :param by_itself: whether the reader creates the columns only, and not the other attributes of a
        subclass's constructor; objects cannot be stored then
    :return: the contents of a safetensors file, in pieces
    """
    arrays: dict[str, np.ndarray] = {}
    # With optimize_memory_usage the row at the cursor is the next observation of the previous row.
    rows = min(buffer.size() + 1, buffer.buffer_size)
    # Unless a rollout was flattened for its minibatches, or a subclass has replaced the array.
    whole = {
        id(buffer._column(name)) for name, spec in buffer._columns.items() if _as_made(buffer, name, spec)
    }

    def store(path: str, array: Any) -> str:
        if not isinstance(array, np.ndarray) or not _safetensors.is_storable(array.dtype):
            raise Unencodable(f"{path} is not an array of numbers")
        name = f"{len(arrays)}{path}"
        arrays[name] = array[:rows] if id(array) in whole else array
        return name

    fields = encode_attributes(buffer, _SKIPPED, unsaved, path, Encoder(store))
    if by_itself:
        unsaved += [f"{path}.{name}" for name, part in fields.items() if not part.keys() & _VALUES]
        fields = {name: part for name, part in fields.items() if part.keys() & _VALUES}
    if hasattr(buffer, "_terminal_arrays"):
        arrays |= {_TERMINAL + key: array for key, array in buffer._terminal_arrays().items()}
    return _safetensors.pieces(arrays, {"structure": json.dumps(fields, allow_nan=False)})


def _as_made(buffer: Any, name: str, spec: tuple[tuple[int, ...], Any]) -> bool:
    """Whether a column is as created by the buffer's constructor, so that the reader has memory for it."""
    column = buffer._column(name)
    shape = (buffer.buffer_size, buffer.n_envs, *spec[0])
    return isinstance(column, np.ndarray) and column.shape == shape and column.dtype == np.dtype(spec[1])


class _Reader:
    """Finds the memory for each array before any of them is read."""

    def __init__(self, places: list[_safetensors.Place]) -> None:
        self._places = {place.name: place for place in places}
        self._decoder = Decoder(self._places)
        self._homes: dict[str, np.ndarray] = {}

    def resolve(self, encoded: Any, present: Any) -> Any:
        return self._home(self._decoder.decode(encoded), present)

    def _home(self, value: Any, present: Any) -> Any:
        if isinstance(value, _safetensors.Place):
            if value.name in self._homes:
                # Only one of the two would get the numbers.
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
        """New arrays for the names with a prefix, by the rest of their names."""
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
            # Any byte other than 0 and 1 would be an invalid boolean.
            target[start : start + len(piece)] = numbers != 0 if flags else numbers


def read_buffer(buffer: Any, archive: ArchiveReader, name: str) -> None:
    """
    Restore the contents of a buffer into a new one, within its memory.

    :param buffer: a buffer created with the same arguments
    :param archive: the archive
    :param name: its entry, written by :func:`write_buffer`
    :raises ModelFileError: if it is corrupted, or belongs to a different buffer
    """
    label = f"{archive.label}: {name}"
    layout = layout_of(buffer) if isinstance(buffer, ReplayBuffer) else None
    with archive.open(name) as stream:
        places, metadata = _safetensors.read_header(stream, archive.size(name), label, archive.length)
        reader = _Reader(places)
        try:
            structure = bounded_json(metadata["structure"], archive.length, "it is")
            restore_attributes(buffer, structure, reader.resolve)
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
