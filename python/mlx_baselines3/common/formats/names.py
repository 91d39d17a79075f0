"""
Classes by name: how a file refers to them, and what a name in a file may lead to.

A name is only looked up among the modules that are imported already, and only classes are found. Which class
a place in a file takes is decided by :mod:`~mlx_baselines3.common.formats.slots`, for this package's files
and for SB3's alike.
"""

import collections
import enum
import sys
import types
from typing import Any

import numpy as np

from mlx_baselines3.common.formats.archive import ModelFileError

_OWN = "mlx_baselines3"
_BUILTIN_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, object)
}
# The one function that files name: a policy keeps it among its constructor's arguments.
NO_SCHEDULE = f"{_OWN}.common.policies:BasePolicy._dummy_schedule"
_NOTHING = ("cloudpickle", "torch", "pytest", "_pytest", "setuptools", "pip", "pkg_resources")
# Private modules, and the public one (SB3's, where SB3 has the name) that offers what they define. Files hold
# the public names; files of version 0.1.0 held the private ones. A renamed module stays in this table.
_PUBLIC_MODULES = {
    f"{_OWN}.common.{private}": f"{_OWN}.common.{public}"
    for private, public in {
        "actor_critic": "policies",
        "base_policy": "policies",
        "critics": "policies",
        "policies.actor_critic": "policies",
        "policies.base": "policies",
        "policies.critics": "policies",
        "buffers.base": "buffers",
        "buffers.replay": "buffers",
        "buffers.rollout": "buffers",
        "vec_env.native_vec_env": "vec_env",
        "vec_env.gym_vec_env": "vec_env",
        "vec_env.abstract": "vec_env.base_vec_env",
        "_types": "type_aliases",
    }.items()
}
_MLX_PACKAGES = ("mlx.nn", "mlx.optimizers")


class UnknownName(LookupError):
    """A name in a file that cannot, or may not, be followed. The text says why."""


def public_path(thing: Any) -> str:
    """
    The name of a class under which files refer to it: the public one, whichever module defines it.

    :param thing: a class or function
    :return: ``"module:qualified.name"``
    """
    return current_path(f"{thing.__module__}:{thing.__qualname__}")


def current_path(path: str) -> str:
    """
    Replace a private module in a name, which old files have, by the public one.

    :param path: ``"module:qualified.name"``
    :return: the same with a public module
    """
    module, _, qualified = path.partition(":")
    for package in _MLX_PACKAGES:
        if module.startswith(f"{package}."):
            return f"{package}:{qualified}"
    return f"{_PUBLIC_MODULES.get(module, module)}:{qualified}"


def path_of(thing: Any) -> str:
    """
    Name a class so that :func:`find` gives it back.

    :param thing: the class, or the schedule of a policy that is only loaded to predict
    :return: ``"module:qualified.name"``, with a public module
    :raises UnknownName: if the name would not lead back to it (a function, a local class)
    """
    path = public_path(thing)
    if "<" in path:
        raise UnknownName(
            f"`{thing.__qualname__}` is defined inside a function, so no import path leads to it"
        )
    if find(path) is not thing:
        raise UnknownName(f"another object has taken the name `{path}`")
    return path


def find(path: str) -> Any:
    """
    Look up a class among the modules that are already imported. Never imports, never calls.

    Found are the classes of this package, MLX's layers and optimizers, NumPy's scalar types, a few builtin
    types, and classes of other modules that the program has imported. The standard library is refused:
    nothing in it belongs into a model, and much of it could be misused.

    :param path: ``"module:qualified.name"``; private modules of earlier versions are understood
    :return: the class; a function only for :data:`NO_SCHEDULE`
    :raises UnknownName: if there is none, or it is refused
    """
    if type(path) is not str:
        raise UnknownName(f"a {type(path).__name__} stands where a name was expected")
    path = current_path(path)
    module_name, _, qualified = path.partition(":")
    root = module_name.partition(".")[0]
    if root == "builtins" and qualified in _BUILTIN_TYPES:
        return _BUILTIN_TYPES[qualified]
    if path == "collections:OrderedDict":
        return collections.OrderedDict
    if root in sys.stdlib_module_names or root in sys.builtin_module_names or root in _NOTHING:
        raise UnknownName(f"`{path:.200}` is outside what a model file may refer to")
    found: Any = sys.modules.get(module_name)
    if found is None:
        raise UnknownName(f"the module `{module_name:.200}` is not imported; import it before loading")
    for part in qualified.split("."):
        # vars(), not getattr(): a module's or class's __getattr__ could run code of the file's choosing.
        found = vars(found).get(part) if is_class(found) or type(found) is types.ModuleType else None
        found = found.__func__ if type(found) is staticmethod else found
    _check_found(found, path, root)
    return found


def is_class(thing: Any) -> bool:
    """
    ``isinstance(thing, type)`` that asks the object's type only: a ``__class__`` of its own could run code.

    :param thing: anything
    :return: whether it is a class
    """
    return type in type(thing).__mro__


def derives(kind: Any, base: type) -> bool:
    """
    ``issubclass`` that runs no hook of a metaclass.

    :param kind: anything
    :param base: a class
    :return: whether ``kind`` is a class that has ``base`` among its bases, or is it
    """
    return is_class(kind) and base in type.__dict__["__mro__"].__get__(kind)


def _check_found(found: Any, path: str, root: str) -> None:
    if path == NO_SCHEDULE and type(found) is types.FunctionType:
        return
    if type(found) is types.FunctionType:
        raise UnknownName(f"`{path:.200}` is a function, and a file's functions are not called")
    if not is_class(found):
        raise UnknownName(f"`{path:.200}` is not a class of a module that is imported")
    # A module can be a detour to another one's names ("mypackage.tools:system"). This package and MLX offer
    # names in other modules than those that define them on purpose.
    detour = f"{found.__module__}:{found.__qualname__}" != path
    if detour and not (root in (_OWN, "mlx") and found.__module__.partition(".")[0] == root):
        raise UnknownName(f"`{path:.200}` is really `{found.__module__}:{found.__qualname__}`")
    if root == "numpy" and not derives(found, np.generic):
        raise UnknownName(f"`{path:.200}` is not a NumPy scalar type")


def find_class(path: str, base: type) -> Any:
    """
    Look up a class of this package that must derive from another.

    :param path: see :func:`find`
    :param base: the class that it must derive from
    :return: the class
    :raises UnknownName: see :func:`find`; also for a class of another package
    :raises ModelFileError: if it is something else
    """
    found = find(path)
    if not derives(found, base):
        kind = "enumeration" if base is enum.Enum else base.__name__
        raise ModelFileError(f"`{path:.200}` was saved as a kind of {kind}, and it is not one.")
    if found.__module__.partition(".")[0] != _OWN:
        raise UnknownName(
            f"`{path:.200}` is not this package's, and a file makes no objects of other classes"
        )
    return found
