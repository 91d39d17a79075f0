"""A faster hyperbolic tangent for MLX's CPU backend on Linux.

There MLX calls the C library for each number, which takes 18 to 40 ns; a rational function, with its
multiplications and one division, is vectorised by the compiler and takes 1 ns. On macOS and GPUs MLX's
function is faster and used instead.
"""

import sys

import mlx.core as mx
import mlx.nn as nn

from mlx_baselines3.common.nn.layer_hints import refuse_torch

__all__ = ["Tanh", "make_activation", "rational_tanh"]

# tanh(x) = x P(x^2) / Q(x^2) on [0, 9.02], a minimax fit of the relative error by iteratively reweighted
# least squares: 2.1e-8, or 3.7e-7 in float32 arithmetic.
_LIMIT = 9.02
# Below this size, dispatching the twenty operations costs more than the C library's function: a rollout step
# of a few environments, where nothing is compiled.
_WORTHWHILE = 2048
_P = (
    0.9999999790589356,
    0.133797201092318,
    3.4940370428030686e-3,
    2.058351915674303e-5,
    1.331911933884954e-8,
)
_Q = (1.0, 0.467130353608849, 2.587108286975853e-2, 3.2830967669253116e-4, 7.762039909318451e-7)


def _polynomial(z: mx.array, z2: mx.array, z4: mx.array, coefficients: tuple[float, ...]) -> mx.array:
    # Estrin's scheme is shallow enough for MLX to fuse everything into one kernel; Horner's is too deep.
    c = coefficients
    return (c[0] + c[1] * z) + ((c[2] + c[3] * z) * z2 + c[4] * z4)


@mx.custom_function
def rational_tanh(x: mx.array) -> mx.array:
    """
    ``tanh(x)`` to within 3.7e-7 relative, with the exact derivative ``1 - tanh(x)^2`` of that value.

    :param x: float32, any shape
    :return: the same shape
    """
    # `where` is vectorised with the rest; minimum and maximum, which check for nan, are not.
    x = mx.where(mx.abs(x) > _LIMIT, mx.sign(x) * _LIMIT, x)
    z = x * x
    z2 = z * z
    z4 = z2 * z2
    return x * _polynomial(z, z2, z4, _P) / _polynomial(z, z2, z4, _Q)


@rational_tanh.vjp
def _(_: mx.array, cotangent: mx.array, y: mx.array) -> mx.array:
    return cotangent * (1.0 - y * y)


class Tanh(nn.Tanh):
    """The hyperbolic tangent, in the fastest implementation for the device."""

    def __call__(self, x: mx.array) -> mx.array:
        """
        :param x: any shape
        :return: ``tanh(x)``
        """
        on_linux_cpu = sys.platform == "linux" and mx.default_device().type == mx.cpu
        if on_linux_cpu and x.dtype == mx.float32 and x.size >= _WORTHWHILE:
            y: mx.array = rational_tanh(x)  # type: ignore[assignment]
            return y
        return mx.tanh(x)


def make_activation(activation_fn: type[nn.Module]) -> nn.Module:
    """
    :param activation_fn: class of an activation, chosen by the user
    :return: an instance; ``mlx.nn.Tanh`` becomes :class:`Tanh`
    :raises TypeError: it is a class of torch
    """
    refuse_torch(activation_fn, "activation_fn")
    return Tanh() if activation_fn is nn.Tanh else activation_fn()
