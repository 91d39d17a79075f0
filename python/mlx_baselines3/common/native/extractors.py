"""What features extractors compute, read from their modules: a branch for each array of an observation."""

import dis
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.native.layers import Layer, activation_of, sequence
from mlx_baselines3.common.native.one_hot import OneHot, seen_shape
from mlx_baselines3.common.nn.layers import Conv2d, Flatten, Module, ModuleDict, Sequential, is_exactly
from mlx_baselines3.common.preprocessing import is_image_space
from mlx_baselines3.common.torch_layers import CombinedExtractor

__all__ = [
    "Branch",
    "Codes",
    "Convolution",
    "Features",
    "Observed",
    "as_columns",
    "branch_specs",
    "observed",
]


class Convolution(NamedTuple):
    """
    A convolution of channel-first images and what follows it.

    :param module: its weights
    :param image: channels, height and width of what it takes
    :param stride: vertical and horizontal
    :param padding: above and below, and on both sides
    :param activation: name of the function
    :param parameter: its number, if it has one
    """

    module: Conv2d
    image: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    activation: str = "identity"
    parameter: float = 0.0

    def output(self) -> tuple[int, int, int]:
        """:return: channels, height and width of what it gives"""
        channels, _, *kernel = self.module.weight.shape
        steps = zip(self.image[1:], kernel, self.stride, self.padding, strict=True)
        height, width = ((side + 2 * pad - size) // stride + 1 for side, size, stride, pad in steps)
        return channels, height, width


class Branch(NamedTuple):
    """
    What makes features of one array of an observation. The output of the last convolution is flattened.

    :param column: which array
    :param inputs: how many numbers it has
    :param scale: what these are multiplied with first
    :param convolutions: where it is an image
    :param linears: linear layers after that
    """

    column: int
    inputs: int
    scale: float
    convolutions: tuple[Convolution, ...] = ()
    linears: tuple[Layer, ...] = ()

    def is_plain(self) -> bool:
        """:return: whether the features are the numbers as they are"""
        return not (self.convolutions or self.linears) and self.scale == 1.0

    def modules(self) -> Iterator[Any]:
        """:return: its layers, first to last"""
        yield from (layer.module for layer in self.convolutions)
        yield from (linear for layer in self.linears for linear in layer.linears)

    def shape(self) -> tuple[Any, ...]:
        """:return: what two branches have in common that differ in their weights alone"""
        convolutions = [(layer.module.weight.shape, *layer[1:]) for layer in self.convolutions]
        linears = [(layer.linears[0].weight.shape, *layer[1:]) for layer in self.linears]
        has_bias = ["bias" in module for module in self.modules()]
        return (*self[:3], convolutions, linears, has_bias)


Features = tuple[Branch, ...]
Codes = Mapping[str, OneHot]


class Observed(NamedTuple):
    """
    What the networks of a policy see of an observation.

    :param keys: those of a Dict of arrays; none for a single one
    :param codes: what turns integers into numbers, by key; the key of a single array is empty
    :param features: the branches of each extractor, side by side; none if all extractors give the numbers of
        the arrays as they are, in the order of the keys
    """

    keys: tuple[str, ...]
    codes: Codes
    features: tuple[Features, ...]


def observed(network: Any, *extractors: Any) -> Observed:
    """
    :param network: what calls the extractors
    :param extractors: what makes its features
    :return: what they compute
    :raises NotNative: an observation is not an array of numbers, or an extractor computes anything else
    """
    space = network.observation_space
    keys = tuple(space.spaces) if isinstance(space, spaces.Dict) else ()
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    codes = {
        key: OneHot(part)
        for key, part in parts.items()
        if isinstance(part, (spaces.Discrete, spaces.MultiDiscrete))
    }
    read = {id(extractor): _read(extractor, space, network.normalize_images) for extractor in extractors}
    # The very same object if two networks share an extractor.
    features = tuple(read[id(extractor)] for extractor in extractors)
    columns = list(range(len(keys) or 1))
    plain = all(branch.is_plain() for branches in features for branch in branches)
    if plain and all([branch.column for branch in branches] == columns for branches in features):
        return Observed(keys, codes, ((),) * len(features))
    return Observed(keys, codes, features)


def _read(extractor: Any, space: spaces.Space[Any], normalizes: bool) -> Features:
    if not isinstance(extractor, Module):
        raise NotNative(f"the policy has a {type(extractor).__name__}")
    if not isinstance(space, spaces.Dict):
        _check_numbers(space, "the observation space is")
        return (_branch(_called(extractor), space, 0, normalizes),)
    for key, part in space.spaces.items():
        _check_numbers(part, f"the observation {key!r} is")
    if not isinstance(extractor, CombinedExtractor):
        raise NotNative(f"the policy has a {type(extractor).__name__}")
    check_unchanged(extractor, CombinedExtractor, ("__call__", "forward"))
    parts = extractor.extractors
    if type(parts) is not ModuleDict:
        raise NotNative(f"the policy has a {type(parts).__name__}")
    columns = {key: index for index, key in enumerate(space.spaces)}
    return tuple(
        _branch([module], space[key], columns[key], normalizes) for key, module in parts.named_items()
    )


def _check_numbers(space: spaces.Space[Any], what: str) -> None:
    if seen_shape(space) is None:
        raise NotNative(f"{what} a {type(space).__name__}")


def _branch(modules: list[Any], space: Any, column: int, normalizes: bool) -> Branch:
    """
    :param modules: what is called one after the other
    :param space: that of the array
    :param column: which one it is
    :param normalizes: images are divided by 255
    :raises NotNative: there is no native form of them
    """
    scale = 1.0 / 255.0 if normalizes and is_image_space(space) else 1.0
    # The shape of what comes next, the axis of rows left out.
    shape = seen_shape(space) or ()
    branch = Branch(column, math.prod(shape), scale)
    for module in _flattened(modules):
        if type(module) is Flatten:
            check_unchanged(module, Flatten, ("forward",))
            shape = (math.prod(shape),)
        elif type(module) is Conv2d:
            layer = _convolution(module, shape, branch)
            shape = layer.output()
            branch = branch._replace(convolutions=(*branch.convolutions, layer))
        elif is_exactly(module, nn.Linear):
            outputs, inputs = module.weight.shape
            if shape != (inputs,):
                raise NotNative(f"a linear layer takes observations of the shape {shape}")
            shape = (outputs,)
            branch = branch._replace(linears=(*branch.linears, Layer((module,))))
        else:
            branch = _activated(branch, module)
    if len(shape) != 1:
        raise NotNative("the features are not flattened")
    return branch


def _convolution(module: Conv2d, shape: tuple[int, ...], branch: Branch) -> Convolution:
    check_unchanged(module, Conv2d, ("__call__", "forward", "convolve"))
    if len(shape) != 3 or branch.linears or shape[0] != module.weight.shape[1] or "bias" not in module:
        raise NotNative(f"a convolution takes observations of the shape {shape}")
    image = (shape[0], shape[1], shape[2])
    layer = Convolution(module, image, _pair(module.stride), _pair(module.padding))
    if min(layer.output()) < 1 or min(layer.stride) < 1 or min(layer.padding) < 0:
        raise NotNative(f"a convolution gives an image of the shape {layer.output()}")
    return layer


def _pair(number: Any) -> tuple[int, int]:
    """Two numbers from what MLX takes for them: one, also of NumPy's, or two."""
    if hasattr(number, "__index__") and not getattr(number, "shape", ()):
        number = (number, number)
    # A list could be changed without anybody noticing.
    if not isinstance(number, tuple) or len(number) != 2:
        raise NotNative(f"a convolution has a stride or padding of {number}")
    return int(number[0]), int(number[1])


def _activated(branch: Branch, module: Any) -> Branch:
    """The branch with an activation after its last layer."""
    name, parameter = activation_of(module)
    if name == "identity":
        return branch
    layers: tuple[Any, ...] = branch.linears or branch.convolutions
    if not layers or layers[-1].activation != "identity":
        raise NotNative(f"a {type(module).__name__} does not follow a linear layer")
    layers = (*layers[:-1], layers[-1]._replace(activation=name, parameter=parameter))
    return branch._replace(linears=layers) if branch.linears else branch._replace(convolutions=layers)


def _flattened(modules: list[Any]) -> Iterator[Any]:
    """The layers of all sequences and extractors in their order."""
    for module in modules:
        if type(module) is Sequential:
            yield from _flattened(sequence(module))
        elif isinstance(module, Module) and type(module) not in (Flatten, Conv2d):
            yield from _flattened(_called(module))
        else:
            yield module


def _called(extractor: Any) -> list[Any]:
    """
    :param extractor: a module
    :return: the modules that it calls one after the other
    :raises NotNative: it does anything else
    """
    kind: Any = type(extractor)
    unknown = NotNative(f"the policy has a {kind.__name__}")
    if not isinstance(extractor, Module) or "forward" in vars(extractor):
        raise unknown
    if any(getattr(kind, name) is not getattr(Module, name) for name in ("__getattr__", "__getattribute__")):
        raise unknown
    function: Any = kind.forward if kind.__call__ is Module.__call__ else kind.__call__
    names = _chain(function.__code__) if isinstance(function, FunctionType) else None
    if names is None:
        raise unknown
    # What a class or an instance has by such a name would be called instead.
    if any(name not in extractor or name in vars(extractor) or hasattr(kind, name) for name in names):
        raise unknown
    return [extractor[name] for name in names]


# Instructions of a method that only calls children. Without jumps it cannot depend on an attribute or an
# input, and without other stores it leaves nothing behind. The names are those of Python 3.10 to 3.14.
_CALLING = frozenset(
    ("CALL", "CALL_FUNCTION", "CALL_METHOD", "EXTENDED_ARG", "LOAD_ATTR", "LOAD_METHOD", "NOP", "PRECALL",
     "PUSH_NULL", "RESUME", "RETURN_VALUE")
)  # fmt: skip
# The prefixes of instructions that load and store local variables, one or two at a time.
_LOCAL = ("LOAD_FAST", "STORE_FAST")


class _Value:
    """Stands for an array that a method passes on. Whatever else is done with it raises."""

    __slots__ = ("names",)

    def __init__(self, names: tuple[str, ...]):
        self.names = names


class _Owner:
    """Stands for a module whose method calls its children."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[[_Value], _Value]:
        def call(value: _Value) -> _Value:
            self.calls += 1
            return _Value((*value.names, name))

        return call


@lru_cache(maxsize=128)
def _chain(code: CodeType) -> tuple[str, ...] | None:
    """
    The names of the children that a method calls, each with what the one before gave.

    The method consists of nothing but loads of attributes and calls in a row, and runs on stand-ins, without
    globals and built-in functions. So what it does here is what it always does, and all that it does.

    :param code: of a method of one argument
    :return: the names; None if it does anything else
    """
    names = {step.opname for step in dis.get_instructions(code)}
    if code.co_freevars or any(name not in _CALLING and not name.startswith(_LOCAL) for name in names):
        return None
    owner = _Owner()
    try:
        value = FunctionType(code, {"__builtins__": {}})(owner, _Value(()))
    except Exception:
        return None
    if type(value) is not _Value or len(value.names) != owner.calls:
        return None
    return value.names


def as_columns(observations: Any, keys: Sequence[str]) -> list[np.ndarray]:
    """
    :param observations: an array, or one for each key
    :param keys: those of a Dict in their order; none for an array
    :return: the arrays as extractors in Rust take them: uint8 as they are, all others float32; C-contiguous
    """
    arrays = [observations[key] for key in keys] if keys else [observations]
    return [
        np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else np.float32)
        for array in map(np.asarray, arrays)
    ]


def branch_specs(
    features: Features, place: Callable[[Any, str, tuple[int, ...]], int]
) -> "list[_native.FeatureBranch]":
    """
    :param features: the branches of an extractor
    :param place: says where a module's parameter of some name and shape lies in a vector
    :return: the same as ``_native`` takes them
    """

    def places(module: Any) -> tuple[int, int | None]:
        shape = module.weight.shape
        weights = place(module, "weight", shape)
        return weights, place(module, "bias", (shape[0],)) if "bias" in module else None

    def convolution(layer: Convolution) -> "_native.ConvolutionLayer":
        channels, _, height, width = layer.module.weight.shape
        weights, bias = places(layer.module)
        return {
            "input": layer.image,
            "channels": channels,
            "kernel": (height, width),
            "stride": layer.stride,
            "padding": layer.padding,
            "weights": weights,
            "bias": bias,
            "activation": layer.activation,
            "parameter": layer.parameter,
        }

    def linear(layer: Layer) -> "_native.LinearLayer":
        (module,) = layer.linears
        outputs, inputs = module.weight.shape
        weights, bias = places(module)
        return {
            "inputs": inputs,
            "outputs": outputs,
            "weights": weights,
            "bias": bias,
            "activation": layer.activation,
            "parameter": layer.parameter,
        }

    return [
        {
            "column": branch.column,
            "inputs": branch.inputs,
            "scale": branch.scale,
            "convolutions": [*map(convolution, branch.convolutions)],
            "linears": [*map(linear, branch.linears)],
        }
        for branch in features
    ]


def arrays_of(features: Features) -> list[mx.array]:
    """
    :param features: the branches of an extractor
    :return: their parameters, in the order of :func:`branch_specs`
    """
    modules = (module for branch in features for module in branch.modules())
    return [module[key] for module in modules for key in ("weight", "bias") if key in module]
