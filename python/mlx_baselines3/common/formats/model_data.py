"""Attributes of a model as JSON; the public names are in :mod:`~mlx_baselines3.common.save_util`."""

import base64
import json
import warnings
from collections.abc import Iterable
from typing import Any

import cloudpickle

from mlx_baselines3.common.formats import slots as _slots
from mlx_baselines3.common.formats.archive import ArchiveReader, ModelFileError, bounded_json, printable
from mlx_baselines3.common.formats.json_codec import TAG, Decoder, Encoder, Unencodable
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip

__all__ = ["Attributes", "bounded_json", "data_to_json", "json_to_data", "read_attributes"]

_SERIALIZED = ":serialized:"


class Attributes(dict[str, Any]):
    """
    Attributes of a model by name.

    :param values: the attributes
    :param trusted: names of attributes given by the user, or unpickled with the user's consent
    """

    def __init__(self, values: dict[str, Any], trusted: Iterable[str] = ()) -> None:
        super().__init__(values)
        self.trusted = frozenset(trusted)


class _NeedsPickle(UnknownName):
    """An entry that only unpickling can restore."""

    def __init__(self, reason: str, pickled: bytes) -> None:
        super().__init__(reason)
        self.pickled = pickled


def data_to_json(data: dict[str, Any], allow_pickle: bool = False) -> str:
    """
    Write a model's attributes as JSON (:mod:`~mlx_baselines3.common.save_util` lists the supported values).

    :param data: attributes by name
    :param allow_pickle: store other values (a lambda, an object of some class) as pickles, which run code
        when they are read; otherwise such an attribute is omitted, with a warning that names it
    :return: JSON
    """
    entries: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for key, item in data.items():
        try:
            entries[key] = Encoder().encode(item, key)
            # Values that loading would reject are not written.
            _slots.check(item, key)
        except (Unencodable, UnknownName) as error:
            entries[key], reason = {TAG: "missing", "class": str(type(item))}, str(error)
            if allow_pickle:
                pickled = base64.b64encode(cloudpickle.dumps(item)).decode()
                entries[key] |= {TAG: "pickle", _SERIALIZED: pickled}
            else:
                entries[key]["reason"] = problems[key] = reason
    if problems:
        said = "; ".join(f"`{key}` cannot be kept in the model file: {why}" for key, why in problems.items())
        warnings.warn(
            f"{said}. Give {_replacements(problems)} when loading, or save with allow_pickle=True.",
            stacklevel=5,
        )
    return json.dumps(entries, indent=4)


def _replacements(names: Iterable[str]) -> str:
    return f"custom_objects={{{', '.join(f'{name!r}: ...' for name in names)}}}"


def json_to_data(
    json_string: str, custom_objects: dict[str, Any] | None = None, allow_pickle: bool = False
) -> dict[str, Any]:
    """
    Read a model's attributes from JSON, ours or SB3's. Nothing is executed unless ``allow_pickle`` is set.

    :param json_string: the result of :func:`data_to_json`
    :param custom_objects: values to use instead of the stored ones, for names that are stored
    :param allow_pickle: open stored pickles, with a warning that names them; only for files that you trust
        like a program
    :return: attributes by name. What cannot be restored is omitted, with a warning that names it
    :raises ValueError: if ``custom_objects`` is neither a dict nor None
    :raises ModelFileError: if the JSON is corrupted
    """
    if custom_objects is not None and not isinstance(custom_objects, dict):
        raise ValueError(
            f"custom_objects argument must be a dict or None, not {type(custom_objects).__name__}"
        )
    available = len(json_string)
    return _restored(_json_table(json_string, available), custom_objects, allow_pickle, available)


def read_attributes(
    archive: ArchiveReader, custom_objects: dict[str, Any] | None = None, allow_pickle: bool = False
) -> "Attributes":
    """
    Read a model's attributes from a file.

    :param archive: the file
    :param custom_objects: see :func:`json_to_data`
    :param allow_pickle: see :func:`json_to_data`
    :return: see :func:`json_to_data`
    :raises ModelFileError: if they are corrupted
    """
    try:
        entries = _json_table(archive.text("data"), archive.length)
        return _restored(entries, custom_objects, allow_pickle, archive.length)
    except ModelFileError as error:
        raise ModelFileError(f"{archive.label}: data: {error}") from error


def _restored(
    entries: dict[str, Any], custom_objects: dict[str, Any] | None, allow_pickle: bool, available: int
) -> "Attributes":
    data: dict[str, Any] = {}
    missing: dict[str, UnknownName] = {}
    for key, entry in entries.items():
        if custom_objects is not None and key in custom_objects:
            data[key] = custom_objects[key]
            continue
        try:
            value = _decode_entry(entry, available)
            _slots.check(value, key)
            data[key] = value
        except UnknownName as error:
            missing[key] = error
        except ModelFileError as error:
            raise ModelFileError(f"The stored value of `{key}` is corrupted: {error}") from error
    opened = _opened(missing, allow_pickle)
    if missing:
        said = ", ".join(f"`{key}` ({error})" for key, error in missing.items())
        warnings.warn(
            printable(
                f"Could not restore {said}. Consider using the `custom_objects` argument to replace it: "
                f"{_replacements(missing)}."
            ),
            stacklevel=6,
        )
    return Attributes({**data, **opened}, {*(custom_objects or ()), *opened})


def _opened(missing: dict[str, UnknownName], allow_pickle: bool) -> dict[str, Any]:
    """The values of the pickles in ``missing``, if they may be opened; they are removed from it."""
    pickles = {key: entry for key, entry in missing.items() if isinstance(entry, _NeedsPickle)}
    if not pickles or not allow_pickle:
        return {}
    names = ", ".join(f"`{key}`" for key in pickles)
    warnings.warn(f"Opening pickles of the model file, which can run any code: {names}.", stacklevel=7)
    opened = {}
    for key, entry in pickles.items():
        try:
            opened[key] = cloudpickle.loads(entry.pickled)
            del missing[key]
        except Exception as error:  # Unpickling can raise anything.
            missing[key] = UnknownName(f"unpickling it failed with {error!r:.300}")
    return opened


def _json_table(json_string: str, available: int) -> dict[str, Any]:
    entries = bounded_json(json_string, available, "The model's attributes are")
    if not isinstance(entries, dict):
        raise ModelFileError(f"The model's attributes are a {type(entries).__name__}, expected a table.")
    return entries


def _decode_entry(entry: Any, available: int) -> Any:
    if not isinstance(entry, dict) or TAG not in entry:
        return Decoder().decode(entry)
    if entry[TAG] == "missing":
        raise UnknownName(f"it was not saved, because {entry.get('reason')!s:.300}")
    if not isinstance(entry.get(_SERIALIZED), str):
        return Decoder().decode(entry)
    try:
        pickled = base64.b64decode(entry[_SERIALIZED], validate=True)
    except ValueError as error:
        raise ModelFileError(f"not base64 ({error}).") from error
    if entry[TAG] == "pickle":
        reason = "it was saved as a pickle, which can run any code: allow_pickle=True opens it"
        raise _NeedsPickle(reason, pickled)
    try:
        return sb3_zip.read_pickle(pickled, available)
    except UnknownName as error:
        raise _NeedsPickle(str(error), pickled) from error
