"""
Values as SB3 and torch would pickle them: nodes for
:mod:`~mlx_baselines3.common.formats.sb3.pickle_writer`, with SB3's and torch's class names.
"""

import collections
import enum
import pickletools
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats.json_codec import PLAIN_OBJECTS
from mlx_baselines3.common.formats.names import public_path
from mlx_baselines3.common.formats.sb3.constructors import TORCH_COUNTERPARTS
from mlx_baselines3.common.formats.sb3.pickle_writer import Global, NewObject, Node
from mlx_baselines3.common.formats.spaces import BIT_GENERATORS, SPACE_NAMES
from mlx_baselines3.common.nn import activations

__all__ = ["NotInSB3", "encode", "object_array", "torch_kwargs"]

_OWN = "mlx_baselines3"
_TORCH_NAMES = {
    **{
        counterpart: Global(*name)
        for name, counterpart in TORCH_COUNTERPARTS.items()
        if counterpart is not None
    },
    activations.Tanh: Global("torch.nn.modules.activation", "Tanh"),
}


class NotInSB3(ValueError):
    """A value without counterpart in SB3. The message says which and why."""


def _sb3_name(kind: type) -> Global:
    # The public name of a class is SB3's, or sb3-contrib's.
    module, _, name = public_path(kind).removeprefix(f"{_OWN}.").partition(":")
    if module.partition(".")[0] == "contrib":
        return Global(f"sb3_{module}", name)
    return Global(f"stable_baselines3.{module}", name)


def encode(value: Any) -> Any:
    """
    :param value: an attribute of a model
    :return: the value as nodes
    :raises NotInSB3: if SB3 could not read it
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes):
        return value
    if method := _ENCODERS.get(kind):
        return method(value)
    for base, method in _BASE_ENCODERS:
        if isinstance(value, base):
            return method(value)
    if f"{kind.__module__}:{kind.__qualname__}" in PLAIN_OBJECTS:
        return NewObject(_sb3_name(kind), (), encode(dict(vars(value))))
    return _pickled(value)


def _pickled(value: Any) -> Node:
    """A user's object, pickled by cloudpickle as in SB3, inside the pickle."""
    try:
        data = cloudpickle.dumps(value)
    except Exception as error:  # Pickling can raise anything.
        raise NotInSB3(f"{value!r:.80} cannot be pickled ({error!r:.120})") from error
    texts = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    if found := [text for text in texts if text.partition(".")[0] in ("mlx", _OWN)]:
        raise NotInSB3(f"{value!r:.80} needs `{found[0]}`, which SB3 does not have")
    return Node(Global("_pickle", "loads"), (data,))


def _class(kind: type) -> Any:
    if kind in _TORCH_NAMES:
        return _TORCH_NAMES[kind]
    root = kind.__module__.partition(".")[0]
    if root == _OWN:
        # This package's faster versions of MLX's optimizers map to torch's too.
        counterpart = kind.__mro__[1] if issubclass(kind, optim.Optimizer) else None
        return _TORCH_NAMES[counterpart] if counterpart in _TORCH_NAMES else _sb3_name(kind)
    if issubclass(kind, (nn.Module, optim.Optimizer)) or root == "mlx":
        raise NotInSB3(f"`{kind.__qualname__}` is MLX's and has no counterpart in torch")
    if root in ("builtins", "numpy", "gymnasium", "collections"):
        return Global(kind.__module__, kind.__qualname__)
    return _pickled(kind)


def _named_tuple(value: tuple[Any, ...]) -> Any:
    parts = tuple(encode(part) for part in value)
    if not hasattr(value, "_fields"):
        return parts
    return NewObject(_class(type(value)), parts)


def _ordered(value: dict[Any, Any]) -> Node:
    node = Node(Global("collections", "OrderedDict"), ())
    node.pairs = [(encode(key), encode(item)) for key, item in value.items()]
    return node


def _deque(value: collections.deque[Any]) -> Node:
    node = Node(Global("collections", "deque"), ((), value.maxlen))
    node.items = [encode(item) for item in value]
    return node


def _set(value: Any) -> Node:
    return Node(Global("builtins", type(value).__name__), ([encode(item) for item in value],))


def _dtype(value: np.dtype[Any]) -> Node:
    if value.hasobject:
        raise NotInSB3(f"an array of dtype {value} holds Python objects")
    return Node(Global("numpy", "dtype"), (value.str, False, True))


def _array(value: np.ndarray) -> Node:
    """An array without a copy; its memory is read when the pickle is written."""
    dtype = _dtype(value.dtype)
    # Byte by byte, in C order.
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    return _array_node(value.shape, dtype, data)


def _array_node(shape: tuple[int, ...], dtype: Node, data: Any) -> Node:
    # This path exists in NumPy 1 and 2.
    name = Global("numpy.core.multiarray", "_reconstruct")
    node = Node(name, (Global("numpy", "ndarray"), (0,), b"b"))
    node.state = (1, tuple(shape), dtype, False, data)
    return node


def object_array(items: list[Any], shape: tuple[int, ...]) -> Node:
    """
    :param items: the Python objects of an array as nodes, in C order
    :param shape: its shape
    :return: the array as nodes
    """
    dtype = Node(Global("numpy", "dtype"), ("O8", False, True))
    dtype.state = (3, "|", None, None, None, -1, -1, 63)
    return _array_node(shape, dtype, items)


def _scalar(value: np.generic) -> Node:
    return Node(Global("numpy.core.multiarray", "scalar"), (_dtype(value.dtype), value.tobytes()))


def _generator(value: np.random.Generator) -> Node:
    """NumPy 1's format, which NumPy 2 reads too."""
    state = value.bit_generator.state
    if state["bit_generator"] not in BIT_GENERATORS:
        raise NotInSB3(f"a random generator of the kind {state['bit_generator']}")
    node = Node(Global("numpy.random._pickle", "__generator_ctor"), (state["bit_generator"],))
    node.state = encode(state)
    return node


def _space(value: spaces.Space[Any]) -> Any:
    name = type(value).__name__
    if name not in SPACE_NAMES or type(value) is not getattr(spaces, name, None):
        return _pickled(value)
    state = {key: encode(item) for key, item in vars(value).items()}
    return NewObject(Global(f"gymnasium.spaces.{SPACE_NAMES[name]}", name), (), state)


def _member(value: enum.Enum) -> Any:
    if type(value).__module__.partition(".")[0] != _OWN:
        return _pickled(value)
    return Node(_sb3_name(type(value)), (encode(value.value),))


_ENCODERS: dict[type, Callable[[Any], Any]] = {
    tuple: _named_tuple,
    list: lambda value: [encode(item) for item in value],
    dict: lambda value: {encode(key): encode(item) for key, item in value.items()},
    collections.OrderedDict: _ordered,
    collections.deque: _deque,
    set: _set,
    frozenset: _set,
    np.ndarray: _array,
    mx.array: lambda value: _array(np.asarray(value)),
    np.random.Generator: _generator,
}
_BASE_ENCODERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (enum.Enum, _member),
    (tuple, _named_tuple),
    (np.generic, _scalar),
    (np.dtype, _dtype),
    (spaces.Space, _space),
    (types.FunctionType, _pickled),
    (type, _class),
)


def torch_kwargs(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :param policy_kwargs: arguments of a policy of this package
    :return: the arguments for SB3: torch's optimizers always correct the bias, and have no argument for it
    :raises NotInSB3: if bias correction is off
    """
    optimizer_kwargs = policy_kwargs.get("optimizer_kwargs")
    if not optimizer_kwargs or "bias_correction" not in optimizer_kwargs:
        return policy_kwargs
    if not optimizer_kwargs["bias_correction"]:
        raise NotInSB3("torch's Adam has no bias_correction=False")
    kept = {key: value for key, value in optimizer_kwargs.items() if key != "bias_correction"}
    return {**policy_kwargs, "optimizer_kwargs": kept}
