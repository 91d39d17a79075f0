"""The compiled update step, worked out by hand: clip, stop, short minibatches, statistics, traces."""

import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import DQN
from mlx_baselines3.common.nn.layers import Module, bound, named_parameters
from mlx_baselines3.common.nn.optimizers import clip_by_global_norm
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer, trainable_names
from mlx_baselines3.common.training.compiled_update import CompiledUpdate


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


def update_of(module, optimizer, loss):
    """As PPO's: one network, and one descent on each minibatch."""

    def descend(step, batch, settings, _):
        value, metrics = step.descend("net", lambda: loss(batch, settings), settings.get("max_grad_norm"))
        return {"loss": value, **metrics}

    return CompiledUpdate({"net": module}, {"net": optimizer}, descend)


def make(start=0.0, lr=0.5, optimizer=optim.SGD, **kwargs):
    module = Point(start)
    loss = Quadratic(module, **kwargs)
    return update_of(module, ParameterOptimizer(module, optimizer, lr), loss), loss


def run(update, minibatches, data=None, settings=None):
    data = {"x": mx.full((4,), 8.0)} if data is None else data
    pairs = [(data, mx.array(indices, mx.uint32)) for indices in minibatches]
    (metrics,) = update.run_epochs([pairs], settings or {})
    return metrics


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
    assert step.networks["net"].w.item() == 7.0


def test_gradient_is_clipped():
    step, _ = make(lr=1.0)
    run(step, [[0, 1, 2, 3]] * 2, settings={"max_grad_norm": 3.0})
    assert step.networks["net"].w.item() == pytest.approx(6.0, abs=1e-5)


def test_rows_are_picked_and_the_last_minibatch_may_be_short():
    step, loss = make(lr=1.0)
    data = {"x": mx.arange(10, dtype=mx.float32)}
    metrics = run(step, [[1, 5, 9], [0, 2, 4], [7]], data)
    # With a step of 1, w is the mean of the minibatch before.
    assert metrics["w"].tolist() == [0.0, 5.0, 2.0]
    assert metrics["rows"].tolist() == [3, 3, 1]
    assert step.networks["net"].w.item() == 7.0
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
    np.testing.assert_array_equal(np.array(masked.networks["net"].w), np.array(plain.networks["net"].w))
    ours, theirs = masked.optimizers["net"].state_dict(), plain.optimizers["net"].state_dict()
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
    step.optimizers["net"].learning_rate = 0.125
    run(step, [[2, 3]], settings={"max_grad_norm": 100.0, "bonus": 1.0})
    assert loss.traces == 1
    assert step.optimizers["net"].learning_rate.item() == 0.125


def test_a_new_setting_traces_again():
    step, loss = make(lr=1.0)
    run(step, [[0, 1]])
    assert step.networks["net"].w.item() == 8.0
    run(step, [[0, 1]], settings={"bonus": 2.0})
    assert step.networks["net"].w.item() == 10.0
    assert loss.traces == 2


def test_learning_rate_takes_effect():
    step, _ = make(lr=0.5)
    step.optimizers["net"].learning_rate = 0.25
    run(step, [[0, 1]])
    assert step.networks["net"].w.item() == 2.0


class Normed(Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm(2, momentum=0.1)


def test_running_statistics_are_carried():
    module = Normed()
    assert trainable_names(module) == ["norm.weight", "norm.bias"]

    def loss(batch, settings):
        return mx.square(module.norm(batch["x"])).mean(), {}

    step = update_of(module, ParameterOptimizer(module, optim.SGD, 0.0), loss)
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

    step = update_of(module, ParameterOptimizer(module, optim.SGD, 0.0), loss)
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

    step = update_of(module, ParameterOptimizer(module, optim.Adam, 0.1), failing)
    before = step.optimizers["net"].state_dict()
    with pytest.raises(RuntimeError, match="in the loss"):
        run(step, [[0]])
    assert module.w.item() == 2.0
    assert step.optimizers["net"].state_dict().keys() == before.keys()
    # MLX's generator still works.
    assert math.isfinite(mx.random.normal((1,)).item())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_change_nothing(bad):
    step, _ = make(optimizer=optim.Adam)
    run(step, [[0]])
    before = {
        "w": step.networks["net"].w.item(),
        **{k: np.array(v) for k, v in step.optimizers["net"].state_dict().items()},
    }
    with pytest.raises(FloatingPointError, match=r"1 of 1 parameters of net, first w.*VecCheckNan"):
        run(step, [[0], [1]], {"x": mx.array([1.0, bad])})
    assert step.networks["net"].w.item() == before.pop("w")
    for name, array in before.items():
        np.testing.assert_array_equal(np.array(step.optimizers["net"].state_dict()[name]), array)
    # The object is still usable.
    run(step, [[0]])
    assert math.isfinite(step.networks["net"].w.item())


def test_a_loss_that_is_not_finite_is_named():
    step, _ = make()
    data = {"x": mx.array([1.0, 1e30, 2.0])}
    with pytest.raises(FloatingPointError, match=r"the loss of minibatch 1 \(of 3\) was inf\. Nothing"):
        run(step, [[0], [1], [2]], data)
    assert step.networks["net"].w.item() == 0.0


def test_other_metrics_may_be_infinite():
    """As the approximate KL divergence of an action that has become impossible."""
    module = Point()

    def loss(batch, settings):
        return module.w.sum(), {"kl": 1.0 / mx.zeros(())}

    step = update_of(module, ParameterOptimizer(module, optim.SGD, 0.5), loss)
    assert run(step, [[0]])["kl"].tolist() == [np.inf]
    with pytest.raises(FloatingPointError, match=r"the kl of minibatch 0 \(of 1\) was inf"):
        step.run([{"x": mx.zeros(1)}], {})


def test_settings_that_come_and_go():
    """What was traced with one set of settings is used again, with the names of its metrics."""
    module = Point()

    def loss(batch, settings):
        metrics = {"stop": module.w[0] > 3.0} if "limit" in settings else {"w": module.w[0]}
        return 0.5 * mx.square(module.w - batch["x"]).mean(), metrics

    step = update_of(module, ParameterOptimizer(module, optim.SGD, 0.5), loss)
    for settings, names, count in (({"limit": 1.0}, ["loss"], 2), ({}, ["loss", "w"], 3)) * 2:
        module.w = mx.zeros(1)
        metrics = run(step, [[0]] * 3, settings=settings)
        assert list(metrics) == names
        assert len(metrics["loss"]) == count


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
