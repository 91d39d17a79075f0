"""RMSpropTFLike against the recurrence worked out in NumPy, and its way to SB3's names."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.nn.optimizers import from_torch_state
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

GRADIENTS = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)


def steps(**kwargs) -> np.ndarray:
    optimizer = RMSpropTFLike(0.1, alpha=0.9, eps=0.5, **kwargs)
    parameters = {"p": mx.array([1.0, -1.0])}
    optimizer.init(parameters)
    for gradient in GRADIENTS:
        parameters = optimizer.apply_gradients({"p": mx.array(gradient)}, parameters)
    return np.array(parameters["p"])


def test_plain():
    # v: 1 -> .9 + .1 g^2 = [1, 1.3] -> [.925, 2.77]; p = p - .1 g / sqrt(v + .5)
    first = np.array([1 - 0.1 / np.sqrt(1.5), -1 + 0.2 / np.sqrt(1.8)])
    second = first - 0.1 * np.array([0.5 / np.sqrt(1.425), 4 / np.sqrt(3.27)])
    np.testing.assert_allclose(steps(), second, rtol=1e-6)


def test_momentum():
    first = np.array([1 / np.sqrt(1.5), -2 / np.sqrt(1.8)])
    second = 0.5 * first + np.array([0.5 / np.sqrt(1.425), 4 / np.sqrt(3.27)])
    np.testing.assert_allclose(steps(momentum=0.5), [1, -1] - 0.1 * (first + second), rtol=1e-6)


def test_centered():
    # a: .1 g = [.1, -.2] -> .9 a + .1 g = [.14, .22]
    first = np.array([1 / np.sqrt(1.5 - 0.01), -2 / np.sqrt(1.8 - 0.04)])
    second = np.array([0.5 / np.sqrt(1.425 - 0.14**2), 4 / np.sqrt(3.27 - 0.22**2)])
    np.testing.assert_allclose(steps(centered=True), [1, -1] - 0.1 * (first + second), rtol=1e-6)


def test_weight_decay_joins_the_gradient():
    optimizer = RMSpropTFLike(0.1, alpha=0.9, eps=0.5, weight_decay=2.0)
    parameters = {"p": mx.array([1.0])}
    optimizer.init(parameters)
    new = optimizer.apply_gradients({"p": mx.array([1.0])}, parameters)
    np.testing.assert_allclose(np.array(new["p"]), [1 - 0.1 * 3 / np.sqrt(0.9 + 0.9 + 0.5)], rtol=1e-6)


@pytest.mark.parametrize("name", ["lr", "alpha", "eps", "weight_decay", "momentum"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        RMSpropTFLike(**{name: -1})


def test_state_survives_saving_and_sb3s_state_is_read():
    network = Sequential(nn.Linear(2, 3))
    optimizer = ParameterOptimizer(network, RMSpropTFLike, 0.1, {"momentum": 0.9, "centered": True})
    ones = {"0.weight": mx.ones((3, 2)), "0.bias": mx.ones((3,))}
    _, state = optimizer.apply(optimizer.pack(ones), optimizer.pack(ones), optimizer.state)
    optimizer.state = state
    saved = optimizer.state_dict()
    torch_state = {
        "state": {
            i: {
                "square_avg": saved[f"v.{name}"],
                "grad_avg": saved[f"grad_avg.{name}"],
                "momentum_buffer": saved[f"momentum_buffer.{name}"],
                "step": 1,
            }
            for i, name in enumerate(optimizer.names)
        },
        "param_groups": [{"params": [0, 1], "lr": 0.1}],
    }
    other = ParameterOptimizer(network, RMSpropTFLike, 0.2, {"momentum": 0.9, "centered": True})
    other.load_state_dict(from_torch_state(torch_state, optimizer.names))
    for name, value in saved.items():
        np.testing.assert_array_equal(np.array(other.state_dict()[name]), np.array(value), err_msg=name)
