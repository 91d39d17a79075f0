"""The fast tanh is a tanh."""

import io
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_baselines3.common.nn.activations import Tanh, make_activation, rational_tanh

POINTS = np.concatenate([np.linspace(-12, 12, 40_001), np.logspace(-30, 0, 301)]).astype(np.float32)


def test_values_are_within_the_stated_error():
    expected = np.tanh(POINTS.astype(np.float64))
    error = np.abs(np.array(rational_tanh(mx.array(POINTS))) - expected)
    assert (error <= 3.7e-7 * np.abs(expected)).all()


def test_derivative_is_one_minus_the_square():
    derivative = mx.grad(lambda x: rational_tanh(x).sum())(mx.array(POINTS))
    inside = np.abs(POINTS) < 9.02
    expected = 1 - np.tanh(POINTS.astype(np.float64)) ** 2
    np.testing.assert_allclose(np.array(derivative)[inside], expected[inside], atol=8e-7)
    # Outside the fit's interval the true derivative is below 6e-8, and the value one unit in the last place
    # from 1.
    np.testing.assert_allclose(np.array(derivative)[~inside], 0, atol=2.4e-7)


def test_forward_and_backward_are_one_kernel_each():
    both = mx.compile(mx.grad(lambda x: (rational_tanh(x) * x).sum()))
    text = io.StringIO()
    mx.export_to_dot(text, both(mx.array(POINTS)))
    kernels = re.findall(r'label ?="(Compiled[^"]*)", shape=rectangle', text.getvalue())
    assert len(kernels) == 2


def test_infinities_and_nan():
    values = np.array(rational_tanh(mx.array([np.inf, -np.inf, np.nan])))
    np.testing.assert_allclose(values[:2], [1, -1], atol=4e-7)
    assert np.isnan(values[2])


def test_small_and_large_arrays_agree():
    tanh = Tanh()
    large = np.array(tanh(mx.array(POINTS)))
    small = np.array(tanh(mx.array(POINTS[:100])))
    np.testing.assert_allclose(large[:100], small, atol=4e-7)


def test_only_mlxs_own_tanh_is_replaced():
    class Mine(nn.Tanh):
        pass

    assert type(make_activation(nn.Tanh)) is Tanh
    assert type(make_activation(Mine)) is Mine
    assert isinstance(make_activation(nn.ReLU), nn.ReLU)
