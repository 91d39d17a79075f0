"""Optimizers against NumPy's formulas, torch's arguments, and state that travels."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3.common.nn.layers import named_parameters, set_named_parameters
from mlx_baselines3.common.nn.optimizers import (
    RMSpropTFLike,
    check_learning_rate,
    from_torch_state,
    is_elementwise,
    make_optimizer,
)
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer

START = np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([0.1, -0.2, 3.0]), np.array([1e-6, 0.5, -1.0]), np.array([0.3, 0.0, 0.2])]


def mlx_steps(optimizer):
    parameters = {"p": mx.array(START, mx.float32)}
    optimizer.init(parameters)
    for gradient in GRADIENTS:
        parameters = optimizer.apply_gradients({"p": mx.array(gradient, mx.float32)}, parameters)
    return np.array(parameters["p"])


def test_adam_is_torchs():
    """Bias correction of both moments; epsilon beside the corrected root."""
    lr, b1, b2, eps = 0.1, 0.8, 0.95, 1e-2
    p, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t, g in enumerate(GRADIENTS, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p -= lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    optimizer = make_optimizer(optim.Adam, lr, {"betas": (b1, b2), "eps": eps})
    np.testing.assert_allclose(mlx_steps(optimizer), p, rtol=1e-5)


def test_adam_without_correction_if_told_so():
    optimizer = make_optimizer(optim.Adam, 0.1, {"bias_correction": False, "eps": 1e-8})
    # The first step is then lr (1 - b1) / sqrt(1 - b2) instead of lr.
    parameters = {"p": mx.array([1.0])}
    optimizer.init(parameters)
    new = optimizer.apply_gradients({"p": mx.array([5.0])}, parameters)["p"].item()
    assert 1 - new == pytest.approx(0.1 * 0.1 / np.sqrt(0.001), rel=1e-4)


def test_rmsprop_is_torchs():
    """The average starts at 0, epsilon beside the root."""
    lr, alpha, eps = 0.1, 0.9, 1e-2
    p, v = START.copy(), np.zeros(3)
    for g in GRADIENTS:
        v = alpha * v + (1 - alpha) * g**2
        p -= lr * g / (np.sqrt(v) + eps)
    optimizer = make_optimizer(optim.RMSprop, lr, {"alpha": alpha, "eps": eps, "weight_decay": 0})
    np.testing.assert_allclose(mlx_steps(optimizer), p, rtol=1e-5)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rmsprop_tf_like(centered, momentum, weight_decay):
    """The average starts at 1, epsilon inside the root."""
    lr, alpha, eps = 0.1, 0.9, 1e-2
    p, v, a, b = START.copy(), np.ones(3), np.zeros(3), np.zeros(3)
    for raw in GRADIENTS:
        g = raw + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        a = alpha * a + (1 - alpha) * g
        b = momentum * b + g / np.sqrt((v - a**2 if centered else v) + eps)
        p = p - lr * b
    optimizer = RMSpropTFLike(lr, alpha, eps, weight_decay, momentum, centered)
    np.testing.assert_allclose(mlx_steps(optimizer), p, rtol=1e-5)


@pytest.mark.parametrize("name", ["lr", "eps", "momentum", "weight_decay", "alpha"])
def test_rmsprop_tf_like_refuses_negative_numbers(name):
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        RMSpropTFLike(**{name: -1})


def test_arguments_without_twin():
    with pytest.raises(ValueError, match=r"weight_decay.*Adam.*AdamW for weight decay"):
        make_optimizer(optim.Adam, 1e-3, {"weight_decay": 0.1})
    with pytest.raises(ValueError, match=r"'amsgrad': True.*do not fit Adam"):
        make_optimizer(optim.Adam, 1e-3, {"amsgrad": True})
    assert make_optimizer(optim.AdamW, 1e-3, {"weight_decay": 0.1}).weight_decay == 0.1
    given = {"weight_decay": 0.0}
    make_optimizer(optim.Adam, 1e-3, given)
    assert given == {"weight_decay": 0.0}


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_learning_rates_that_cannot_be(rate):
    with pytest.raises(ValueError, match=f"not negative, got {rate}"):
        make_optimizer(optim.Adam, rate, {})
    assert check_learning_rate(0.0) == 0.0


class SignedNorm(optim.Optimizer):
    """A user's optimizer whose step depends on the whole tensor: it must not see a flat vector."""

    def __init__(self, learning_rate):
        super().__init__()
        self._maybe_schedule("learning_rate", learning_rate)

    def init_single(self, parameter, state):
        state["count"] = mx.zeros_like(parameter)

    def apply_single(self, gradient, parameter, state):
        state["count"] = state["count"] + 1
        return parameter - self.learning_rate * gradient / mx.sqrt((gradient * gradient).sum())


class MyAdam(optim.Adam):
    pass


@pytest.fixture
def net():
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))


def step_once(optimizer, net):
    """The squares' sum: the gradient of every number is twice the number."""
    packed = optimizer.pack(named_parameters(net))
    gradients = optimizer.pack({name: 2 * array for name, array in named_parameters(net).items()})
    packed, optimizer.state = optimizer.apply(gradients, packed, optimizer.state)
    set_named_parameters(net, optimizer.unpack(packed))


@pytest.mark.parametrize(
    ("cls", "flat"),
    [
        (optim.Adam, True),
        (optim.SGD, True),
        (RMSpropTFLike, True),
        (MyAdam, False),
        (optim.Adafactor, False),
        (optim.Muon, False),
        (SignedNorm, False),
    ],
)
def test_flat_only_where_every_number_is_alone(net, cls, flat):
    optimizer = ParameterOptimizer(net, cls, 1e-2)
    assert is_elementwise(optimizer.optimizer) is flat
    assert bool(optimizer._merged) is flat
    packed = optimizer.pack(named_parameters(net))
    assert list(packed) == (["merged"] if flat else optimizer.names)
    before = {name: np.array(array) for name, array in named_parameters(net).items()}
    for name, array in optimizer.unpack(packed).items():
        np.testing.assert_array_equal(np.array(array), before[name])
    for _ in range(3):
        step_once(optimizer, net)
    for name, array in named_parameters(net).items():
        assert np.square(np.array(array)).sum() < np.square(before[name]).sum(), name


def test_users_optimizer_sees_tensors(net):
    before = {name: np.array(array, np.float64) for name, array in named_parameters(net).items()}
    step_once(ParameterOptimizer(net, SignedNorm, 0.1), net)
    for name, array in named_parameters(net).items():
        expected = before[name] - 0.1 * before[name] / np.linalg.norm(before[name])
        np.testing.assert_allclose(np.array(array), expected, rtol=1e-4, atol=1e-6)


def test_tensors_in_the_flat_vector_are_aligned(net):
    """Tensors of 15, 5, 10 and 2 numbers start on multiples of four; the gaps never matter."""
    optimizer = ParameterOptimizer(net, optim.Adam, 1e-2)
    assert optimizer.pack(named_parameters(net))["merged"].shape == (16 + 8 + 12 + 4,)


def test_flat_adam_is_adam_by_tensor(net):
    twins = [nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)) for _ in range(2)]
    for twin, cls in zip(twins, (optim.Adam, MyAdam), strict=True):
        set_named_parameters(twin, named_parameters(net))
        kwargs = {"eps": 1e-5} if cls is optim.Adam else {"eps": 1e-5, "bias_correction": True}
        optimizer = ParameterOptimizer(twin, cls, 1e-2, kwargs)
        for _ in range(3):
            step_once(optimizer, twin)
    for name, array in named_parameters(twins[0]).items():
        np.testing.assert_allclose(np.array(array), np.array(named_parameters(twins[1])[name]), rtol=1e-6)


@pytest.mark.parametrize("cls", [optim.Adam, RMSpropTFLike, optim.SGD, optim.Adafactor, MyAdam])
def test_state_round_trip(net, cls):
    optimizer = ParameterOptimizer(net, cls, 1e-2)
    step_once(optimizer, net)
    state = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    other = ParameterOptimizer(net, cls, 0.5)
    other.load_state_dict(state)
    assert other.state_dict().keys() == state.keys()
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(np.array(array), state[name], err_msg=name)
    assert other.learning_rate.item() == pytest.approx(1e-2)


def test_state_names_follow_the_parameters(net):
    state = ParameterOptimizer(net, optim.Adam, 1e-2).state_dict()
    assert set(state) == {"step", "learning_rate"} | {
        f"{slot}.{name}" for slot in "mv" for name in named_parameters(net)
    }
    assert state["v.layers.0.weight"].shape == (5, 3)


def spoil_shape(state):
    state["m.layers.0.bias"] = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda state: state.pop("v.layers.1.bias"), r"v\.layers\.1\.bias"),
        (lambda state: state.update({"m.other": np.zeros(1)}), r"m\.other"),
        (spoil_shape, r"m\.layers\.0\.bias"),
        (lambda state: state.clear(), "learning_rate"),
    ],
)
def test_wrong_state_changes_nothing(net, spoil, named):
    optimizer = ParameterOptimizer(net, optim.Adam, 1e-2)
    step_once(optimizer, net)
    before = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    wrong = {name: array + 1 for name, array in before.items()}
    spoil(wrong)
    with pytest.raises(ValueError, match=f"does not fit Adam.*{named}"):
        optimizer.load_state_dict(wrong)
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(np.array(array), before[name], err_msg=name)


def torch_state(arrays, lr=3e-4):
    return {
        "state": {
            i: {"step": np.float32(7), "exp_avg": array, "exp_avg_sq": array**2}
            for i, array in enumerate(arrays)
        },
        "param_groups": [{"lr": lr, "params": list(range(len(arrays)))}],
    }


def test_torchs_state(net):
    names = list(named_parameters(net))
    arrays = [
        np.full(array.shape, i + 1.0, np.float32) for i, array in enumerate(named_parameters(net).values())
    ]
    optimizer = ParameterOptimizer(net, optim.Adam, 1e-2)
    optimizer.load_state_dict(torch_state(arrays))
    state = optimizer.state_dict()
    assert state["step"].item() == 7
    assert state["learning_rate"].item() == pytest.approx(3e-4)
    for name, array in zip(names, arrays, strict=True):
        np.testing.assert_array_equal(np.array(state[f"m.{name}"]), array)
        np.testing.assert_array_equal(np.array(state[f"v.{name}"]), array**2)


def test_torchs_momentum(net):
    """torch.optim.SGD keeps its momentum only, in one array for each parameter, and counts no steps."""
    parameters = named_parameters(net)
    slots = {
        i: {"momentum_buffer": np.full(array.shape, i + 1.0)} for i, array in enumerate(parameters.values())
    }
    optimizer = ParameterOptimizer(net, optim.SGD, 1e-2, {"momentum": 0.5})
    optimizer.load_state_dict(
        {"state": slots, "param_groups": [{"lr": 0.25, "params": list(range(len(slots)))}]}
    )
    state = optimizer.state_dict()
    assert (state["step"].item(), state["learning_rate"].item()) == (1, 0.25)
    for i, name in enumerate(parameters):
        np.testing.assert_array_equal(np.array(state[f"v.{name}"]), slots[i]["momentum_buffer"])
    # Without momentum early versions of torch wrote None.
    assert from_torch_state(
        {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.25, "params": [0]}]}, ["a"]
    ) == {"learning_rate": np.float32(0.25)}


def test_torchs_state_before_the_first_step_and_for_another_network():
    fresh = {"state": {}, "param_groups": [{"lr": 0.25, "params": [0]}]}
    assert from_torch_state(fresh, ["a"]) == {"learning_rate": np.float32(0.25)}
    with pytest.raises(ValueError, match="for 1 parameters, this network has 2"):
        from_torch_state(fresh, ["a", "b"])


def test_only_the_named_parameters(net):
    optimizer = ParameterOptimizer(net, optim.SGD, 0.1, names=["layers.1.bias"])
    before = {name: np.array(array) for name, array in named_parameters(net).items()}
    step_once(optimizer, net)
    for name, array in named_parameters(net).items():
        factor = 0.8 if name == "layers.1.bias" else 1.0
        np.testing.assert_allclose(np.array(array), factor * before[name], rtol=1e-6)


def test_frozen_parameters_are_left_out(net):
    net.layers[0].freeze()
    assert ParameterOptimizer(net, optim.Adam, 0.1).names == ["layers.1.weight", "layers.1.bias"]
