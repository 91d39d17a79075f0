"""
MLPs in four kernels on an NVIDIA GPU, forward and backward. MLX takes one or two for each layer forward, four
backward, and a kernel costs the host 6 to 22 us: at the sizes of these networks more than the GPU's own work.
"""

import functools
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.cuda.nvrtc import Kernel
from mlx_baselines3.common.nn.activations import Tanh

__all__ = ["Net", "fused"]

# Activation in terms of x, derivative in terms of the answer y.
_ACTIVATIONS: dict[type, tuple[str, str]] = {
    nn.Tanh: ("tanhf(x)", "(1.f - y * y)"),
    Tanh: ("tanhf(x)", "(1.f - y * y)"),
    nn.ReLU: ("fmaxf(x, 0.f)", "(y > 0.f ? 1.f : 0.f)"),
}
# What fits in the shared memory of a block.
_WIDEST = 256
# Wider layers than this on more rows than that are left to the tensor cores.
_NARROW, _MANY_ROWS = 64, 4096
_CHUNK, _TILE = 32, 64
# Rows of a block: few, so that there are blocks enough, until there are rows enough for more.
_FEW, _MANY, _ENOUGH_ROWS = 4, 16, 4096
# Blocks that keep a large GPU busy.
_BLOCKS = 264


class Net(NamedTuple):
    """
    A network that may be computed here.

    :param layers: linear layers and activations in turn, an activation or nothing at the end
    :param heads: linear layers side by side behind them
    """

    layers: Sequence[Any]
    heads: Sequence[Any]


class _Shape(NamedTuple):
    """
    What kernels are compiled for.

    :param nets: for each network, for each layer the units of its parts
    :param inputs: numbers that all take
    :param activation: value of :data:`_ACTIVATIONS`
    :param rows: rows of a block
    """

    nets: tuple[tuple[tuple[int, ...], ...], ...]
    inputs: int
    activation: tuple[str, str]
    rows: int

    @property
    def sides(self) -> list[list[int]]:
        """For each network the sizes of its input and its layers."""
        return [[self.inputs, *map(sum, net)] for net in self.nets]


def _linear(layer: Any) -> bool:
    kinds = [kind for kind in type(layer).__mro__ if kind is nn.Linear]
    own = type(layer).__module__.startswith(("mlx.", "mlx_baselines3."))
    return bool(kinds) and own and "bias" in layer and layer.weight.dtype == mx.float32


def _linear_layers(net: Net) -> tuple[list[tuple[Any, ...]], set[tuple[str, str]]] | None:
    """The layers, each with its parts, and the activations between; None if it is another kind of network."""
    layers, heads = list(net.layers), tuple(net.heads)
    if not heads:
        heads = (layers.pop(),) if layers else ()
    if not heads or len(layers) % 2 or not all(map(_linear, heads)):
        return None
    hidden, activations = layers[::2], layers[1::2]
    if not all(map(_linear, hidden)) or not all(type(a) in _ACTIVATIONS for a in activations):
        return None
    return [*((layer,) for layer in hidden), heads], {_ACTIVATIONS[type(a)] for a in activations}


def fused(nets: Sequence[Net], x: mx.array) -> list[list[mx.array]] | None:
    """
    :param nets: networks
    :param x: (rows, inputs) float32
    :return: for each network (rows, units) of each head; None if these are not for here
    """
    if not nvrtc.usable() or x.ndim != 2 or x.dtype != mx.float32:
        return None
    found = [_linear_layers(net) for net in nets]
    if any(one is None for one in found):
        return None
    layers = [one[0] for one in found if one is not None]
    activations = set().union(*(one[1] for one in found if one is not None))
    if len(activations) != 1 or len({len(net) for net in layers}) != 1 or len(layers[0]) < 2:
        return None
    sizes = tuple(tuple(tuple(part.weight.shape[0] for part in layer) for layer in net) for net in layers)
    widest = max(x.shape[1], *(sum(layer) for net in sizes for layer in net))
    if widest > _WIDEST or (widest > _NARROW and x.shape[0] > _MANY_ROWS):
        return None
    rows = _MANY if widest <= _NARROW and x.shape[0] >= _ENOUGH_ROWS else _FEW
    shape = _Shape(sizes, x.shape[1], activations.pop(), rows)
    parts = [part for net in layers for layer in net for part in layer]
    out = _function(shape)(x, *(array for part in parts for array in (part.weight, part.bias)))[1]
    return _heads(out, [net[-1] for net in sizes])


def _heads(out: mx.array, sizes: list[tuple[int, ...]]) -> list[list[mx.array]]:
    flat = [units for net in sizes for units in net]
    places = [sum(flat[: i + 1]) for i in range(len(flat) - 1)]
    parts = iter(mx.split(out, places, axis=1) if places else [out])
    return [[next(parts) for _ in net] for net in sizes]


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _braces(value: Any) -> str:
    return "{" + ",".join(map(_braces, value)) + "}" if isinstance(value, (list, tuple)) else str(value)


class _Tables:
    """The constants of the kernels, see mlp.cu."""

    def __init__(self, shape: _Shape):
        self.sides = shape.sides
        depth = len(shape.nets[0])
        self.units = [units for net in shape.nets for layer in net for units in layer]
        self.inputs = [
            side for net, sides in zip(shape.nets, self.sides, strict=True)
            for layer, side in zip(net, sides, strict=False) for _ in layer
        ]  # fmt: skip
        self.weights, self.biases, self.size = [], [], 0
        for units, inputs in zip(self.units, self.inputs, strict=True):
            self.weights.append(self.size)
            self.biases.append(self.size + _ceil(units * inputs, 4) * 4)
            self.size = self.biases[-1] + _ceil(units, 4) * 4
        firsts, counts, part = [], [], 0
        for net in shape.nets:
            counts.append([len(layer) for layer in net])
            firsts.append([part + sum(counts[-1][:i]) for i in range(depth)])
            part += sum(counts[-1])
        kept, self.kept = [], 0
        for sides in self.sides:
            kept.append([self.kept + sum(sides[1 : i + 1]) for i in range(depth)])
            self.kept += sum(sides[1:-1])
        shown = [sum(sides[-1] for sides in self.sides[:i]) for i in range(len(self.sides))]
        self.out = sum(sides[-1] for sides in self.sides)
        self.tiles = [
            (net, layer, n, k)
            for net, sides in enumerate(self.sides)
            for layer, (inputs, units) in enumerate(pairwise(sides))
            for n in range(0, units, _TILE)
            for k in range(0, inputs, _TILE)
        ]
        widest = max(map(max, self.sides))
        self.threads = min(256, max(64, _ceil(max(max(sides[1:]) for sides in self.sides), 32) * 32))
        names = [f"a{i}" for i in range(2 * len(self.units))]
        self.definitions = {
            "ACT": shape.activation[0], "SLOPE": shape.activation[1], "NETS": len(shape.nets), "DEPTH": depth,
            "DIMS": _braces(self.sides), "FIRSTS": _braces(firsts), "COUNTS": _braces(counts),
            "PARTS": len(self.units), "UNIT_TABLE": _braces(self.units),
            "WEIGHT_TABLE": _braces(self.weights), "BIAS_TABLE": _braces(self.biases),
            "KEPT_TABLE": _braces(kept), "SHOWN_TABLE": _braces(shown),
            "TILES": len(self.tiles), "TILE_TABLE": _braces(self.tiles), "GIVEN": ", ".join(names),
            "PARAMETERS": ", ".join(f"const float* {name}" for name in names), "TR": shape.rows,
            "TH": self.threads, "KC": _CHUNK, "LD": _ceil(widest, _CHUNK) * _CHUNK + 4, "OUT": self.out,
            "SIZE": self.size,
        }  # fmt: skip


@functools.lru_cache(maxsize=64)
def _function(shape: _Shape) -> Callable[..., Any]:
    """Networks of one shape as a function of MLX that has a gradient: (x, parameters) -> (kept, out)."""
    tables = _Tables(shape)
    head = "".join(f"#define {name} {value}\n" for name, value in tables.definitions.items())
    source = head + (files("mlx_baselines3.common.cuda") / "mlp.cu").read_text(encoding="utf-8")
    names = ("mlp_forward", "mlp_backward", "mlp_weights", "mlp_sum")
    forward, backward, weights, sums = (Kernel(name, source) for name in names)
    nets = len(shape.nets)

    @mx.custom_function
    def function(x: mx.array, *parameters: mx.array) -> tuple[mx.array, ...]:
        rows = x.shape[0]
        blocks = _ceil(rows, shape.rows), nets
        shapes: list[tuple[int, ...]] = [(max(rows * tables.kept, 1),), (rows, tables.out)]
        return tuple(forward([x, *parameters], shapes, blocks, tables.threads, (rows,)))

    @function.vjp
    def gradient(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        x, *parameters = primals
        rows, kept, grad_out = x.shape[0], outputs[0], cotangents[1]
        blocks = _ceil(rows, shape.rows), nets
        shapes: list[tuple[int, ...]] = [(kept.size,), (nets, rows, shape.inputs)]
        dz, dx = backward([kept, grad_out, *parameters], shapes, blocks, tables.threads, (rows,))
        portions = max(min(_BLOCKS // len(tables.tiles), rows // 64, 64), 1)
        each = _ceil(_ceil(rows, portions), 16) * 16
        portions = _ceil(rows, each)
        blocks, scalars = (len(tables.tiles), portions), (rows, each)
        (vector,) = weights([x, kept, dz, grad_out], [(portions * tables.size,)], blocks, 256, scalars)
        if portions > 1:
            blocks, scalars = (min(_BLOCKS, _ceil(tables.size, 256)), 1), (tables.size, portions)
            (vector,) = sums([vector], [(tables.size,)], blocks, 256, scalars)
        found = [dx.sum(axis=0) if nets > 1 else dx.squeeze(0)]
        for i, (units, inputs) in enumerate(zip(tables.units, tables.inputs, strict=True)):
            found.append(mx.as_strided(vector, (units, inputs), (inputs, 1), tables.weights[i]))
            found.append(mx.as_strided(vector, (units,), (1,), tables.biases[i]))
        return tuple(found)

    return function
