"""
Which classes and objects each slot of a model file accepts: the table of ``docs/saving.md``, as code.

The same rule applies when a model is saved (values that loading would reject are reported at once), and when
this package's or SB3's files are read. It checks values that are created but not used yet: until a value has
passed, nothing chosen by a file has been called.
"""

import enum
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.names import (
    NO_SCHEDULE,
    UnknownName,
    derives,
    find,
    is_class,
    path_of,
    public_path,
)

__all__ = ["KINDS", "SLOTS", "check", "is_schedule_object", "schedule_object", "schedule_state"]

_COMMON = "mlx_baselines3.common"
# The required base of each kind of class.
KINDS: dict[str, str] = {
    "policy": f"{_COMMON}.policies:BasePolicy",
    "features extractor": f"{_COMMON}.torch_layers:BaseFeaturesExtractor",
    "activation": "mlx.nn:Module",
    "optimizer": "mlx.optimizers:Optimizer",
    "replay buffer": f"{_COMMON}.buffers:ReplayBuffer",
    "rollout buffer": f"{_COMMON}.buffers:RolloutBuffer",
}
# The allowed classes of this package for each kind of object.
OBJECTS: dict[str, tuple[str, ...]] = {
    "schedule": tuple(f"{_COMMON}.utils:{name}Schedule" for name in ("Float", "Linear", "Constant")),
    "action noise": tuple(
        f"{_COMMON}.noise:{name}ActionNoise" for name in ("Normal", "OrnsteinUhlenbeck", "Vectorized")
    ),
    "train frequency": (f"{_COMMON}.type_aliases:TrainFreq", f"{_COMMON}.type_aliases:TrainFrequencyUnit"),
    "goal selection strategy": ("mlx_baselines3.her.goal_selection_strategy:GoalSelectionStrategy",),
}
# What each slot accepts, by the nearest key or attribute name around a value. All others accept data only,
# which includes this package's objects: they only compute with their numbers.
SLOTS: dict[str, str] = {
    "policy_class": "policy",
    "features_extractor_class": "features extractor",
    "activation_fn": "activation",
    "optimizer_class": "optimizer",
    "replay_buffer_class": "replay buffer",
    "rollout_buffer_class": "rollout buffer",
    **dict.fromkeys(("learning_rate", "lr_schedule", "clip_range", "clip_range_vf"), "schedule"),
    **dict.fromkeys(("exploration_schedule", "value_schedule"), "schedule"),
    **dict.fromkeys(("action_noise", "_base_noise", "_noises"), "action noise"),
    "train_freq": "train frequency",
    "goal_selection_strategy": "goal selection strategy",
}
_DATA_OBJECTS = {
    f"{_COMMON}.running_mean_std:RunningMeanStd",
    *(name for kind in OBJECTS.values() for name in kind),
}
# Modules that no slot accepts as an activation.
_NOT_ACTIVATIONS = (f"{_COMMON}.policies:BaseModel", KINDS["features extractor"])
_SCALARS = (bool, int, float, str)


def check(value: Any, path: str) -> None:
    """
    Check a value that was read, or is to be saved, against the table.

    :param value: the value of an attribute
    :param path: the attribute's name, for slots and messages
    :raises UnknownName: if it contains a class, function or object that its slot does not accept
    """
    _check(value, path, path.rpartition(".")[2])


def _check(value: Any, path: str, slot: str) -> None:
    if is_class(value):
        _check_class(value, path, slot)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            # A key that is not a string is not the name of a slot, and can itself be a class.
            _check(key, path, "")
            _check(item, f"{path}.{key!s:.60}", key if type(key) is str else "")
    elif isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == "deque":
        if type(value) is not tuple and isinstance(value, tuple):
            _check_object(value, path, slot)
        for item in value:
            _check(item, path, slot)
    elif not _is_data(value):
        _check_object(value, path, slot)


def _is_data(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, np.ndarray)):
        return not callable(value) and not _is_own_enum(value)
    return type(value).__module__.partition(".")[0] in ("mlx", "gymnasium", "numpy", "pathlib")


def _is_own_enum(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "mlx_baselines3"


def _check_class(value: type, path: str, slot: str) -> None:
    name = f"`{value.__module__}:{value.__qualname__}`"
    if derives(value, np.generic) or value in (bool, int, float, complex, str, bytes):
        # A NumPy scalar type is data. A slot for a class does not accept it either.
        if slot in SLOTS:
            raise UnknownName(f"{name} is no {SLOTS[slot]}, which {path} takes")
        return
    kind = SLOTS.get(slot)
    if kind not in KINDS:
        takes = f"takes a {kind}" if kind else "takes no class"
        raise UnknownName(f"{path} {takes}, and {name} is a class")
    if not derives(value, _base(KINDS[kind])) or (kind == "activation" and _is_other_network(value)):
        raise UnknownName(f"{path} takes a class of the kind '{kind}', and {name} is none")


def _base(path: str) -> type:
    try:
        found: type = find(path)
    except UnknownName:
        # Its module is not imported yet, so nothing derives from it.
        return _Nothing
    return found


class _Nothing:
    """A class without subclasses."""


def _is_other_network(value: type) -> bool:
    return any(derives(value, _base(path)) for path in _NOT_ACTIVATIONS)


def _check_object(value: Any, path: str, slot: str) -> None:
    kind, name = SLOTS.get(slot), public_path(value) if _is_function(value) else public_path(type(value))
    if name == NO_SCHEDULE and kind == "schedule":
        return
    if _is_function(value):
        raise UnknownName(f"`{name}` is a function, and a file's functions are not called")
    if name in (OBJECTS.get(kind, ()) if kind else _DATA_OBJECTS):
        if not isinstance(value, (tuple, enum.Enum)):
            _check(vars(value), path, "")
    elif kind == "schedule" and is_schedule_object(value):
        schedule_state(value)
    else:
        takes = f"takes a {kind}" if kind else "takes data only"
        raise UnknownName(f"{path} {takes}, and this is an object of `{name}`")


def _is_function(value: Any) -> bool:
    return type(value) in (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def is_schedule_object(value: Any) -> bool:
    """
    Whether a schedule is of a class outside this package that a file may name.

    :param value: an object
    :return: True for a pure-Python class with ``__call__`` whose objects consist of their attributes
    """
    try:
        _check_schedule_class(type(value))
    except UnknownName:
        return False
    return True


def _check_schedule_class(kind: type) -> None:
    name = f"`{kind.__module__}:{kind.__qualname__}`"
    bases = type.__dict__["__mro__"].__get__(kind)[:-1]
    if type(kind) is not type or not bases:
        raise UnknownName(f"{name} has a metaclass, so a file makes no objects of it")
    for base in bases:
        root = base.__module__.partition(".")[0]
        if root in sys.stdlib_module_names or root in ("mlx_baselines3", "mlx", "gymnasium", "numpy"):
            raise UnknownName(f"{name} is not a pure-Python class of a program's own")
        own = vars(base)
        plain = not own.get("__slots__") and all(
            type(own.get(hook, None)) in (types.NoneType, types.GetSetDescriptorType)
            for hook in ("__dict__", "__getattribute__", "__setattr__", "__new__", "__del__")
        )
        # The heap type flag: objects of classes written in C do not consist of attributes.
        if not plain or not kind.__flags__ & (1 << 9):
            raise UnknownName(f"{name} is not made of plain attributes only")
    call = next((vars(base)["__call__"] for base in bases if "__call__" in vars(base)), None)
    if type(call) is not types.FunctionType or call.__code__.co_argcount != 2:
        raise UnknownName(f"{name} has no `__call__` that takes the remaining progress")


def schedule_state(value: Any) -> dict[str, Any]:
    """
    The attributes of a schedule object of a user's class.

    :param value: the object
    :return: its attributes
    :raises UnknownName: if the class is not allowed, or an attribute is not a number, string or boolean
    """
    _check_schedule_class(type(value))
    path_of(type(value))
    state = dict(vars(value))
    _check_schedule_state(type(value), state)
    return state


def schedule_object(path: str, state: Any) -> Any:
    """
    Create a schedule object of a user's class, without running its ``__init__``.

    :param path: the class
    :param state: its attributes
    :return: the object
    :raises UnknownName: if the class is not allowed, or an attribute is not a number, string or boolean
    :raises ModelFileError: if ``state`` is not a table of attributes
    """
    kind = find(path)
    _check_schedule_class(kind)
    if not isinstance(state, dict):
        raise ModelFileError(f"the attributes stored for a {kind.__name__} are not a table of names.")
    _check_schedule_state(kind, state)
    made = object.__new__(kind)
    object.__getattribute__(made, "__dict__").update(state)
    return made


def _check_schedule_state(kind: type, state: Mapping[Any, Any]) -> None:
    members = {name for base in kind.__mro__ for name, item in vars(base).items() if _is_member(item)}
    for name, item in state.items():
        if type(name) is not str or not name.isidentifier() or name.startswith("__") or name in members:
            raise UnknownName(f"`{kind.__qualname__}` has no attribute {name!r:.60} to be restored")
        if type(item) not in _SCALARS and not isinstance(item, (np.floating, np.integer, np.bool_)):
            raise UnknownName(
                f"the attribute `{name}` of a `{kind.__qualname__}` is a {type(item).__name__}, and only "
                "numbers, strings and booleans are kept"
            )


def _is_member(item: Any) -> bool:
    """Whether an attribute of a class is more than a default value of its objects."""
    return callable(item) or hasattr(type(item), "__get__") or hasattr(type(item), "__set__")
