"""Modules with SB3's parameter names, on top of :mod:`mlx.nn`.

``mlx.nn.Sequential`` stores its layers in a list called ``layers``, so a weight would be named
``policy_net.layers.0.weight``. SB3 names it ``policy_net.0.weight``; the containers here use that name, so
that models can be exchanged. Convolution weights are stored as (out, in, height, width), SB3's layout, and
transposed to MLX's where they are used.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from typing import Any, TypeGuard

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.cuda.bias_relu import bias_relu, suits
from mlx_baselines3.common.nn.activations import Tanh
from mlx_baselines3.common.nn.convolutions import convolved
from mlx_baselines3.common.nn.layer_hints import refuse_torch
from mlx_baselines3.common.nn.memory import check_widths
from mlx_baselines3.common.nn.named_arrays import bound, named_parameters, set_named_parameters
from mlx_baselines3.common.nn.state_dict import StateDict
from mlx_baselines3.common.nn.sums import repeated, sum_rows

__all__ = [
    "ChannelsLast",
    "Conv2d",
    "Flatten",
    "Linear",
    "Module",
    "ModuleDict",
    "Sequential",
    "bound",
    "call",
    "is_exactly",
    "named_parameters",
    "orthogonal",
    "set_named_parameters",
]


def _refuse_torch_layer(value: Any, what: str) -> None:
    # Other torch objects, such as a device, are allowed as attributes.
    if any(kind.__module__.startswith("torch.nn") for kind in type(value).__mro__):
        refuse_torch(value, what)


def _holds_parameters(value: Any) -> bool:
    if isinstance(value, (mx.array, nn.Module)):
        return True
    if isinstance(value, Mapping):
        return any(_holds_parameters(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_parameters(item) for item in value)
    return False


_SETS_A_FLAG = getattr(nn.Module, "_set_training_mode", None)


class Module(StateDict, nn.Module):
    """
    An :class:`mlx.nn.Module` with the behaviour that programs written for SB3 expect.

    - A subclass may define ``forward`` (SB3's way) or ``__call__`` (MLX's way).
    - Only arrays, modules and containers of them are parameters; a list of layer sizes or a
      dictionary of keyword arguments is an ordinary attribute.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def train(self, mode: bool = True) -> "Module":
        """
        Set training or evaluation mode of this module and its children. Equivalent to MLX's method, in a
        tenth of the time: A2C calls it twice per rollout of five steps.

        :param mode: True for training
        :return: this module
        """
        stack: list[Any] = [self]
        while stack:
            value = stack.pop()
            if isinstance(value, nn.Module):
                # MLX has this method since 0.30. Unless it is overridden, it only sets a flag.
                if getattr(type(value), "_set_training_mode", _SETS_A_FLAG) is _SETS_A_FLAG:
                    object.__setattr__(value, "_training", mode)
                else:
                    value._set_training_mode(mode)
            children = value.values() if isinstance(value, dict) else value
            stack += [child for child in children if isinstance(child, (dict, list))]
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """
        Compute the output of the module; defined by subclasses.

        :raises NotImplementedError: if the subclass defines neither ``forward`` nor ``__call__``
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither `forward` nor `__call__`.")

    def __setattr__(self, key: str, value: Any) -> None:
        if type(value).__module__ != "builtins" and not isinstance(value, mx.array):
            _refuse_torch_layer(value, f"{type(self).__name__}.{key}")
        if isinstance(value, (dict, list, tuple)) and not _holds_parameters(value):
            self.pop(key, None)
            object.__setattr__(self, key, value)
        else:
            super().__setattr__(key, value)

    # MLX's modules are dicts; for `if module:` and as dictionary keys they behave as objects.
    def __bool__(self) -> bool:
        return True

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def set_alias(self, name: str, module: nn.Module) -> None:
        """
        Add an alias of ``module`` without listing its parameters twice.

        :param name: the attribute
        :param module: a child module with another name
        """
        self.pop(name, None)
        object.__setattr__(self, name, module)


def call(module: Any, *inputs: Any) -> Any:
    """
    Call a module, including modules with torch's ``forward`` on top of :class:`mlx.nn.Module`.

    :param module: a function, or a module with ``__call__`` or ``forward``
    :param inputs: its inputs
    :return: its outputs
    """
    if isinstance(module, nn.Module) and not callable(module) and hasattr(module, "forward"):
        return module.forward(*inputs)
    return module(*inputs)


class Sequential(Module):
    """
    Modules called in order; the parameters of layer ``i`` are named ``"{i}.…"`` as in SB3.

    :param layers: the modules, or functions of one array
    """

    def __init__(self, *layers: Callable[[mx.array], mx.array]):
        super().__init__()
        _check_channels(layers)
        self._length = len(layers)
        for i, layer in enumerate(layers):
            setattr(self, str(i), layer)

    def forward(self, x: mx.array) -> mx.array:
        """
        :param x: input of the first layer
        :return: output of the last layer (``x`` itself if there are no layers)
        """
        channels_last = rectifies = False
        layers = list(self.layers())
        for layer, after in zip_longest(layers, layers[1:]):
            if _convolves(layer):
                rectifies = type(after) is nn.ReLU and _has_kernel(layer, x)
                images = x if channels_last else x.transpose(0, 2, 3, 1)
                x = layer.convolve(images, True) if rectifies else layer.convolve(images)
                channels_last = True
            elif channels_last and rectifies:
                # The convolution has done it.
                rectifies = False
            elif channels_last and type(layer) in _NUMBER_BY_NUMBER:
                x = layer(x)
            else:
                x = call(layer, x.transpose(0, 3, 1, 2) if channels_last else x)
                channels_last = False
        return x.transpose(0, 3, 1, 2) if channels_last else x

    def layers(self) -> Iterator[Callable[[mx.array], mx.array]]:
        """:return: the layers in order"""
        # Modules are in the dictionary, which `getattr` searches last.
        return (self[name] if (name := str(i)) in self else getattr(self, name) for i in range(self._length))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int):
            return getattr(self, str(range(self._length)[key]))
        return super().__getitem__(key)


class ModuleDict(Module):
    """
    Modules by name.

    :param modules: name -> module; names must not contain a dot
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        super().__init__()
        self._names = tuple(modules)
        for name, module in modules.items():
            _refuse_torch_layer(module, f"ModuleDict[{name!r}]")
            self[name] = module

    def named_items(self) -> Iterator[tuple[str, nn.Module]]:
        """:return: (name, module) pairs in the order given"""
        return ((name, self[name]) for name in self._names)


class Flatten(Module):
    """Flattens all axes except the first."""

    def forward(self, x: mx.array) -> mx.array:
        """
        :param x: (batch, ...)
        :return: (batch, product of the rest)
        """
        return x.reshape(x.shape[0], -1)


# From this size on, a bias is broadcast over the rows by a product.
_LARGE = 1 << 14


@lru_cache(maxsize=64)
def _ones(rows: int) -> mx.array:
    ones = mx.ones((rows, 1))
    mx.eval(ones)
    return ones


@mx.custom_function
def _affine(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    rows, units = x.shape[0], weight.shape[0]
    if rows * units >= _LARGE and mx.default_device().type == mx.cpu:
        # On a CPU, MLX copies a broadcast row element by element, which takes a quarter of the product's
        # time.
        return mx.addmm(_ones(rows) @ bias.reshape(1, units), x, weight.T)
    return mx.addmm(bias, x, weight.T)


@_affine.vjp
def _(
    primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    x, weight, _ = primals
    return cotangent @ weight, cotangent.T @ x, sum_rows(cotangent)


class Linear(StateDict, nn.Linear):
    """
    :class:`mlx.nn.Linear` whose gradient takes five operations instead of nine: the product gives the
        gradient of
    the weight in the weight's layout, and that of the bias is a single sum.

    :param input_dims: input size
    :param output_dims: output size
    :param bias: whether it adds a bias
    :raises ValueError: a size exceeds the limit of an axis in MLX
    :raises MemoryError: there is not enough memory to train the layer
    """

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True):
        check_widths(input_dims, output_dims)
        super().__init__(input_dims, output_dims, bias)

    def __call__(self, x: mx.array) -> mx.array:
        """
        :param x: (..., input_dims)
        :return: (..., output_dims)
        """
        if x.ndim == 2 and "bias" in self:
            product: mx.array = _affine(x, self.weight, self.bias)  # type: ignore[assignment]
            return product
        return super().__call__(x)


def is_exactly(module: Any, kind: type) -> bool:
    """
    :param module: any object
    :param kind: a class
    :return: whether the object is of exactly that class, because a subclass may compute anything;
        :class:`Linear` counts as :class:`mlx.nn.Linear`
    """
    return type(module) is kind or (kind is nn.Linear and type(module) is Linear)


class Conv2d(Module):
    """
    2D convolution over channel-first images with SB3's weight layout and initial distribution.

    Internally, MLX convolves channel-last images; inputs and outputs are (batch, channels, height, width).

    :param in_channels: channels of the input
    :param out_channels: channels of the output
    :param kernel_size: side of the square kernel in pixels
    :param stride: in pixels
    :param padding: in pixels, on each side
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ):
        super().__init__()
        bound = 1.0 / math.sqrt(in_channels * kernel_size * kernel_size)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = mx.random.uniform(-bound, bound, shape)
        self.bias = mx.random.uniform(-bound, bound, (out_channels,))
        self.stride = stride
        self.padding = padding

    def forward(self, x: mx.array) -> mx.array:
        """
        :param x: (batch, in_channels, height, width)
        :return: (batch, out_channels, height', width')
        """
        return self.convolve(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    def convolve(self, x: mx.array, rectifies: bool = False) -> mx.array:
        """
        As :meth:`forward`, in MLX's layout.

        :param x: (batch, height, width, in_channels)
        :param rectifies: whether a ReLU follows, in one kernel with the bias
        :return: (batch, height', width', out_channels)
        """
        weight = self.weight.transpose(0, 2, 3, 1)
        if rectifies:
            return bias_relu(mx.conv2d(x, weight, self.stride, self.padding), self.bias)
        out = convolved(x, weight, self.stride, self.padding)
        # The bias is added to every pixel of every image, so its gradient is a long sum.
        pixels = out.reshape(-1, out.shape[-1])
        return (pixels + repeated(self.bias, pixels)).reshape(out.shape)


def _convolves(layer: Any) -> TypeGuard[Conv2d]:
    """Whether a layer computes as :class:`Conv2d` does, and not in a way of its own."""
    kind = type(layer)
    return (
        isinstance(layer, Conv2d)
        and kind.forward is Conv2d.forward
        and kind.__call__ is Conv2d.__call__
        and "forward" not in vars(layer)
    )


def _has_kernel(layer: Conv2d, x: mx.array) -> bool:
    """Whether bias and ReLU after a convolution are one kernel."""
    own = type(layer).convolve is Conv2d.convolve
    return own and nvrtc.usable() and suits(layer.bias.size) and x.dtype == layer.bias.dtype == mx.float32


# Activations that do not care which axis is which. Layers between channel-last images.
_NUMBER_BY_NUMBER = {
    getattr(nn, name)
    for name in ("ELU", "GELU", "Hardswish", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid",
                 "Softplus", "Tanh")
    if hasattr(nn, name)
} | {Tanh}  # fmt: skip


class ChannelsLast(Module):
    """
    Wrapper of MLX's channel-last layers for channel-first images, such as ``ChannelsLast(nn.MaxPool2d(2))``
    after a :class:`Conv2d`.

    :param layer: the layer
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: mx.array) -> mx.array:
        """
        :param x: (batch, channels, height, width)
        :return: (batch, channels', height', width')
        """
        return self.layer(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


# MLX layers that would use the width of a channel-first image as its channels.
_TAKE_CHANNELS_LAST = tuple(
    getattr(nn, name)
    for name in (
        "AvgPool2d", "BatchNorm", "Conv2d", "ConvTranspose2d", "Dropout2d", "GroupNorm", "InstanceNorm",
        "MaxPool2d", "Upsample",
    )
    if hasattr(nn, name)
)  # fmt: skip


def _check_channels(layers: tuple[Any, ...]) -> None:
    """MLX would silently pool or normalise the wrong axes."""
    images = False
    for layer in layers:
        if images and isinstance(layer, _TAKE_CHANNELS_LAST):
            name = type(layer).__name__
            own = "mlx_baselines3.common.layers."
            instead = f"{own}Conv2d" if name == "Conv2d" else f"{own}ChannelsLast(mlx.nn.{name}(...))"
            raise ValueError(
                f"mlx.nn.{name} takes images with their channels last, but {own}Conv2d before it gives them "
                f"first, as in SB3: use {instead}."
            )
        images = isinstance(layer, Conv2d | ChannelsLast) or (images and not isinstance(layer, Flatten))


def orthogonal(shape: tuple[int, ...], gain: float = 1.0) -> mx.array:
    """
    A (semi-)orthogonal matrix, the initial weights of PPO and A2C.

    Saxe, McClelland and Ganguli (2013), https://arxiv.org/abs/1312.6120. The first axis is the rows, the
    other axes are the columns. The QR factorisation is NumPy's, because MLX has none on GPUs.

    :param shape: shape of the weight, at least two axes
    :param gain: factor on the result
    :return: float32 array of that shape
    """
    rows, columns = shape[0], math.prod(shape[1:])
    normal = np.array(mx.random.normal((max(rows, columns), min(rows, columns))), dtype=np.float64)
    q, r = np.linalg.qr(normal)
    # Without the signs of R's diagonal, Q would not be uniformly distributed.
    q *= np.sign(np.diag(r))
    if rows < columns:
        q = q.T
    return mx.array((gain * q).reshape(shape).astype(np.float32))
