"""Attributes of objects, encoded as JSON-ready data and restored into existing objects."""

import enum
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats import slots as _slots
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.json_codec import Encoder, Unencodable
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.safetensors import is_shape

__all__ = ["encode_attributes", "restore_attributes"]

_PACKAGE = "mlx_baselines3"
_NUMBERS = (int, float, np.number)


def encode_attributes(
    owner: Any, skip: Collection[str], unsaved: list[str], path: str, encoder: Encoder | None = None
) -> dict[str, Any]:
    """
    Encode the attributes of an object, except for spaces, which are arguments of its constructor.

    :param owner: the object
    :param skip: attributes to omit
    :param unsaved: receives the paths of attributes that cannot be encoded
    :param path: name of the object in these paths
    :param encoder: decides how arrays are stored; by default they are part of the JSON
    :return: JSON-ready, for :func:`restore_attributes`
    """
    fields = {}
    for name, value in vars(owner).items():
        if name in skip or isinstance(value, spaces.Space):
            continue
        try:
            fields[name] = _encode(value, f"{path}.{name}", unsaved, encoder or Encoder())
        except Unencodable:
            unsaved.append(f"{path}.{name}")
    return fields


def _encode(value: Any, path: str, unsaved: list[str], encoder: Encoder) -> dict[str, Any]:
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return {"objects": encoder.encode(value.tolist(), path), "shape": list(value.shape)}
    if isinstance(value, dict) and value and all(map(_is_own, value.values())):
        return {
            "table": {key: _encode(item, f"{path}.{key}", unsaved, encoder) for key, item in value.items()}
        }
    try:
        return {"value": encoder.encode(value, path)}
    except Unencodable:
        if not _is_own(value):
            raise
    if any("__reduce__" in vars(kind) for kind in type(value).__mro__[:-1]):
        kind, arguments = value.__reduce__()[:2]
        if kind is type(value):
            return {"made": encoder.encode(arguments, path)}
    return {"fields": encode_attributes(value, (), unsaved, path, encoder)}


def _is_own(value: Any) -> bool:
    """Whether an object's class belongs to this package, which then knows its attributes."""
    return type(value).__module__.partition(".")[0] == _PACKAGE


def restore_attributes(
    owner: Any,
    fields: Any,
    resolve: Callable[[Any, Any], Any],
    skip: Collection[str] = (),
    same_shapes: bool = False,
) -> None:
    """
    Restore the attributes encoded by :func:`encode_attributes`. Objects among them keep their class, and
    values their kind: a file determines numbers, not code.

    :param owner: the object
    :param fields: the result of :func:`encode_attributes`
    :param resolve: called with an encoded value and the current one, returns the new one
    :param skip: attributes to ignore: the object has them from its constructor
    :param same_shapes: reject arrays whose shape differs from the current one
    :raises ModelFileError: if ``fields`` does not fit the object
    """
    kind = type(owner).__name__
    if not isinstance(fields, dict):
        raise ModelFileError(f"the attributes of a {kind} are not a table.")
    own = vars(owner)
    for name, part in fields.items():
        if name in skip:
            continue
        # Attributes of the class are code, or defaults that its objects override.
        taken = name in own or not hasattr(type(owner), name)
        if not taken or not name.isidentifier() or name.startswith("__"):
            raise ModelFileError(f"a {kind} has no attribute '{name:.80}' to be restored.")
        new = _restore(own.get(name), part, resolve, f"{kind}.{name}", same_shapes)
        if name in own:
            _check_kind(own[name], new, f"{kind}.{name}", same_shapes)
        own[name] = new


def _restore(
    present: Any, part: Any, resolve: Callable[[Any, Any], Any], path: str, same_shapes: bool
) -> Any:
    if not isinstance(part, dict):
        raise ModelFileError(f"{path} is not described by a table.")
    if "value" in part:
        new = resolve(part["value"], present)
        try:
            _slots.check(new, path)
        except UnknownName as error:
            raise ModelFileError(f"{error}.") from error
        return new
    if "objects" in part:
        return _objects(part, resolve, path)
    if not _is_own(present) and not isinstance(present, dict):
        raise ModelFileError(f"{path}: there is a {type(present).__name__} where an object was saved.")
    if "table" in part:
        table = part["table"]
        if not isinstance(present, dict) or not isinstance(table, dict) or table.keys() != present.keys():
            raise ModelFileError(f"{path} is not a table with the keys {list(present)!s:.200}.")
        return {
            key: _restore(present[key], item, resolve, f"{path}.{key}", same_shapes)
            for key, item in table.items()
        }
    if "made" in part:
        if resolve(part["made"], None) != ():
            raise ModelFileError(f"{path} is made with arguments.")
        return type(present)()
    restore_attributes(present, part.get("fields"), resolve, (), same_shapes)
    return present


def _objects(part: dict[str, Any], resolve: Callable[[Any, Any], Any], path: str) -> np.ndarray:
    """An array of objects, such as the infos of steps."""
    items, shape = resolve(part["objects"], None), part.get("shape")
    _slots.check(items, path)
    if not is_shape(shape) or not _has_shape(items, shape):
        raise ModelFileError(f"{path} is not an array of the shape {shape!s:.80}.")
    objects: np.ndarray = np.empty(tuple(shape or ()), dtype=object)
    if objects.size:
        # Item by item: NumPy would convert the items to arrays.
        for index in np.ndindex(objects.shape):
            item = items
            for place in index:
                item = item[place]
            objects[index] = item
    return objects


def _has_shape(items: Any, shape: Any) -> bool:
    if not shape:
        return True
    if not isinstance(items, list) or len(items) != shape[0]:
        return False
    return all(_has_shape(item, shape[1:]) for item in items)


def _check_kind(present: Any, new: Any, path: str, same_shapes: bool) -> None:
    """Reject a value whose kind does not match the current one."""
    if present is None:
        return
    if isinstance(present, np.ndarray) and isinstance(new, (np.ndarray, np.generic)):
        # NumPy converts a 0-d array to a scalar when something is added to it.
        # Some arrays are empty at first.
        # A user's buffer class may use wider dtypes than its base, whose constructor created this one.
        fits = new.dtype.kind == present.dtype.kind or present.size == 0
        fits = fits and (not same_shapes or new.shape == present.shape or present.size == 0)
    elif isinstance(present, _NUMBERS) and not isinstance(present, bool):
        fits = isinstance(new, (*_NUMBERS, np.ndarray)) and not isinstance(new, bool) and np.size(new) == 1
        fits = fits and (isinstance(new, (int, np.integer)) or not isinstance(present, int))
    else:
        fits = type(new) is type(present)
    if not fits:
        raise ModelFileError(f"{path} is {new!r:.80}, expected something like {present!r:.80}.")
    if _is_own(present) and not isinstance(present, enum.Enum):
        for name, value in vars(present).items():
            _check_kind(value, vars(new).get(name), f"{path}.{name}", same_shapes)
    elif isinstance(present, dict) and present:
        if new.keys() != present.keys():
            raise ModelFileError(f"{path} has the keys {list(new)!s:.80}, expected {list(present)!s:.80}.")
        for key, value in present.items():
            _check_kind(value, new[key], f"{path}.{key}", same_shapes)
