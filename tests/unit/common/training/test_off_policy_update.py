"""The compiled gradient steps: what they change, what they count, and how often they ask the host."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.buffers.batches import replay_batches
from mlx_baselines3.common.nn.layers import Module, named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.training.compiled_update import CompiledUpdate
from mlx_baselines3.common.training.target_networks import follow
from mlx_baselines3.common.utils import set_random_seed


class Scale(Module):
    """y = w x"""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = mx.array([weight])

    def forward(self, x: mx.array) -> mx.array:
        return self.weight * x


class Normalised(Module):
    """A batch normalisation, for its running statistics."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm(1, momentum=0.5)

    def forward(self, x: mx.array) -> mx.array:
        return self.bn(x)


def batches(*values: float) -> list[dict[str, mx.array]]:
    return [{"x": mx.array([value])} for value in values]


def make_update(log: list[str] | None = None) -> CompiledUpdate:
    """w <- w - 0.1 x with loss w x; the target goes half way in variant "follow"."""
    net, target = Scale(1.0), Scale(0.0)

    def step(step, batch, settings, variant):
        if log is not None:
            log.append(str(variant))
        loss, seen = step.descend("net", lambda: ((net(batch["x"])).sum(), target(batch["x"])))
        metrics = {"loss": loss, "seen": seen.sum()}
        if variant == "follow":
            step.follow("target", settings["tau"])
            metrics["target"] = target.weight.sum()
        return metrics

    optimizer = ParameterOptimizer(net, optim.SGD, 0.1)
    return CompiledUpdate({"net": net, "target": target}, {"net": optimizer}, step, {"target": "net"})


def test_steps_follow_one_another():
    update = make_update()
    metrics = update.run(batches(1.0, 2.0, 1.0), {"tau": 0.5}, ["follow", None, "follow"])
    # w: 1 -> .9 -> .7 -> .6; target: 0 -> .45 -> .45 -> .525
    np.testing.assert_allclose(metrics["loss"], [1.0, 1.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(metrics["seen"], [0.0, 0.9, 0.45], rtol=1e-6)
    np.testing.assert_allclose(metrics["target"], [0.45, 0.525], rtol=1e-6)
    np.testing.assert_allclose(np.array(update.networks["net"].weight), [0.6], rtol=1e-6)
    np.testing.assert_allclose(np.array(update.networks["target"].weight), [0.525], rtol=1e-6)


def test_compiles_once_per_variant_whatever_the_settings():
    log: list[str] = []
    update = make_update(log)
    for tau in (0.1, 0.2, 0.3):
        update.optimizers["net"].learning_rate = tau
        update.run(batches(1.0, 2.0, 3.0), {"tau": tau}, ["follow", None, "follow"])
    assert sorted(log) == ["None", "follow"]


def test_the_host_waits_once(monkeypatch):
    update = make_update()
    calls = []
    evaluate = mx.eval
    monkeypatch.setattr(mx, "eval", lambda *args: (calls.append(1), evaluate(*args)))
    update.run(batches(*range(20)), {"tau": 0.5})
    assert len(calls) == 1


def test_gradient_is_clipped():
    net = Scale(1.0)

    def step(step, batch, settings, variant):
        loss, _ = step.descend("net", lambda: (net(batch["x"]).sum(), None), settings["max_grad_norm"])
        return {"loss": loss}

    update = CompiledUpdate({"net": net}, {"net": ParameterOptimizer(net, optim.SGD, 0.1)}, step)
    update.run(batches(50.0), {"max_grad_norm": 2.0})
    np.testing.assert_allclose(np.array(net.weight), [0.8], rtol=1e-5)


def test_running_statistics_are_kept_and_copied():
    net, target = Normalised(), Normalised()
    target.eval()

    def step(step, batch, settings, variant):
        loss, _ = step.descend("net", lambda: (net(batch["x"]).sum(), None))
        step.follow("target", settings["tau"])
        return {"loss": loss}

    optimizer = ParameterOptimizer(net, optim.SGD, 0.0)
    update = CompiledUpdate({"net": net, "target": target}, {"net": optimizer}, step, {"target": "net"})
    update.run([{"x": mx.array([[4.0], [8.0]])}], {"tau": 0.25})
    np.testing.assert_allclose(np.array(net.bn.running_mean), [3.0])
    np.testing.assert_allclose(np.array(target.bn.running_mean), [3.0])


def test_random_numbers_differ_from_step_to_step_and_repeat_with_the_seed():
    net = Scale(1.0)

    def step(step, batch, settings, variant):
        loss, _ = step.descend("net", lambda: ((net(batch["x"]) * mx.random.normal((1,))).sum(), None))
        return {"loss": loss}

    update = CompiledUpdate({"net": net}, {"net": ParameterOptimizer(net, optim.SGD, 0.0)}, step)
    mx.random.seed(3)
    first = update.run(batches(1.0, 1.0, 1.0), {})["loss"]
    assert len(set(first)) == 3
    mx.random.seed(3)
    np.testing.assert_array_equal(update.run(batches(1.0, 1.0, 1.0), {})["loss"], first)


def test_an_error_while_tracing_leaves_the_networks_usable():
    net = Scale(1.0)

    def step(step, batch, settings, variant):
        step.descend("net", lambda: (net(batch["x"]).sum(), None))
        raise KeyError("no such thing")

    update = CompiledUpdate({"net": net}, {"net": ParameterOptimizer(net, optim.SGD, 0.1)}, step)
    mx.random.seed(2**40 + 7)
    expected = mx.random.split(mx.random.state[0], 3).tolist()
    with pytest.raises(KeyError, match="no such thing"):
        update.run(batches(1.0), {})
    assert mx.random.split(mx.random.state[0], 3).tolist() == expected
    assert 0 <= mx.random.uniform().item() <= 1
    np.testing.assert_array_equal(np.array(net(mx.array([2.0]))), [2.0])


def test_nan_is_an_error_and_changes_nothing():
    update = make_update()
    update.run(batches(1.0), {"tau": 0.5}, ["follow"])
    with pytest.raises(
        FloatingPointError, match="parameters of net, first weight; 1 of 1 parameters of target, first weight"
    ):
        update.run(batches(1.0, float("nan"), 1.0), {"tau": 0.5}, ["follow"] * 3)
    metrics = update.run(batches(1.0), {"tau": 0.5}, ["follow"])
    np.testing.assert_allclose(metrics["loss"], [0.9], rtol=1e-6)
    np.testing.assert_allclose(metrics["target"], [0.625], rtol=1e-6)


def test_target_of_another_shape_is_refused():
    net, target = nn.Linear(2, 3), nn.Linear(2, 4)
    with pytest.raises(ValueError, match="differ in shape: weight, bias"):
        CompiledUpdate({"net": net, "target": target}, {}, lambda *args: {}, {"target": "net"})


def test_target_follows_a_borrowed_extractor():
    class Head(Module):
        def __init__(self, body: Module, own: bool):
            super().__init__()
            if own:
                self.body = body
            else:
                self.set_alias("body", body)
            self.weight = mx.array([1.0])

    source, target = Head(Scale(2.0), own=False), Head(Scale(0.0), own=True)
    follow(source, target, 0.5)
    assert named_parameters(source).keys() == {"weight"}
    np.testing.assert_array_equal(np.array(target.body.weight), [1.0])


def test_copied_target_shares_no_array():
    source, target = Scale(2.0), Scale(0.0)
    follow(source, target, 1.0)
    source.weight[0] = 5.0
    np.testing.assert_array_equal(np.array(target.weight), [2.0])


def filled_buffer(kind: type[ReplayBuffer], rows: int = 8) -> ReplayBuffer:
    space = spaces.Box(-1, 1, (3,), np.float32)
    buffer = kind(rows, space, spaces.Discrete(2))
    for i in range(rows):
        obs = np.full((1, 3), i, np.float32)
        buffer.add(obs, obs + 1, np.array([i % 2]), np.array([i]), np.array([False]), [{}])
    return buffer


def test_batches_are_those_of_successive_samples():
    buffer = filled_buffer(ReplayBuffer)
    set_random_seed(0)
    expected = [np.array(buffer.sample(4).rewards) for _ in range(3)]
    set_random_seed(0)
    drawn = list(replay_batches(buffer, 3, 4))
    assert [batch.keys() for batch in drawn] == [
        {"observations", "actions", "next_observations", "dones", "rewards"}
    ] * 3
    np.testing.assert_array_equal([np.array(batch["rewards"]) for batch in drawn], expected)


def test_a_users_sample_is_called_for_each_gradient_step():
    class Newest(ReplayBuffer):
        calls = 0

        def sample(self, batch_size, env=None):
            self.calls += 1
            return self._get_samples(np.full(batch_size, self.size() - 1), env)

    buffer = filled_buffer(Newest)
    drawn = list(replay_batches(buffer, 3, 4))
    assert buffer.calls == 3
    np.testing.assert_array_equal([np.array(batch["rewards"]) for batch in drawn], np.full((3, 4, 1), 7.0))


def test_large_batches_come_in_several_calls(monkeypatch):
    monkeypatch.setattr("mlx_baselines3.common.buffers.batches.FLUSH_BYTES", 2 * 2 * 4 * 12)
    buffer = filled_buffer(ReplayBuffer)
    sizes = []
    sample_many = buffer.sample_many
    monkeypatch.setattr(
        buffer, "sample_many", lambda n, size, env: (sizes.append(n), sample_many(n, size, env))[1]
    )
    assert len(list(replay_batches(buffer, 5, 4))) == 5
    assert sizes == [2, 2, 1]
