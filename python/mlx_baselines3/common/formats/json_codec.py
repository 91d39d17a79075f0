"""
Python values as JSON that can be read back without executing anything.

JSON values represent themselves. Everything else is a table with the key ``":type:"``: arrays, spaces,
tuples, deques, this package's enumerations, classes by import path, and objects by their attributes: a few of
this package's, and schedules of user classes.
"""

import base64
import collections
import enum
import math
import pathlib
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.names import (
    UnknownName,
    current_path,
    find,
    find_class,
    path_of,
    public_path,
)
from mlx_baselines3.common.formats.safetensors import is_shape, tensor_bytes, tensor_from_bytes
from mlx_baselines3.common.formats.sb3.pickle_reader import checked_keys
from mlx_baselines3.common.formats.slots import is_schedule_object, schedule_object, schedule_state
from mlx_baselines3.common.formats.spaces import BIT_GENERATORS, build_generator, build_space, space_state

TAG = ":type:"
_MAX_DEPTH = 64
_DTYPE = re.compile(r"[<>|][biufcSU][0-9]{1,9}")
# Errors raised for values that do not match their tag.
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)
_NUMBER, _ANY = (int, float, np.generic), object
# Plain objects of this package and their attributes.
_FIELDS: dict[str, dict[str, Any]] = {
    "utils:FloatSchedule": {"value_schedule": _ANY},
    "utils:LinearSchedule": {"start": _NUMBER, "end": _NUMBER, "end_fraction": _NUMBER},
    "utils:ConstantSchedule": {"val": _NUMBER},
    "noise:NormalActionNoise": {
        "_mu": (np.ndarray, *_NUMBER),
        "_sigma": (np.ndarray, *_NUMBER),
        "_dtype": _ANY,
    },
    "noise:OrnsteinUhlenbeckActionNoise": {
        "_theta": _NUMBER,
        "_mu": np.ndarray,
        "_sigma": (np.ndarray, *_NUMBER),
        "_dt": _NUMBER,
        "_dtype": _ANY,
        "initial_noise": (np.ndarray, types.NoneType),
        "noise_prev": np.ndarray,
    },
    "noise:VectorizedActionNoise": {"n_envs": int, "_base_noise": _ANY, "_noises": list},
    "running_mean_std:RunningMeanStd": {
        "mean": (np.ndarray, *_NUMBER),
        "var": (np.ndarray, *_NUMBER),
        "count": _NUMBER,
    },
}
PLAIN_OBJECTS = {f"mlx_baselines3.common.{name}" for name in _FIELDS}


class Unencodable(TypeError):
    """A value that the format cannot express. The message says which and why."""


class Encoder:
    """
    Converts values to JSON-ready ones.

    :param store_tensor: called with a dotted path and each array; returns the name that refers to the array.
        Without it arrays are written into the JSON.
    """

    def __init__(self, store_tensor: Callable[[str, mx.array | np.ndarray], str] | None = None) -> None:
        self._store_tensor = store_tensor

    def encode(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """
        Encode one value.

        :param value: the value
        :param path: its path, for messages and tensor names
        :param depth: its nesting depth
        :return: JSON primitives, lists and dicts with string keys
        :raises Unencodable: naming the innermost value that cannot be expressed
        """
        if depth > _MAX_DEPTH:
            raise Unencodable(f"{path[:60]}... is nested too deeply, or contains itself")
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        method = _ENCODERS.get(kind) or next(
            (m for base, m in _BASE_ENCODERS if isinstance(value, base)), None
        )
        if method is not None:
            return method(self, value, path, depth + 1)
        return self._encode_object(value, path, depth + 1)

    def _float(self, value: float, path: str, depth: int) -> Any:
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}

    def _bytes(self, value: bytes, path: str, depth: int) -> Any:
        return {TAG: "bytes", "base64": base64.b64encode(value).decode()}

    def _list(self, value: Any, path: str, depth: int) -> list[Any]:
        return [self.encode(item, f"{path}.{index}", depth) for index, item in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int) -> Any:
        return {TAG: "tuple", "items": self._list(value, path, depth)}

    def _set(self, value: Any, path: str, depth: int) -> Any:
        # Sorted by their encoding, because the order of a set differs between runs.
        return {TAG: type(value).__name__, "items": sorted(self._list(value, path, depth), key=repr)}

    def _deque(self, value: collections.deque[Any], path: str, depth: int) -> Any:
        return {TAG: "deque", "maxlen": value.maxlen, "items": self._list(value, path, depth)}

    def _dict(self, value: Mapping[Any, Any], path: str, depth: int) -> Any:
        if type(value) is dict and TAG not in value and all(type(key) is str for key in value):
            return {key: self.encode(item, f"{path}.{key}", depth) for key, item in value.items()}
        items = [
            [self.encode(key, path, depth), self.encode(item, f"{path}.{key}", depth)]
            for key, item in value.items()
        ]
        return {TAG: "dict" if type(value) is dict else "OrderedDict", "items": items}

    def _ndarray(self, value: np.ndarray, path: str, depth: int) -> Any:
        if self._store_tensor is not None:
            return {TAG: "tensor", "name": self._store_tensor(path, value)}
        if not _DTYPE.fullmatch(value.dtype.str):
            raise Unencodable(f"{path} is an array of dtype {value.dtype}, which cannot be stored")
        data = base64.b64encode(value.tobytes()).decode()
        return {TAG: "ndarray", "dtype": value.dtype.str, "shape": list(value.shape), "base64": data}

    def _mlx_array(self, value: mx.array, path: str, depth: int) -> Any:
        if self._store_tensor is not None:
            return {TAG: "tensor", "name": self._store_tensor(path, value)}
        tag, shape, data = tensor_bytes(value)
        return {
            TAG: "mlx.array",
            "dtype": tag,
            "shape": list(shape),
            "base64": base64.b64encode(data).decode(),
        }

    def _scalar(self, value: np.generic, path: str, depth: int) -> Any:
        # A long double would lose digits when converted to a Python float.
        if value.dtype.kind not in "biufU" or (value.dtype.kind != "U" and value.dtype.itemsize > 8):
            raise Unencodable(f"{path} is a NumPy scalar of dtype {value.dtype}, which cannot be stored")
        return {TAG: "numpy", "dtype": value.dtype.str, "value": self.encode(value.item(), path, depth)}

    def _dtype(self, value: np.dtype[Any], path: str, depth: int) -> Any:
        if not _DTYPE.fullmatch(value.str):
            raise Unencodable(f"{path} is the dtype {value}, which cannot be stored")
        return {TAG: "dtype", "value": value.str}

    def _mlx_dtype(self, value: mx.Dtype, path: str, depth: int) -> Any:
        return {TAG: "mlx.dtype", "value": str(value).rpartition(".")[2]}

    def _generator(self, value: np.random.Generator, path: str, depth: int) -> Any:
        state = value.bit_generator.state
        if state["bit_generator"] not in BIT_GENERATORS:
            raise Unencodable(f"{path} is a generator of the unknown kind {state['bit_generator']}")
        # Arrays in the state are part of it, not tensors of the model.
        return {TAG: "generator", "state": Encoder().encode(state, path, depth)}

    def _path(self, value: pathlib.PurePath, path: str, depth: int) -> Any:
        return {TAG: "path", "value": str(value)}

    def _named(self, value: Any, path: str, depth: int) -> Any:
        return {TAG: "class" if isinstance(value, type) else "function", "path": self._path_of(value, path)}

    def _enum(self, value: enum.Enum, path: str, depth: int) -> Any:
        return {TAG: "enum", "class": self._own_path(type(value), path), "name": value.name}

    def _space(self, value: spaces.Space[Any], path: str, depth: int) -> Any:
        parts = space_state(value)
        if parts is None:
            return self._encode_object(value, path, depth)
        return {TAG: "space", "class": parts[0], "state": Encoder().encode(parts[1], path, depth)}

    def _encode_object(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return {
                TAG: "namedtuple",
                "class": self._own_path(kind, path),
                "items": self._list(value, path, depth),
            }
        if public_path(kind) in PLAIN_OBJECTS:
            state, tag = dict(vars(value)), "object"
        elif is_schedule_object(value):
            state, tag = self._schedule_state(value, path), "schedule"
        else:
            raise Unencodable(f"{path} is a {kind.__module__}.{kind.__qualname__} object")
        return {TAG: tag, "class": self._path_of(kind, path), "state": self.encode(state, path, depth)}

    def _schedule_state(self, value: Any, path: str) -> dict[str, Any]:
        try:
            return schedule_state(value)
        except UnknownName as error:
            raise Unencodable(f"{path}: {error}") from error

    def _own_path(self, kind: type, path: str) -> str:
        if kind.__module__.partition(".")[0] != "mlx_baselines3":
            raise Unencodable(f"{path} is a {kind.__module__}.{kind.__qualname__} object")
        return self._path_of(kind, path)

    def _path_of(self, thing: Any, path: str) -> str:
        try:
            return path_of(thing)
        except UnknownName as error:
            raise Unencodable(f"{path}: {error}") from error


_ENCODERS: dict[type, Callable[[Encoder, Any, str, int], Any]] = {
    float: Encoder._float,
    bytes: Encoder._bytes,
    list: Encoder._list,
    tuple: Encoder._tuple,
    set: Encoder._set,
    frozenset: Encoder._set,
    collections.deque: Encoder._deque,
    dict: Encoder._dict,
    collections.OrderedDict: Encoder._dict,
    np.ndarray: Encoder._ndarray,
    mx.array: Encoder._mlx_array,
    mx.Dtype: Encoder._mlx_dtype,
    np.random.Generator: Encoder._generator,
}
_BASE_ENCODERS: tuple[tuple[Any, Callable[[Encoder, Any, str, int], Any]], ...] = (
    (enum.Enum, Encoder._enum),
    (np.generic, Encoder._scalar),
    (np.dtype, Encoder._dtype),
    (spaces.Space, Encoder._space),
    (pathlib.PurePath, Encoder._path),
    (type, Encoder._named),
    (types.FunctionType, Encoder._named),
)


class Decoder:
    """
    Converts the JSON of :class:`Encoder` back to values.

    :param tensors: the arrays that the JSON refers to by name
    """

    def __init__(self, tensors: Mapping[str, Any] | None = None) -> None:
        self._tensors = tensors or {}
        # The keys leading to the current value; after an error, to the invalid one.
        self._trail: list[str] = []

    def decode(self, value: Any) -> Any:
        """
        Decode one value.

        :param value: the result of :meth:`Encoder.encode`, after a round trip through JSON
        :return: the value
        :raises UnknownName: if it names a class that cannot be found or is not allowed
        :raises ModelFileError: if it is corrupted or forged
        """
        self._trail = []
        try:
            return self._decode(value)
        except RecursionError as error:
            raise ModelFileError("a value is nested too deeply.") from error
        except ModelFileError as error:
            if not self._trail:
                raise
            raise ModelFileError(f"{'.'.join(self._trail):.200}: {error}") from error

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return self._list(value)
        if not isinstance(value, dict):
            return value
        if len(self._trail) > _MAX_DEPTH:
            raise ModelFileError("a value is nested too deeply.")
        if TAG not in value:
            return {key: self._at(key, item) for key, item in value.items()}
        tag = value[TAG]
        decoder = _DECODERS.get(tag) if isinstance(tag, str) else None
        if decoder is None:
            raise ModelFileError(f"a value of the unknown type {tag!r:.60}.")
        try:
            return decoder(self, value)
        except (ModelFileError, UnknownName):
            raise
        except _DAMAGE as error:
            raise ModelFileError(f"a corrupted value of type '{tag}' ({error!r:.200}).") from error

    def _at(self, key: str, value: Any) -> Any:
        self._trail.append(key)
        decoded = self._decode(value)
        self._trail.pop()
        return decoded

    def _list(self, value: list[Any]) -> list[Any]:
        return [self._at(str(index), item) for index, item in enumerate(value)]

    def _items(self, value: dict[str, Any]) -> list[Any]:
        items = value["items"]
        if not isinstance(items, list):
            raise TypeError("items are not a list")
        return self._list(items)

    def _pairs(self, value: dict[str, Any]) -> list[tuple[Any, Any]]:
        pairs = [(key, item) for key, item in self._items(value)]
        checked_keys([key for key, _ in pairs])
        return pairs

    def _ndarray(self, value: dict[str, Any]) -> np.ndarray:
        if not _DTYPE.fullmatch(value["dtype"]) or not is_shape(value["shape"]):
            raise ValueError("dtype or shape")
        data = base64.b64decode(value["base64"], validate=True)
        array: np.ndarray = np.frombuffer(data, dtype=value["dtype"]).reshape(value["shape"]).copy()
        return array

    def _mlx_array(self, value: dict[str, Any]) -> Any:
        if not is_shape(value["shape"]):
            raise ValueError("shape")
        data = base64.b64decode(value["base64"], validate=True)
        return tensor_from_bytes(value["dtype"], tuple(value["shape"]), data)

    def _scalar(self, value: dict[str, Any]) -> Any:
        if not _DTYPE.fullmatch(value["dtype"]):
            raise ValueError("dtype")
        kind = np.dtype(value["dtype"]).type
        if not issubclass(kind, (np.number, np.bool_, np.str_)):
            raise TypeError("not a scalar type")
        content = self._decode(value["value"])
        # NumPy would convert any object.
        if type(content) not in (bool, int, float, complex, str):
            raise TypeError(f"a {type(content).__name__} for a scalar")
        return kind(content)

    def _dtype(self, value: dict[str, Any]) -> np.dtype[Any]:
        if not _DTYPE.fullmatch(value["value"]):
            raise ValueError("dtype")
        dtype: np.dtype[Any] = np.dtype(value["value"])
        return dtype

    def _mlx_dtype(self, value: dict[str, Any]) -> mx.Dtype:
        found = vars(mx).get(value["value"])
        if not isinstance(found, mx.Dtype):
            raise TypeError("not a dtype")
        return found

    def _named(self, value: dict[str, Any]) -> Any:
        found = find(value["path"])
        if isinstance(found, type) != (value[TAG] == "class"):
            raise UnknownName(f"`{value['path']:.200}` is not a {value[TAG]}")
        return found

    def _enum(self, value: dict[str, Any]) -> Any:
        kind, name = find_class(value["class"], enum.Enum), value["name"]
        if name not in kind.__members__:
            raise ValueError(f"{kind.__name__} has no member {name!r:.60}")
        return kind.__members__[name]

    def _namedtuple(self, value: dict[str, Any]) -> Any:
        kind, items = find_class(value["class"], tuple), self._items(value)
        if len(getattr(kind, "_fields", ())) != len(items):
            raise ValueError(f"{len(items)} values for {kind.__name__}")
        return tuple.__new__(kind, items)

    def _object(self, value: dict[str, Any]) -> Any:
        if not isinstance(value["class"], str) or current_path(value["class"]) not in PLAIN_OBJECTS:
            raise UnknownName(f"objects of `{value['class']!s:.200}` are not restored from their attributes")
        return plain_object(find(value["class"]), self._at("state", value["state"]))

    def _schedule(self, value: dict[str, Any]) -> Any:
        return schedule_object(value["class"], self._at("state", value["state"]))

    def _offered(self, value: dict[str, Any]) -> Any:
        raise UnknownName(f"`{value['class']!s:.200}` defines how it is restored, by code that is not run")

    def _tensor(self, value: dict[str, Any]) -> Any:
        if not isinstance(value["name"], str) or value["name"] not in self._tensors:
            raise ValueError(f"there is no tensor {value['name']!r:.80}")
        return self._tensors[value["name"]]


def plain_object(kind: type, state: Any) -> Any:
    """
    Create an object from its attributes, without running its constructor.

    :param kind: its class
    :param state: names and values of its attributes
    :return: the object
    :raises ModelFileError: if ``state`` is not a table of attribute names
    """
    if not isinstance(state, dict) or not all(type(key) is str for key in state):
        raise ModelFileError(f"the attributes stored for a {kind.__name__} are not a table of names.")
    fields = _FIELDS[public_path(kind).removeprefix("mlx_baselines3.common.")]
    if "_dtype" in fields:
        # Missing in SB3 before 2.1.
        state = {"_dtype": np.float32, **state}
    if odd := fields.keys() ^ state.keys():
        raise ModelFileError(f"a {kind.__name__} with missing or unknown attributes: {sorted(odd)!s:.200}.")
    for name, expected in fields.items():
        if not isinstance(state[name], expected):
            raise ModelFileError(f"`{name}` of a {kind.__name__} is a {type(state[name]).__name__}.")
    if "_noises" in state:
        processes = (state["_base_noise"], *state["_noises"])
        names = {public_path(type(process)) for process in processes}
        if len(processes) != state["n_envs"] + 1 or not names <= PLAIN_OBJECTS:
            raise ModelFileError(f"the processes of a {kind.__name__} are missing or none.")
    made: Any = object.__new__(kind)
    vars(made).update(state)
    return made


_DECODERS: dict[str, Callable[[Decoder, dict[str, Any]], Any]] = {
    "float": lambda self, value: float(value["value"]),
    "bytes": lambda self, value: base64.b64decode(value["base64"], validate=True),
    "tuple": lambda self, value: tuple(self._items(value)),
    "set": lambda self, value: set(checked_keys(self._items(value))),
    "frozenset": lambda self, value: frozenset(checked_keys(self._items(value))),
    "deque": lambda self, value: collections.deque(self._items(value), maxlen=value["maxlen"]),
    "dict": lambda self, value: dict(self._pairs(value)),
    "OrderedDict": lambda self, value: collections.OrderedDict(self._pairs(value)),
    "ndarray": Decoder._ndarray,
    "mlx.array": Decoder._mlx_array,
    "mlx.dtype": Decoder._mlx_dtype,
    "numpy": Decoder._scalar,
    "dtype": Decoder._dtype,
    "generator": lambda self, value: build_generator(self._decode(value["state"])),
    "path": lambda self, value: pathlib.Path(value["value"]),
    "class": Decoder._named,
    "function": Decoder._named,
    "enum": Decoder._enum,
    "namedtuple": Decoder._namedtuple,
    "space": lambda self, value: build_space(value["class"], self._decode(value["state"])),
    "object": Decoder._object,
    "schedule": Decoder._schedule,
    "offered": Decoder._offered,
    "tensor": Decoder._tensor,
}
