"""The compiled update step, worked out by hand: clip, stop, short minibatches, statistics, traces."""

import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import DQN
from mlx_baselines3.common.nn.layers import Module, named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer, trainable_names
from mlx_baselines3.common.training.update import UpdateStep, bound, clip_by_global_norm


class Point(Module):
    """One number."""

    def __init__(self, value=0.0):
        super().__init__()
        self.w = mx.array([value])


class Quadratic:
    """``mean (w - x)^2 / 2``, whose gradient is ``w - mean(x)``; counts how often it is traced."""

    def __init__(self, module, stop_above=None):
        self.module, self.stop_above, self.traces = module, stop_above, 0

    def __call__(self, batch, settings):
        self.traces += 1
        loss = 0.5 * mx.square(self.module.w - batch["x"]).mean()
        metrics = {"w": self.module.w[0], "rows": mx.array(batch["x"].shape[0])}
        if self.stop_above is not None:
            metrics["stop"] = self.module.w[0] > self.stop_above
        if "bonus" in settings:
            loss = loss - settings["bonus"] * self.module.w[0]
        return loss, metrics


def make(start=0.0, lr=0.5, optimizer=optim.SGD, **kwargs):
    module = Point(start)
    loss = Quadratic(module, **kwargs)
    return UpdateStep(module, ParameterOptimizer(module, optimizer, lr), loss), loss


def run(step, batches, data=None, settings=None):
    data = {"x": mx.full((4,), 8.0)} if data is None else data
    settings = {name: mx.array(value) for name, value in (settings or {}).items()}
    state, rows = step.begin(), []
    for indices in batches:
        state, row = step(state, data, mx.array(indices, mx.uint32), settings)
        rows.append(row)
    step.finish(state)
    return step.metrics(mx.stack(rows))


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_by_global_norm(rng, max_norm):
    gradients = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    scale = min(max_norm / (norm + 1e-6), 1.0)
    as_mlx = {name: mx.array(g, mx.float32) for name, g in gradients.items()}
    for name, g in clip_by_global_norm(as_mlx, mx.array(max_norm)).items():
        np.testing.assert_allclose(np.array(g), scale * gradients[name], rtol=1e-5)


def test_clip_of_nothing():
    clipped = clip_by_global_norm({"a": mx.zeros(3)}, mx.array(0.5))
    assert clipped["a"].tolist() == [0.0, 0.0, 0.0]


def test_gradient_descent_by_hand():
    """w goes half the way to 8 each time: 0, 4, 6, 7."""
    step, _ = make()
    metrics = run(step, [[0, 1, 2, 3]] * 3)
    assert list(metrics) == ["loss", "w", "rows"]
    assert metrics["w"].tolist() == [0.0, 4.0, 6.0]
    assert metrics["loss"].tolist() == [32.0, 8.0, 2.0]
    assert metrics["w"].dtype == np.float64
    assert step.module.w.item() == 7.0


def test_gradient_is_clipped():
    step, _ = make(lr=1.0)
    run(step, [[0, 1, 2, 3]] * 2, settings={"max_grad_norm": 3.0})
    assert step.module.w.item() == pytest.approx(6.0, abs=1e-5)


def test_rows_are_picked_and_the_last_minibatch_may_be_short():
    step, loss = make(lr=1.0)
    data = {"x": mx.arange(10, dtype=mx.float32)}
    metrics = run(step, [[1, 5, 9], [0, 2, 4], [7]], data)
    # With a step of 1, w is the mean of the minibatch before.
    assert metrics["w"].tolist() == [0.0, 5.0, 2.0]
    assert metrics["rows"].tolist() == [3, 3, 1]
    assert step.module.w.item() == 7.0
    assert loss.traces == 2


@pytest.mark.parametrize(
    ("optimizer", "start"), [(optim.SGD, 2.0), (optim.Adam, 2.0), (optim.Adafactor, 2.95)]
)
def test_stopping_by_mask_is_stopping(optimizer, start):
    """From the first minibatch on whose condition holds, nothing moves: also not Adam's averages."""
    masked, _ = make(start, optimizer=optimizer, stop_above=3.0)
    metrics = run(masked, [[0, 1]] * 12)
    # The one that stops it is the last that counts.
    n_run = len(metrics["w"]) - 1
    assert 0 < n_run < 11
    assert (metrics["w"] > 3.0).tolist() == [False] * n_run + [True]
    plain, _ = make(start, optimizer=optimizer)
    run(plain, [[0, 1]] * n_run)
    np.testing.assert_array_equal(np.array(masked.module.w), np.array(plain.module.w))
    ours, theirs = masked.optimizer.state_dict(), plain.optimizer.state_dict()
    for name, array in theirs.items():
        np.testing.assert_array_equal(np.array(ours[name]), np.array(array), err_msg=name)


def test_a_new_update_starts_active():
    step, _ = make(stop_above=3.0)
    assert len(run(step, [[0]] * 4)["w"]) == 2
    assert len(run(step, [[0]])["w"]) == 1


def test_changed_numbers_do_not_trace_again():
    step, loss = make()
    run(step, [[0, 1]], settings={"max_grad_norm": 0.5, "bonus": 0.0})
    run(step, [[2, 3]] * 3, settings={"max_grad_norm": 0.25, "bonus": 1.0})
    step.optimizer.learning_rate = 0.125
    run(step, [[2, 3]], settings={"max_grad_norm": 100.0, "bonus": 1.0})
    assert loss.traces == 1
    assert step.optimizer.learning_rate.item() == 0.125


def test_a_new_setting_traces_again():
    step, loss = make(lr=1.0)
    run(step, [[0, 1]])
    assert step.module.w.item() == 8.0
    run(step, [[0, 1]], settings={"bonus": 2.0})
    assert step.module.w.item() == 10.0
    assert loss.traces == 2


def test_learning_rate_takes_effect():
    step, _ = make(lr=0.5)
    step.optimizer.learning_rate = 0.25
    run(step, [[0, 1]])
    assert step.module.w.item() == 2.0


class Normed(Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm(2, momentum=0.1)


def test_running_statistics_are_carried():
    module = Normed()
    assert trainable_names(module) == ["norm.weight", "norm.bias"]

    def loss(batch, settings):
        return mx.square(module.norm(batch["x"])).mean(), {}

    step = UpdateStep(module, ParameterOptimizer(module, optim.SGD, 0.0), loss)
    x = np.array([[1.0, 10.0], [3.0, 10.0], [8.0, 13.0], [4.0, 11.0]], np.float32)
    mean, var = np.zeros(2), np.ones(2)
    for rows in ([0, 1], [2, 3]):
        mean = 0.9 * mean + 0.1 * x[rows].mean(axis=0)
        # MLX's BatchNorm keeps the unbiased variance, like torch's.
        var = 0.9 * var + 0.1 * x[rows].var(axis=0, ddof=1)
    run(step, [[0, 1], [2, 3]], {"x": mx.array(x)})
    np.testing.assert_allclose(np.array(module.norm.running_mean), mean, rtol=1e-5)
    np.testing.assert_allclose(np.array(module.norm.running_var), var, rtol=1e-5)


def test_random_numbers_advance():
    """Noise inside the loss differs from step to step, and repeats under the same seed."""
    module = Point()

    def loss(batch, settings):
        return 0.0 * module.w.sum(), {"noise": mx.random.normal((1,))[0]}

    step = UpdateStep(module, ParameterOptimizer(module, optim.SGD, 0.0), loss)
    mx.random.seed(5)
    first = run(step, [[0]] * 3)["noise"]
    assert np.unique(first).size == 3
    mx.random.seed(5)
    np.testing.assert_array_equal(run(step, [[0]] * 3)["noise"], first)


def test_the_network_has_its_own_arrays_back_after_tracing():
    module = Point(2.0)
    own = module.w
    with bound(module, {"w": mx.array([5.0])}):
        assert module.w.item() == 5.0
    assert module.w is own

    def failing(batch, settings):
        raise RuntimeError("in the loss")

    step = UpdateStep(module, ParameterOptimizer(module, optim.Adam, 0.1), failing)
    before = step.optimizer.state_dict()
    with pytest.raises(RuntimeError, match="in the loss"):
        run(step, [[0]])
    assert module.w.item() == 2.0
    assert step.optimizer.state_dict().keys() == before.keys()
    # MLX's generator still works.
    assert math.isfinite(mx.random.normal((1,)).item())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_change_nothing(bad):
    step, _ = make(optimizer=optim.Adam)
    run(step, [[0]])
    before = {"w": step.module.w.item(), **{k: np.array(v) for k, v in step.optimizer.state_dict().items()}}
    with pytest.raises(FloatingPointError, match=r"1 of 1 parameters, first w.*VecCheckNan"):
        run(step, [[0], [1]], {"x": mx.array([1.0, bad])})
    assert step.module.w.item() == before.pop("w")
    for name, array in before.items():
        np.testing.assert_array_equal(np.array(step.optimizer.state_dict()[name]), array)
    # The object is still usable.
    run(step, [[0]])
    assert math.isfinite(step.module.w.item())


def test_a_loss_that_is_not_finite_is_named():
    step, _ = make()
    with pytest.raises(FloatingPointError, match=r"loss of minibatch 1 \(of 3\) was inf"):
        step.finish(step.begin(), np.array([1.0, np.inf, 2.0]))


def test_unpacked_parameters_have_their_shapes():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = ParameterOptimizer(net, optim.Adam, 0.1)
    unpacked = optimizer.unpack(optimizer.pack(named_parameters(net)))
    assert {k: v.shape for k, v in unpacked.items()} == {k: v.shape for k, v in named_parameters(net).items()}


@pytest.mark.parametrize("width", [8, 256])
def test_trained_weights_lie_by_rows_as_loaded_ones_do(width):
    """Otherwise the same product would round differently after a load."""
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [width, width]}, learning_starts=4)
    model.learn(12)
    weights = named_parameters(model.q_net)
    assert model._n_updates > 0
    assert all(np.asarray(weight).flags.c_contiguous for weight in weights.values())
