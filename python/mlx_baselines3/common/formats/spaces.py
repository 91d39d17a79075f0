"""Gymnasium spaces as plain attributes, and back, with their NumPy random generators."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats.archive import ModelFileError

BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Box": ("low", "high", "dtype", "bounded_below", "bounded_above"),
    "Discrete": ("n", "start", "dtype"),
    "MultiDiscrete": ("nvec", "start", "dtype"),
    "MultiBinary": ("n",),
    "Text": ("min_length", "max_length", "characters"),
    "Dict": ("spaces",),
    "Tuple": ("spaces",),
    "OneOf": ("spaces",),
    "Sequence": ("feature_space", "stack"),
    "Graph": ("node_space", "edge_space"),
}

# The defining modules in Gymnasium.
SPACE_NAMES = {
    **{name: name.lower() for name in _ATTRIBUTES},
    "MultiDiscrete": "multi_discrete",
    "MultiBinary": "multi_binary",
}


def space_class(name: str) -> type[spaces.Space[Any]]:
    """
    Look up a space class of Gymnasium.

    :param name: its name, for instance ``"Box"``
    :return: the class
    :raises ModelFileError: if it cannot be stored, or this version of Gymnasium does not have it
    """
    found = getattr(spaces, name, None) if name in _ATTRIBUTES else None
    if found is None:
        raise ModelFileError(f"the space `{name}` is not one that this version of Gymnasium can make.")
    return found


def space_state(space: spaces.Space[Any]) -> tuple[str, dict[str, Any]] | None:
    """
    The attributes of a space.

    :param space: any space
    :return: the class's name and its attributes, with the random generator under ``_np_random``; None for a
        class outside of Gymnasium
    """
    name = type(space).__name__
    if name not in _ATTRIBUTES or type(space) is not getattr(spaces, name, None):
        return None
    state = {key: getattr(space, key) for key in _ATTRIBUTES[name]}
    if isinstance(space, spaces.Dict):
        state["spaces"] = dict(space.spaces)
    state["_np_random"] = space._np_random
    return name, state


def build_space(name: str, state: Mapping[str, Any]) -> spaces.Space[Any]:
    """
    Create a space from attributes. Additional ones are ignored, because other versions of Gymnasium have
    them.

    :param name: the class's name
    :param state: the attributes of :func:`space_state`
    :return: the space
    :raises ModelFileError: if the attributes are invalid
    """
    space_class(name)
    try:
        space = _BUILDERS[name](state)
    except (TypeError, ValueError, AssertionError, KeyError, OverflowError, AttributeError) as error:
        raise ModelFileError(
            f"the stored attributes of a {name} space are invalid ({error!r:.200})."
        ) from error
    generator = state.get("_np_random")
    # A generator from a file has passed build_generator().
    if isinstance(generator, np.random.Generator):
        space._np_random = generator
    return space


def _array(state: Mapping[str, Any], key: str) -> np.ndarray:
    value = state[key]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise TypeError(f"{key} is not an array of numbers")
    return value


def _space(value: Any) -> spaces.Space[Any]:
    if not isinstance(value, spaces.Space):
        raise TypeError(f"{type(value).__name__} where a space was expected")
    return value


def _box(state: Mapping[str, Any]) -> spaces.Space[Any]:
    low, high, dtype = _array(state, "low"), _array(state, "high"), np.dtype(state["dtype"])
    if low.dtype != dtype or high.dtype != dtype:
        raise TypeError(f"bounds of dtype {low.dtype} and {high.dtype} for a space of {dtype}")
    box = spaces.Box(low=low.copy(), high=high.copy(), dtype=dtype.type)
    # An unbounded integer box has finite bounds; only these flags distinguish it from a bounded one.
    for key in ("bounded_below", "bounded_above"):
        flags = state.get(key)
        if isinstance(flags, np.ndarray) and flags.shape == low.shape and flags.dtype == np.bool_:
            setattr(box, key, flags.copy())
    return box


def _discrete(state: Mapping[str, Any]) -> spaces.Space[Any]:
    count, start = int(state["n"]), int(state.get("start", 0))
    dtype = np.dtype(state.get("dtype") or np.int64)
    if dtype == np.int64:
        return spaces.Discrete(count, start=start)
    return spaces.Discrete(count, start=start, dtype=dtype.type)


def _multi_discrete(state: Mapping[str, Any]) -> spaces.Space[Any]:
    counts = _array(state, "nvec").copy()
    start = _array(state, "start").copy() if state.get("start") is not None else None
    return spaces.MultiDiscrete(counts, dtype=np.dtype(state.get("dtype") or np.int64).type, start=start)


def _multi_binary(state: Mapping[str, Any]) -> spaces.Space[Any]:
    count = state["n"]
    if isinstance(count, (tuple, list, np.ndarray)):
        return spaces.MultiBinary([int(size) for size in count])
    return spaces.MultiBinary(int(count))


def _text(state: Mapping[str, Any]) -> spaces.Space[Any]:
    characters = state.get("characters", state.get("_char_str"))
    return spaces.Text(int(state["max_length"]), min_length=int(state["min_length"]), charset=str(characters))


def _dict(state: Mapping[str, Any]) -> spaces.Space[Any]:
    # With an OrderedDict the constructor does not sort.
    return spaces.Dict(OrderedDict((key, _space(value)) for key, value in state["spaces"].items()))


def _graph(state: Mapping[str, Any]) -> spaces.Space[Any]:
    edges = state["edge_space"]
    return spaces.Graph(_space(state["node_space"]), None if edges is None else _space(edges))


_BUILDERS = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Text": _text,
    "Dict": _dict,
    "Tuple": lambda state: spaces.Tuple([_space(value) for value in state["spaces"]]),
    "OneOf": lambda state: spaces.OneOf([_space(value) for value in state["spaces"]]),
    "Sequence": lambda state: spaces.Sequence(
        _space(state["feature_space"]), stack=bool(state.get("stack", False))
    ),
    "Graph": _graph,
}


def build_generator(state: Any) -> np.random.Generator:
    """
    Create a NumPy generator that continues where another stopped.

    :param state: ``generator.bit_generator.state`` of the other
    :return: the generator
    :raises ModelFileError: if it is not a valid state
    """
    check_generator_state(state)
    bit_generator = BIT_GENERATORS[state["bit_generator"]](0)
    try:
        bit_generator.state = state
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise ModelFileError(f"not the state of a random generator ({error!r:.200}).") from error
    return np.random.Generator(bit_generator)


# The words of each generator's state: number, width in bits, and limit of the read position.
_WORDS: dict[str, tuple[dict[str, tuple[int, int]], tuple[str, int] | None]] = {
    "MT19937": ({"key": (624, 32)}, ("pos", 624)),
    "Philox": ({"counter": (4, 64), "key": (2, 64), "buffer": (4, 64)}, ("buffer_pos", 4)),
    "SFC64": ({"state": (4, 64)}, None),
}


def check_generator_state(state: Any) -> None:
    """
    Check the state of a NumPy generator. NumPy itself accepts some states that crash the process at the next
    draw.

    :param state: ``generator.bit_generator.state``
    :raises ModelFileError: if it is not a valid state
    """
    try:
        kind = state["bit_generator"]
        if type(kind) is not str or kind not in BIT_GENERATORS:
            raise ValueError(f"the kind is {kind!r:.40}")
        inner = state["state"]
        words, place = _WORDS.get(kind, ({}, None))
        for name, (count, bits) in words.items():
            # Philox stores its buffer separately.
            _check_words(name, inner[name] if name in inner else state[name], count, bits)
        if not words:
            for name in ("state", "inc"):
                _check_integer(name, inner[name], 2**128 - 1)
            if inner["inc"] % 2 == 0:
                raise ValueError("the increment is even")
        if place is not None:
            _check_integer(place[0], inner[place[0]] if place[0] in inner else state[place[0]], place[1])
        if kind == "MT19937" and not np.any(inner["key"]):
            # It would return zeros forever, and rejection sampling would never end.
            raise ValueError("the key is zero")
        if kind != "MT19937":
            _check_integer("has_uint32", state["has_uint32"], 1)
            _check_integer("uinteger", state["uinteger"], 2**32 - 1)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ModelFileError(f"not the state of a random generator ({error!r:.200}).") from error


def _check_words(name: str, value: Any, count: int, bits: int) -> None:
    array = np.asarray(value)
    if array.shape != (count,) or array.dtype.kind not in "iu" or np.any(array < 0):
        raise ValueError(f"{name} is not {count} words")
    if np.any(array > 2**bits - 1):
        raise ValueError(f"{name} is not made of words of {bits} bits")


def _check_integer(name: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= int(value) <= most:
        raise ValueError(f"{name} is {value!r:.60}, expected an integer from 0 to {most}")
