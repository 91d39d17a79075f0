"""Constructors in the pickles of SB3's files, mapped to NumPy, Gymnasium, MLX and this package."""

import collections
import enum
import math
import re
from collections.abc import Callable
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.json_codec import PLAIN_OBJECTS, plain_object
from mlx_baselines3.common.formats.names import UnknownName, find, find_class
from mlx_baselines3.common.formats.safetensors import is_shape
from mlx_baselines3.common.formats.sb3.pickle_reader import (
    Evaluator,
    Global,
    Node,
    Table,
    checked_keys,
    ordered_dict,
)
from mlx_baselines3.common.formats.slots import schedule_object
from mlx_baselines3.common.formats.spaces import SPACE_NAMES, build_generator, build_space
from mlx_baselines3.common.nn.optimizers import RMSpropTFLike

_OWN, _SB3, _CONTRIB = "mlx_baselines3", "stable_baselines3", "sb3_contrib"
# The packages of SB3's files, and where their modules are here.
_PACKAGES = {_SB3: _OWN, _CONTRIB: f"{_OWN}.contrib"}
_SCHEDULES = f"{_SB3}.common.utils"
_UTILS = "mlx_baselines3.common.utils"
_DTYPE = re.compile(r"[<>|=]?[biufcSU][0-9]{1,9}")
_ACTIVATIONS = (
    *(
        "CELU",
        "ELU",
        "GELU",
        "Hardswish",
        "LeakyReLU",
        "LogSigmoid",
        "Mish",
        "PReLU",
        "ReLU",
        "ReLU6",
        "SELU",
    ),
    *("Sigmoid", "SiLU", "Softmax", "Softplus", "Softsign", "Tanh"),
)
_OPTIMIZERS = ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "RMSprop", "SGD")
TORCH_COUNTERPARTS: dict[tuple[str, str], Any] = {
    **{
        ("torch.nn.modules.activation", name): getattr(nn, name) for name in _ACTIVATIONS if hasattr(nn, name)
    },
    **{
        (f"torch.optim.{name.lower()}", name): getattr(optim, name)
        for name in _OPTIMIZERS
        if hasattr(optim, name)
    },
    # Missing in the oldest supported versions of MLX, and in its stubs.
    ("torch.nn.modules.linear", "Identity"): getattr(nn, "Identity", None),
    ("stable_baselines3.common.sb2_compat.rmsprop_tf_like", "RMSpropTFLike"): RMSpropTFLike,
}


def own_path(name: Global) -> str:
    """
    The import path in this package of one of SB3's or sb3-contrib's names.

    :param name: a name in SB3, or of this package in its own pickles
    :return: an import path
    """
    root, dot, rest = name.module.partition(".")
    return f"{_PACKAGES.get(root, root)}{dot}{rest}:{name.name}"


def resolve(name: Global) -> Any:
    """
    Resolve the name of a class in an SB3 file.

    :param name: the name
    :return: MLX's counterpart of a torch class, this package's counterpart of an SB3 class, or a class that
        the program has imported
    :raises UnknownName: if there is none
    """
    counterpart = TORCH_COUNTERPARTS.get((name.module, name.name))
    if counterpart is not None:
        return counterpart
    if name.module.partition(".")[0] == "torch":
        raise UnknownName(f"`{name}` has no counterpart in MLX")
    return find(own_path(name) if _is_sb3(name) else f"{name.module}:{name.name}")


def _is_sb3(name: Global) -> bool:
    return name.module.partition(".")[0] in _PACKAGES


def _dtype(evaluate: Evaluator, node: Node) -> np.dtype[Any]:
    text = evaluate(node.args[0])
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise UnknownName(f"it has an array of the dtype {text!r:.40}")
    dtype: np.dtype[Any] = np.dtype(text)
    order = node.state[1] if isinstance(node.state, tuple) else "="
    if order == ">":
        dtype = dtype.newbyteorder(">")
    return dtype


def dtype_or_object(evaluate: Evaluator, node: Node) -> np.dtype[Any]:
    """
    The constructor of ``numpy.dtype`` for arrays that may contain objects, such as the infos of HER's
    buffers.

    :param evaluate: the evaluator
    :param node: the call
    :return: the dtype
    :raises UnknownName: if it is another kind
    """
    return np.dtype(object) if evaluate(node.args[0]) in ("O8", "O") else _dtype(evaluate, node)


def _as_array(evaluate: Evaluator, buffer: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or not is_shape(shape):
        raise TypeError("an array without dtype or shape")
    if dtype.hasobject:
        return _object_array(buffer, shape)
    if not isinstance(buffer, (bytes, bytearray)):
        raise TypeError("an array without data")
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"{len(buffer)} bytes for an array of {dtype} of shape {shape}")
    view: np.ndarray = np.frombuffer(buffer, dtype=dtype)
    evaluate.spend(view)
    # An array over bytes would be read-only.
    own = view if view.flags.writeable else view.copy()
    return np.reshape(own, shape, order="F" if fortran else "C")


def _object_array(items: Any, shape: Any) -> np.ndarray:
    """An array of Python objects is pickled as a list of them."""
    if not isinstance(items, list) or len(items) != math.prod(shape):
        raise ValueError(f"not the objects of an array of shape {shape}")
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)


def _from_buffer(evaluate: Evaluator, node: Node) -> np.ndarray:
    buffer, dtype, shape, order, axes = (*(evaluate(argument) for argument in node.args), None)[:5]
    array = _as_array(evaluate, buffer, dtype, shape, order == "F")
    # NumPy 2 keeps the memory layout of a transposed array, and stores the order of the axes.
    return array.transpose(axes) if order == "K" and axes is not None else array


def _reconstruct(evaluate: Evaluator, node: Node) -> np.ndarray:
    _, shape, dtype, fortran, buffer = (evaluate(part) for part in node.state)
    return _as_array(evaluate, buffer, dtype, shape, bool(fortran))


def _numpy_scalar(evaluate: Evaluator, node: Node) -> Any:
    dtype, buffer = (evaluate(argument) for argument in node.args)
    return _as_array(evaluate, buffer, dtype, (), False)[()]


def _encode(evaluate: Evaluator, node: Node) -> bytes:
    # The encoding of bytes in Python 2's protocols.
    text, encoding = (evaluate(argument) for argument in node.args)
    if encoding not in ("latin1", "latin-1"):
        raise UnknownName(f"it has text in the encoding {encoding!r:.40}")
    return str(text).encode("latin-1")


def _generator(evaluate: Evaluator, node: Node) -> np.random.Generator | None:
    """The state is that of the generator (NumPy 1) or, with a seed sequence, of its bit generator (2)."""
    for owner in (node, *node.args[:1]):
        state = owner.state if isinstance(owner, Node) else None
        state = state[0] if isinstance(state, tuple) and state else state
        if isinstance(state, Table):
            return build_generator(evaluate(state))
    return None


def _deque(evaluate: Evaluator, node: Node) -> collections.deque[Any]:
    items, maxlen = (*(evaluate(argument) for argument in node.args), None, None)[:2]
    return collections.deque([*(items or ()), *map(evaluate, node.items)], maxlen=maxlen)


def _set(evaluate: Evaluator, node: Node) -> set[Any]:
    items = (*(evaluate(node.args[0]) if node.args else ()), *map(evaluate, node.items))
    return set(checked_keys([*items]))


def _enum_member(evaluate: Evaluator, node: Node) -> Any:
    # Python 3.11 pickles a member of an enumeration as getattr(class, name).
    kind, name = (evaluate(argument) for argument in node.args)
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)) or name not in kind.__members__:
        raise UnknownName("it calls getattr")
    return kind[name]


def _enum_value(evaluate: Evaluator, node: Node) -> Any:
    return find_class(own_path(node.name), enum.Enum)(evaluate(node.args[0]))


def _train_freq(evaluate: Evaluator, node: Node) -> Any:
    values = evaluate(node.args)
    kind = find_class(own_path(node.name), tuple)
    if len(values) != len(kind._fields):
        raise ValueError(f"{len(values)} values for {kind.__name__}")
    return tuple.__new__(kind, values)


def _plain(evaluate: Evaluator, node: Node) -> Any:
    return plain_object(find(own_path(node.name)), evaluate(node.state))


def _space(evaluate: Evaluator, node: Node) -> Any:
    state = evaluate(node.state)
    if not isinstance(state, dict):
        raise TypeError("a space without attributes")
    for part in state.values():
        evaluate.spend(part)
    return build_space(node.name.name, state)


def _user_schedule(evaluate: Evaluator, node: Node) -> Any:
    """An object of an unlisted class, which must be a schedule, see ``slots.py``."""
    name = node.name
    if node.args or _is_sb3(name) or node.items or node.pairs or not isinstance(node.state, Table):
        raise UnknownName(f"it needs `{name}`, which is not called from a model file")
    return schedule_object(f"{name.module}:{name.name}", evaluate(node.state))


def _function(evaluate: Evaluator, node: Node) -> Any:
    """
    A function pickled by value by cloudpickle. Before SB3 2.7 the schedules were closures of three functions;
    their closed-over data is converted to today's schedule objects. No other function is restored.
    """
    slots = node.state[1] if isinstance(node.state, tuple) and len(node.state) == 2 else None
    slots = slots if isinstance(slots, Table) else Table()
    name, module, closure = (slots.get(f"__{key}__") for key in ("qualname", "module", "closure"))
    name = name if isinstance(name, str) else "<unknown>"
    code = node.args[0] if node.args else None
    if module == _SCHEDULES and isinstance(code, Node) and isinstance(closure, tuple):
        values = [_cell(evaluate, cell) for cell in closure]
        found = _schedule(name, code, values)
        if found is not None:
            return found
    raise UnknownName(f"it is the function `{name}`, and a model file's functions are not run")


def _filled_function(evaluate: Evaluator, node: Node) -> Any:
    """A function as written by cloudpickle before 1.5: a skeleton, filled from a table."""
    skeleton, slots = node.args
    if isinstance(skeleton, Node) and isinstance(slots, Table) and skeleton.args:
        name, module, values = (slots.get(key) for key in ("qualname", "module", "closure_values"))
        name = name if isinstance(name, str) else "<unknown>"
        code = skeleton.args[0]
        if module == _SCHEDULES and isinstance(code, Node) and isinstance(values, list):
            found = _schedule(name, code, evaluate(values))
            if found is not None:
                return found
        raise UnknownName(f"it is the function `{name!s:.80}`, and a model file's functions are not run")
    raise TypeError("a function without a table")


def _cell(evaluate: Evaluator, cell: Any) -> Any:
    if isinstance(cell, Node) and str(cell.callee).endswith("._make_cell"):
        return evaluate(cell.args[0])
    return evaluate(cell.state) if isinstance(cell, Node) else None


def _schedule(name: str, code: Node, values: list[Any]) -> Any:
    if name == "constant_fn.<locals>.func" and len(values) == 1 and isinstance(values[0], (int, float)):
        return plain_object(find(f"{_UTILS}:ConstantSchedule"), {"val": float(values[0])})
    if name == "get_schedule_fn.<locals>.<lambda>" and len(values) == 1 and callable(values[0]):
        return plain_object(find(f"{_UTILS}:FloatSchedule"), {"value_schedule": values[0]})
    wanted = {"start", "end", "end_fraction"}
    texts = [part for part in code.args if isinstance(part, tuple) and all(isinstance(x, str) for x in part)]
    names = next((part for part in texts if set(part) == wanted), ())
    if name == "get_linear_fn.<locals>.func" and len(names) == len(values) == 3:
        state = {key: float(value) for key, value in zip(names, values, strict=True)}
        return plain_object(find(f"{_UTILS}:LinearSchedule"), state)
    return None


def _frozenset(evaluate: Evaluator, node: Node) -> frozenset[Any]:
    return frozenset(_set(evaluate, node))


def _nothing(evaluate: Evaluator, node: Node) -> None:
    """Ignores a value, such as the initial seed of a generator."""


Constructor = Callable[[Evaluator, Node], Any]


def _table() -> dict[tuple[str, str], Constructor]:
    table: dict[tuple[str, str], Constructor] = {
        ("", ""): _user_schedule,
        ("numpy", "dtype"): _dtype,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): ordered_dict,
        ("collections", "deque"): _deque,
        ("builtins", "set"): _set,
        ("builtins", "frozenset"): _frozenset,
        ("builtins", "getattr"): _enum_member,
        ("numpy.random._pickle", "__generator_ctor"): _generator,
        ("numpy.random._pickle", "__randomstate_ctor"): _nothing,
        ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _nothing,
        ("gym.utils.seeding", "_generator_ctor"): _nothing,
        ("gym.utils.seeding", "RandomNumberGenerator._generator_ctor"): _nothing,
        ("stable_baselines3.common.type_aliases", "TrainFreq"): _train_freq,
        ("stable_baselines3.common.type_aliases", "TrainFrequencyUnit"): _enum_value,
        (f"{_SB3}.her.goal_selection_strategy", "GoalSelectionStrategy"): _enum_value,
        (f"{_OWN}.her.goal_selection_strategy", "GoalSelectionStrategy"): _enum_value,
        ("cloudpickle.cloudpickle", "_make_function"): _function,
        ("types", "LambdaType"): _function,
        ("types", "FunctionType"): _function,
        ("cloudpickle.cloudpickle", "_fill_function"): _filled_function,
        # Ignored. A tensor among the attributes is ARS's, which has the same numbers in its policy.
        ("torch", "device"): _nothing,
        ("torch._utils", "_rebuild_tensor_v2"): _nothing,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        table[f"{core}.multiarray", "scalar"] = _numpy_scalar
        table[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for package in ("gym", "gymnasium"):
        for name, module in SPACE_NAMES.items():
            table[f"{package}.spaces.{module}", name] = _space
    for path in PLAIN_OBJECTS:
        module, _, name = path.partition(":")
        # The pickles of version 0.1.0 have the names of this package.
        for root in (_SB3, _OWN):
            table[f"{root}{module.removeprefix(_OWN)}", name] = _plain
    return table


CONSTRUCTORS = _table()
DAMAGE = (
    ModelFileError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
