"""A faster hyperbolic tangent for MLX's CPU backend on Linux.

There MLX calls the C library for each number, about 40 ns; the multiplications and the one division
of a rational function are vectorised by the compiler and take about 2 ns. On a Mac and on a GPU MLX's
own function is the faster one and stays.
"""

import sys

import mlx.core as mx
import mlx.nn as nn

__all__ = ["Tanh", "make_activation", "rational_tanh"]

# tanh(x) = x P(x^2) / Q(x^2) on [0, 9.02], fitted by iteratively reweighted least squares to the
# smallest largest relative error, 2.1e-8. In float32 arithmetic it is 3.7e-7.
_LIMIT = 9.02
# Below this many numbers the twenty operations cost more to start than the C library's function to run:
# a rollout step of a few environments, where nothing is compiled.
_WORTHWHILE = 2048
_P = (
    0.9999999790589356,
    0.133797201092318,
    3.4940370428030686e-3,
    2.058351915674303e-5,
    1.331911933884954e-8,
)
_Q = (1.0, 0.467130353608849, 2.587108286975853e-2, 3.2830967669253116e-4, 7.762039909318451e-7)


def _polynomial(z: mx.array, coefficients: tuple[float, ...]) -> mx.array:
    value = coefficients[-1] * z + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * z + coefficient
    return value


def rational_tanh(x: mx.array) -> mx.array:
    """
    ``tanh(x)`` to within 3.7e-7 relative, with the exact derivative ``1 - tanh(x)^2`` of that value.

    :param x: float32, any shape
    :return: the same shape
    """
    clipped = mx.clip(x, -_LIMIT, _LIMIT)
    fixed = mx.stop_gradient(clipped)
    square = fixed * fixed
    y = fixed * _polynomial(square, _P) / _polynomial(square, _Q)
    # Adds zero; its derivative is the one wanted. Differentiating the fraction would cost twice as much.
    return y + (1.0 - y * y) * (clipped - fixed)


class Tanh(nn.Tanh):
    """The hyperbolic tangent, by the fastest way the device has."""

    def __call__(self, x: mx.array) -> mx.array:
        """
        :param x: any shape
        :return: ``tanh(x)``
        """
        on_linux_cpu = sys.platform == "linux" and mx.default_device().type == mx.cpu
        if on_linux_cpu and x.dtype == mx.float32 and x.size >= _WORTHWHILE:
            return rational_tanh(x)
        return mx.tanh(x)


def make_activation(activation_fn: type[nn.Module]) -> nn.Module:
    """
    :param activation_fn: class of an activation, as a user names it
    :return: an instance; ``mlx.nn.Tanh`` becomes :class:`Tanh`
    """
    return Tanh() if activation_fn is nn.Tanh else activation_fn()
