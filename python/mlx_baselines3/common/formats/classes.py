"""Objects that a file restores from attributes: which classes and which attributes are allowed."""

import types
from collections.abc import Mapping
from typing import Any

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.names import UnknownName, find

__all__ = ["check_attribute", "class_of"]

_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def class_of(path: Any, base: type) -> Any:
    """
    Look up a subclass of a class. User classes must already be imported.

    :param path: its import path in the file
    :param base: the required base class
    :return: the class
    :raises UnknownName: if it does not exist, or is not allowed
    :raises ModelFileError: if it is something else
    """
    if type(path) is not str:
        raise ModelFileError(f"a {type(path).__name__} stands where the name of a class was expected.")
    found = find(path)
    # Not isinstance and issubclass, which call hooks of the metaclass.
    if type not in type(found).__mro__ or base not in type.__dict__["__mro__"].__get__(found):
        raise ModelFileError(f"`{path:.200}` was saved as a kind of {base.__name__}, and it is not one.")
    return found


def check_attribute(owner: type, name: Any, value: Any) -> None:
    """
    :param owner: the class of an object that gets an attribute from a file
    :param name: the name of the attribute
    :param value: its value
    :raises ModelFileError: if it cannot be an attribute, or would replace a method
    :raises UnknownName: if the value contains a class or function
    """
    known = isinstance(name, str) and name.isidentifier() and not name.startswith("__")
    if not known or callable(getattr(owner, name, None)):
        raise ModelFileError(f"a {owner.__name__} has no attribute {name!r:.80} to be restored.")
    _check_data(value, name)


def _check_data(value: Any, path: str) -> None:
    if isinstance(value, (type, *_CODE)):
        raise UnknownName(f"{path} takes data only, and `{value.__qualname__}` is none")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_data(key, path)
            _check_data(item, f"{path}.{key!s:.60}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _check_data(item, path)
