"""Layers as ONNX nodes (https://onnx.ai/onnx/operators/)."""

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import mlx.nn as nn
import numpy as np

from mlx_baselines3.common.nn.activations import Tanh
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import Conv2d, Flatten, Sequential, is_exactly
from mlx_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN

__all__ = ["Graph", "NotInONNX", "clip", "emit"]


class NotInONNX(ValueError):
    """Part of a policy cannot be exported to ONNX. The message names it."""


class Graph:
    """A list of nodes, each with one output."""

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise ImportError(
                "Exporting to ONNX needs the package onnx: `pip install 'mlx-baselines3[onnx]'`."
            ) from error
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        # Name, dtype and shape of inputs besides the observation, and of outputs besides the actions.
        self.inputs: list[tuple[str, Any, list[Any]]] = []
        self.outputs: list[tuple[str, Any, list[Any]]] = []

    def constant(self, value: Any) -> str:
        """
        :param value: an array or a number
        :return: its name in the graph
        """
        name = f"policy/constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """
        :param operator: name of an ONNX operator
        :param inputs: names of its inputs
        :param attributes: its attributes
        :return: name of its output
        """
        name = f"policy/{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def input(self, name: str, dtype: Any, shape: list[Any]) -> str:
        """
        :param name: name of an input besides the observation
        :param dtype: its dtype
        :param shape: its shape, with names for free axes
        :return: the name
        """
        self.inputs.append((name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: Any, shape: list[Any]) -> None:
        """
        :param name: name of an output besides the actions
        :param value: name of its value
        :param dtype: its dtype
        :param shape: its shape, with names for free axes
        """
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append((name, dtype, shape))

    def columns(self, value: str, start: int, end: int) -> str:
        """
        :param value: name of an array of two axes
        :param start: first column
        :param end: the column after the last
        :return: name of these columns
        """
        bounds = (self.constant(np.array([bound])) for bound in (start, end, 1))
        return self.add("Slice", value, *bounds)

    def cast(self, value: str, dtype: Any) -> str:
        """
        :param value: name of a value
        :param dtype: a NumPy dtype
        :return: name of the converted value
        """
        return self.add("Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def one_hot(self, value: str, codes: np.ndarray) -> str:
        """
        :param value: name of int64 numbers that broadcast against the codes
        :param codes: the values of the categories
        :return: name of float32 zeros and ones
        """
        return self.cast(self.add("Equal", value, self.constant(codes.astype(np.int64))), np.float32)


@singledispatch
def emit(module: Any, graph: Graph, value: Any) -> str:
    """
    Append a module to a graph.

    :param module: the module
    :param graph: the graph
    :param value: name of its input; a dict of names for a dict of observations
    :return: name of its output
    :raises NotInONNX: the module's class is not supported
    """
    operator = _ACTIVATIONS.get(type(module))
    if operator is None:
        raise NotInONNX(f"a {type(module).__module__}.{type(module).__qualname__} cannot be exported to ONNX")
    return operator(module, graph, value)


def _exactly(module: Any, kind: type) -> None:
    if not is_exactly(module, kind):
        raise NotInONNX(f"a {type(module).__module__}.{type(module).__qualname__} cannot be exported to ONNX")


@emit.register
def _linear(module: nn.Linear, graph: Graph, value: str) -> str:
    _exactly(module, nn.Linear)
    inputs = [value, graph.constant(to_numpy(module.weight))]
    if "bias" in module:
        inputs.append(graph.constant(to_numpy(module.bias)))
    return graph.add("Gemm", *inputs, transB=1)


@emit.register
def _conv(module: Conv2d, graph: Graph, value: str) -> str:
    _exactly(module, Conv2d)
    weight, bias = (graph.constant(to_numpy(array)) for array in (module.weight, module.bias))
    stride, pad = module.stride, module.padding
    return graph.add("Conv", value, weight, bias, strides=[stride, stride], pads=[pad] * 4)


@emit.register
def _flatten(module: Flatten, graph: Graph, value: str) -> str:
    _exactly(module, Flatten)
    return graph.add("Flatten", value, axis=1)


@emit.register
def _flatten_extractor(module: FlattenExtractor, graph: Graph, value: str) -> str:
    _exactly(module, FlattenExtractor)
    return graph.add("Flatten", value, axis=1)


@emit.register
def _sequential(module: Sequential, graph: Graph, value: str) -> str:
    _exactly(module, Sequential)
    for layer in module.layers():
        value = emit(layer, graph, value)
    return value


@emit.register
def _nature_cnn(module: NatureCNN, graph: Graph, value: str) -> str:
    _exactly(module, NatureCNN)
    return emit(module.linear, graph, emit(module.cnn, graph, value))


@emit.register
def _combined(module: CombinedExtractor, graph: Graph, value: dict[str, str]) -> str:
    _exactly(module, CombinedExtractor)
    parts = [emit(extractor, graph, value[key]) for key, extractor in module.extractors.named_items()]
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def clip(graph: Graph, value: str, low: Any, high: Any) -> str:
    """
    :param graph: the graph
    :param value: name of float32 numbers
    :param low: lower bound
    :param high: upper bound
    :return: name of the clipped numbers
    """
    bounds = (graph.constant(np.float32(bound)) for bound in (low, high))
    return graph.add("Clip", value, *bounds)


def _silu(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", value))


def _mish(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Tanh", graph.add("Softplus", value)))


def _gelu(module: Any, graph: Graph, value: str) -> str:
    if module._approx != "none":
        raise NotInONNX(f"GELU with the approximation {module._approx!r} cannot be exported to ONNX")
    scaled = graph.add("Mul", value, graph.constant(np.float32(1 / math.sqrt(2))))
    doubled = graph.add("Add", graph.add("Erf", scaled), graph.constant(np.float32(1)))
    return graph.add("Mul", graph.add("Mul", value, doubled), graph.constant(np.float32(0.5)))


def _simple(operator: str) -> Callable[[Any, Graph, str], str]:
    return lambda _, graph, value: graph.add(operator, value)


_ACTIVATIONS: dict[type, Callable[[Any, Graph, str], str]] = {
    nn.ReLU: _simple("Relu"),
    nn.Sigmoid: _simple("Sigmoid"),
    nn.Softplus: _simple("Softplus"),
    nn.Softsign: _simple("Softsign"),
    nn.SELU: _simple("Selu"),
    nn.Tanh: _simple("Tanh"),
    Tanh: _simple("Tanh"),
    nn.Identity: lambda _, graph, value: value,
    nn.ELU: lambda module, graph, value: graph.add("Elu", value, alpha=float(module._alpha)),
    nn.CELU: lambda module, graph, value: graph.add("Celu", value, alpha=float(module._alpha)),
    nn.LeakyReLU: lambda module, graph, value: graph.add(
        "LeakyRelu", value, alpha=float(module._negative_slope)
    ),
    nn.ReLU6: lambda _, graph, value: clip(graph, value, 0.0, 6.0),
    nn.LogSigmoid: lambda _, graph, value: graph.add("Log", graph.add("Sigmoid", value)),
    nn.SiLU: lambda _, graph, value: _silu(graph, value),
    nn.Mish: lambda _, graph, value: _mish(graph, value),
    nn.GELU: _gelu,
}
