"""Classes and functions by name: how a file refers to them, and which references are followed."""

import collections
import enum
import sys
import types
from typing import Any

import numpy as np

from mlx_baselines3.common._archive import ModelFileError

_BUILTIN_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, object)
}
# A file chooses which of these is called with which arguments, so functions that read files, import modules
# or start programs must be out of its reach. What is left of these packages' functions is harmless.
_CLASSES_ONLY = ("gymnasium", "mlx_baselines3")
# ... except what a policy keeps among its constructor's arguments.
_FUNCTIONS = {"mlx_baselines3.common.base_policy:BasePolicy._dummy_schedule"}
_NOTHING = ("cloudpickle", "torch", "pytest", "_pytest", "setuptools", "pip", "pkg_resources")


class UnknownName(LookupError):
    """A name in a file that cannot, or may not, be followed. The text says why."""


def path_of(thing: type | types.FunctionType) -> str:
    """
    Name a class or a module-level function so that :func:`find` gives it back.

    :param thing: the class or function
    :return: ``"module:qualified.name"``
    :raises UnknownName: if the name would not lead back to it (a lambda, a local class, one that is refused)
    """
    path = f"{thing.__module__}:{thing.__qualname__}"
    if "<" in path:
        raise UnknownName(
            f"`{thing.__qualname__}` is defined inside a function, so no import path leads to it"
        )
    if find(path) is not thing:
        raise UnknownName(f"another object has taken the name `{path}`")
    return path


def find(path: str) -> Any:
    """
    Look up a class or module-level function among the modules that are already imported. Never imports.

    Found are this package's classes, MLX's and Gymnasium's, NumPy's scalar types, a few builtin types, and
    whatever the program itself defines or has imported. The rest of the standard library is refused: nothing
    in it belongs into a model, and much of it could be misused.

    :param path: ``"module:qualified.name"``
    :return: the class or function
    :raises UnknownName: if there is none, or it is refused
    """
    module_name, _, qualified = path.partition(":")
    root = module_name.partition(".")[0]
    if root == "builtins" and qualified in _BUILTIN_TYPES:
        return _BUILTIN_TYPES[qualified]
    if path == "collections:OrderedDict":
        return collections.OrderedDict
    if root in sys.stdlib_module_names or root in sys.builtin_module_names or root in _NOTHING:
        raise UnknownName(f"`{path}` is outside what a model file may refer to")
    found: Any = sys.modules.get(module_name)
    if found is None:
        raise UnknownName(f"the module `{module_name}` is not imported; import it before loading")
    for part in qualified.split("."):
        # vars(), not getattr(): a module's or class's __getattr__ could run code of the file's choosing.
        found = vars(found).get(part) if isinstance(found, (type, types.ModuleType)) else None
        found = found.__func__ if isinstance(found, staticmethod) else found
    _check_found(found, path, root)
    return found


def _check_found(found: Any, path: str, root: str) -> None:
    if path in _FUNCTIONS and isinstance(found, types.FunctionType):
        return
    is_function = isinstance(found, types.FunctionType)
    if not isinstance(found, type) and not (is_function and "." not in found.__qualname__):
        raise UnknownName(f"`{path}` is not a class or function of a module that is imported")
    # A module can be a detour to another one's names ("mypackage.tools:system"). Within this package, names
    # are handed on on purpose.
    detour = f"{found.__module__}:{found.__qualname__}" != path
    if detour and not (root == "mlx_baselines3" and found.__module__.startswith("mlx_baselines3.")):
        raise UnknownName(f"`{path}` is really `{found.__module__}:{found.__qualname__}`")
    if root == "numpy" and not (isinstance(found, type) and issubclass(found, np.generic)):
        raise UnknownName(f"`{path}` is not a NumPy scalar type")
    if root == "mlx" and is_function and not found.__module__.startswith(("mlx.nn.", "mlx.optimizers.")):
        raise UnknownName(f"`{path}` is a function of MLX, but not of its networks or optimizers")
    if root in _CLASSES_ONLY and is_function:
        raise UnknownName(f"`{path}` is a function, and only classes of {root} may be referred to")


def find_class(path: str, base: type) -> Any:
    """
    Look up a class that must derive from another.

    :param path: see :func:`find`
    :param base: the class that it must derive from
    :return: the class
    :raises UnknownName: see :func:`find`
    :raises ModelFileError: if it is something else
    """
    found = find(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        kind = "enumeration" if base is enum.Enum else base.__name__
        raise ModelFileError(f"`{path}` was saved as a kind of {kind}, and it is not one.")
    return found
