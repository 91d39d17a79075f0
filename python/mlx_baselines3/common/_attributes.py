"""Attributes of objects: taken out as data, and put back into objects that exist already."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._archive import ModelFileError
from mlx_baselines3.common._json_codec import Encoder, Unencodable

__all__ = ["put", "take"]

_PACKAGE = "mlx_baselines3"


def take(
    owner: Any, skip: Collection[str], lost: list[str], path: str, encoder: Encoder | None = None
) -> dict[str, Any]:
    """
    Note the attributes of an object, without the spaces, which its constructor gets.

    :param owner: the object
    :param skip: attributes that are left out
    :param lost: receives the paths of those that cannot be expressed
    :param path: what to call the object in there
    :param encoder: decides what becomes of arrays; without it they are part of the JSON
    :return: JSON-ready, for :func:`put`
    """
    fields = {}
    for name, value in vars(owner).items():
        if name in skip or isinstance(value, spaces.Space):
            continue
        try:
            fields[name] = _take(value, f"{path}.{name}", lost, encoder or Encoder())
        except Unencodable:
            lost.append(f"{path}.{name}")
    return fields


def _take(value: Any, path: str, lost: list[str], encoder: Encoder) -> dict[str, Any]:
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return {"objects": encoder.encode(value.tolist(), path), "shape": list(value.shape)}
    if isinstance(value, dict) and value and all(map(_is_own, value.values())):
        return {"table": {key: _take(item, f"{path}.{key}", lost, encoder) for key, item in value.items()}}
    try:
        return {"value": encoder.encode(value, path)}
    except Unencodable:
        if not _is_own(value):
            raise
    if any("__reduce__" in vars(kind) for kind in type(value).__mro__[:-1]):
        kind, arguments = value.__reduce__()[:2]
        if kind is type(value):
            return {"made": encoder.encode(arguments, path)}
    return {"fields": take(value, (), lost, path, encoder)}


def _is_own(value: Any) -> bool:
    """Whether an object's class is this package's, so that both ends know what its attributes mean."""
    return type(value).__module__.partition(".")[0] == _PACKAGE


def put(owner: Any, fields: Any, settle: Callable[[Any, Any], Any]) -> None:
    """
    Give an object the attributes that :func:`take` noted. Objects among them keep their class: a file decides
    about numbers, not about code.

    :param owner: the object
    :param fields: what :func:`take` gave
    :param settle: called with an encoded value and the present one, gives the new one
    :raises ModelFileError: if ``fields`` does not fit the object
    """
    if not isinstance(fields, dict):
        raise ModelFileError(f"the attributes of a {type(owner).__name__} are not a table.")
    for name, part in fields.items():
        if not name.isidentifier() or name.startswith("__") or callable(getattr(type(owner), name, None)):
            raise ModelFileError(f"a {type(owner).__name__} has no attribute '{name}' to be restored.")
        vars(owner)[name] = _put(vars(owner).get(name), part, settle)


def _put(present: Any, part: Any, settle: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(part, dict):
        raise ModelFileError("an attribute is not described by a table.")
    if "value" in part:
        return settle(part["value"], present)
    if "objects" in part:
        objects = np.empty(part["shape"], dtype=object)
        items = settle(part["objects"], None)
        if objects.size:
            # Item by item: NumPy would make arrays of what the items hold.
            for index in np.ndindex(objects.shape):
                item = items
                for place in index:
                    item = item[place]
                objects[index] = item
        return objects
    if not _is_own(present) and not isinstance(present, dict):
        raise ModelFileError(f"there is a {type(present).__name__} where an object was saved.")
    if "table" in part:
        return {key: _put(present[key], item, settle) for key, item in part["table"].items()}
    if "made" in part:
        return type(present)(*settle(part["made"], None))
    put(present, part.get("fields"), settle)
    return present
