"""
Names of classes in files, and which classes they may refer to.

Names are looked up only in modules that are already imported and in those of this package's algorithms, and
only classes are found.
:mod:`~mlx_baselines3.common.formats.slots` decides which classes are allowed where, for this package's and
SB3's files alike.
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
# The only function that files refer to: a policy has it among its constructor's arguments.
NO_SCHEDULE = f"{_OWN}.common.policies:BasePolicy._dummy_schedule"
_NOTHING = ("cloudpickle", "torch", "pytest", "_pytest", "setuptools", "pip", "pkg_resources")
# Private modules, and the public module (SB3's, if SB3 has the name) that exports their names. Files contain
# public names; files of version 0.1.0 contain private ones. Renamed modules stay in this table.
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
    """A name in a file that cannot be resolved, or is not allowed. The message says why."""


def public_path(thing: Any) -> str:
    """
    The public name by which files refer to a class, independent of the module that defines it.

    :param thing: a class or function
    :return: ``"module:qualified.name"``
    """
    return current_path(f"{thing.__module__}:{thing.__qualname__}")


def current_path(path: str) -> str:
    """
    Replace the private module in a name from an old file by the public one.

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
    The name by which :func:`find` returns a class.

    :param thing: the class, or the schedule of a policy that is only loaded to predict
    :return: ``"module:qualified.name"``, with a public module
    :raises UnknownName: if the name does not resolve to it (a function, a local class)
    """
    path = public_path(thing)
    if "<" in path:
        raise UnknownName(f"`{thing.__qualname__}` is defined inside a function, so it has no import path")
    if find(path) is not thing:
        raise UnknownName(f"another object has taken the name `{path}`")
    return path


def find(path: str) -> Any:
    """
    Look up a class in the modules that are already imported, without calling anything or importing a module
    of the file's choosing.

    It finds the classes of this package, MLX's layers and optimizers, NumPy's scalar types, a few builtin
    types, and classes of other imported modules. The standard library is excluded: nothing in it belongs in a
    model, and much of it could be misused.

    :param path: ``"module:qualified.name"``; private modules of earlier versions are supported
    :return: the class; a function only for :data:`NO_SCHEDULE`
    :raises UnknownName: if it does not exist, or is not allowed
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
    if root == _OWN and module_name not in sys.modules:
        _import_algorithms()
    found: Any = sys.modules.get(module_name)
    if found is None:
        raise UnknownName(f"the module `{module_name:.200}` is not imported; import it before loading")
    for part in qualified.split("."):
        # vars(), not getattr(): a __getattr__ could run code of the file's choosing.
        found = vars(found).get(part) if is_class(found) or type(found) is types.ModuleType else None
        found = found.__func__ if type(found) is staticmethod else found
    _check_found(found, path, root)
    return found


def _import_algorithms() -> None:
    # What `from mlx_baselines3 import *` imports: a fixed list, and nothing of the file's choosing.
    package = sys.modules[_OWN]
    for name in package.__all__:
        getattr(package, name)


def is_class(thing: Any) -> bool:
    """
    ``isinstance(thing, type)`` by the object's type only: an overridden ``__class__`` could run code.

    :param thing: anything
    :return: whether it is a class
    """
    return type in type(thing).__mro__


def derives(kind: Any, base: type) -> bool:
    """
    ``issubclass`` without hooks of a metaclass.

    :param kind: anything
    :param base: a class
    :return: whether ``kind`` is ``base`` or a subclass of it
    """
    return is_class(kind) and base in type.__dict__["__mro__"].__get__(kind)


def _check_found(found: Any, path: str, root: str) -> None:
    if path == NO_SCHEDULE and type(found) is types.FunctionType:
        return
    if type(found) is types.FunctionType:
        raise UnknownName(f"`{path:.200}` is a function, and a file's functions are not called")
    if not is_class(found):
        raise UnknownName(f"`{path:.200}` is not a class of a module that is imported")
    # A module can re-export names of another one ("mypackage.tools:system"). Only this package and MLX may:
    # they do so on purpose.
    detour = f"{found.__module__}:{found.__qualname__}" != path
    if detour and not (root in (_OWN, "mlx") and found.__module__.partition(".")[0] == root):
        raise UnknownName(f"`{path:.200}` is really `{found.__module__}:{found.__qualname__}`")
    if root == "numpy" and not derives(found, np.generic):
        raise UnknownName(f"`{path:.200}` is not a NumPy scalar type")


def find_class(path: str, base: type) -> Any:
    """
    Look up a subclass of a class in this package.

    :param path: see :func:`find`
    :param base: the required base class
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
