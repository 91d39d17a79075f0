"""What a network and its optimizer hold between gradient steps in Rust."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import cloudpickle
import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.native.vectors import TrainedVector
from support.memory import growth
from support.native_models import (
    ROWS,
    SETTING,
    assert_close,
    both_ways,
    off_policy,
    on_policy,
    state_of,
    train,
)

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.mark.parametrize("make", [lambda: on_policy(PPO, batch_size=8), lambda: off_policy(SAC)])
def test_one_may_go_on_where_the_other_has_stopped(monkeypatch, make):
    """The state of the optimizers is the networks' own, whoever computes."""
    models = {}
    for name, turns in {"native": ["native"] * 3, "in turn": ["native", "mlx", "native"]}.items():
        models[name] = make()
        for who in turns:
            monkeypatch.setenv(SETTING, who)
            train(models[name], 2)
    assert_close(state_of(models["native"]), state_of(models["in turn"]), 1e-4)


@pytest.mark.parametrize("gradient_steps", [1, 5])
def test_a_network_that_rests(monkeypatch, gradient_steps):
    """The averages of the actor's optimizer are those of its last step, however many updates ago that was."""
    # A batch at a time: Rust is called for each gradient step.
    monkeypatch.setattr("mlx_baselines3.common.buffers.batches.FLUSH_BYTES", 1)
    states = {}
    for who in ("native", "mlx"):
        monkeypatch.setenv(SETTING, who)
        model = off_policy(TD3, policy_delay=3)
        for _ in range(7):
            train(model, gradient_steps)
        states[who] = state_of(model)
    assert_close(states["native"], states["mlx"], 1e-4)


def test_an_update_that_ends_before_its_first_step(monkeypatch):
    states = {}
    for who in ("native", "mlx"):
        monkeypatch.setenv(SETTING, who)
        model = on_policy(PPO, batch_size=8, n_epochs=2)
        for target_kl in (None, 1e-9, None):
            model.target_kl = target_kl
            train(model, 1)
        states[who] = state_of(model)
    assert_close(states["native"], states["mlx"])


def test_the_optimizers_state_is_there_when_someone_looks():
    """It is made on demand, and looking at it changes nothing."""
    watched, left_alone, replaced = (off_policy(DQN) for _ in range(3))
    for model in (watched, left_alone, replaced):
        train(model, 3)
    optimizer = watched.policy.optimizer
    copies = [copy.deepcopy(optimizer), cloudpickle.loads(cloudpickle.dumps(left_alone.policy.optimizer))]
    for one in (optimizer, *copies):
        assert one.state["step"].item() == one.optimizer.state["step"].item() == 3
    before = optimizer.state_dict()
    kept = {name: np.array(array) for name, array in before.items()}
    replaced.policy.optimizer.load_state_dict(before)
    for model in (watched, left_alone, replaced):
        train(model, 2)
    for model in (watched, replaced):
        assert_close(state_of(model), state_of(left_alone), 0)
    # What was handed out stays what it was.
    for one in (before, *(one.state_dict() for one in copies)):
        for name, array in kept.items():
            np.testing.assert_array_equal(np.array(one[name]), array, err_msg=name)


@pytest.mark.parametrize("cls", [DQN, SAC, TD3])
def test_no_gradient_step_changes_nothing(cls):
    model = off_policy(cls)
    train(model, 3)
    before = state_of(model)
    model.train(gradient_steps=0, batch_size=8)
    assert_close(state_of(model), before, 0)


@pytest.mark.parametrize(
    "make", [lambda: on_policy(PPO, batch_size=8), *(partial(off_policy, c) for c in (DQN, SAC, TD3))]
)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))])
def test_a_copy_learns_by_itself(make, copied):
    model = make()
    train(model, 2)
    other = copied(model)
    before = state_of(other)
    train(model, 2)
    assert_close(state_of(other), before, 0)
    train(other, 2)
    assert_close(state_of(other), state_of(model), 0)


def test_layers_that_began_with_the_same_arrays_part(monkeypatch):
    """``update(parameters())`` is how MLX copies weights, and the arrays are shared afterwards."""

    def make():
        model = on_policy(PPO, batch_size=8)
        extractor = model.policy.mlp_extractor
        extractor.value_net.update(extractor.policy_net.parameters())
        return model

    native, mlx = both_ways(monkeypatch, make)
    assert_close(native, mlx)
    names = [f"policy.mlp_extractor.{net}.0.weight" for net in ("policy_net", "value_net")]
    assert not np.allclose(*(native[name] for name in names))


def test_a_slow_copy_has_arrays_of_its_own():
    model = off_policy(TD3, policy_delay=1000)
    before = np.array(model.actor_target.mu[0].weight)
    model.actor.mu[0].weight[...] = 7.0
    train(model, 2)
    np.testing.assert_array_equal(np.array(model.actor_target.mu[0].weight), before)


def test_whoever_keeps_the_optimizer_sees_its_state():
    model = on_policy(PPO, batch_size=8)
    optimizer = model.policy.optimizer.optimizer
    for epochs in (1, 2):
        train(model, 1)
        assert optimizer.state["step"].item() == epochs * model.n_epochs * ROWS / 8
    optimizer.state["step"] = mx.array(500, mx.uint64)
    train(model, 1)
    assert optimizer.state["step"].item() == 500 + model.n_epochs * ROWS / 8


def test_models_learn_in_threads():
    # In a thread that has cleared its streams, MLX computes nothing any more: none is used twice.
    all_there = Barrier(4)

    def learn(cls):
        all_there.wait()
        off_policy(cls).train(gradient_steps=20, batch_size=ROWS)
        mx.clear_streams()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(learn, cls) for cls in (SAC, SAC, SAC, TD3)]:
            done.result()


def test_a_parameter_of_another_shape_is_an_error():
    model = on_policy(A2C)
    train(model, 1)
    model.policy.action_net.bias = mx.ones((1,))
    with pytest.raises(ValueError, match=r"action_net.bias has the shape \(1,\), expected \(2,\)"):
        train(model, 1)


def test_nonfinite_names():
    policy = on_policy(A2C).policy
    vector = TrainedVector(policy, policy.optimizer)
    vector.load()
    assert vector.nonfinite_names() is None
    vector.values[:] = 1e30  # The squares are infinite, and the sum is not.
    assert vector.nonfinite_names() is None
    vector.values[:] = 3e38
    assert vector.nonfinite_names() == []
    vector.values[vector.places["value_net.weight"]] = np.nan
    assert vector.nonfinite_names() == ["value_net.weight"]


@pytest.mark.parametrize("make", [lambda: on_policy(PPO, batch_size=8), partial(off_policy, SAC)])
def test_a_thousand_updates_take_no_memory(make):
    model = make()

    def updates(count: int) -> None:
        for _ in range(count):
            train(model, 1)

    used, grown = growth(updates, 20, 1000)
    assert used <= 4096
    assert grown <= 60_000
