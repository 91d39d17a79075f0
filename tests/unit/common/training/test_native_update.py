"""Gradient steps in Rust give what MLX's give: parameters, optimizers and logged values."""

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, _native
from mlx_baselines3.common.buffers import NStepReplayBuffer
from mlx_baselines3.common.nn.optimizers import RMSpropTFLike
from mlx_baselines3.common.policies import evaluated
from mlx_baselines3.contrib import QRDQN, TQC
from support.native_models import (
    BOX,
    ROWS,
    assert_close,
    both_ways,
    off_policy,
    on_policy,
    state_of,
    train,
)

pytestmark = pytest.mark.usefixtures("uncompiled")


FAST = {"learning_rate": 1e-3}
PPO_CASES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "choices": {"action_space": spaces.MultiDiscrete([3, 1, 4]), "ent_coef": 0.3},
    "one choice": {"action_space": spaces.Discrete(4), "ent_coef": 0.3, "clip_range_vf": 0.1},
    "coins": {"action_space": spaces.MultiBinary(3), "ent_coef": 0.3},
    "not normalised, clipped values": {"normalize_advantage": False, "clip_range_vf": 0.2},
    "a short last minibatch": {"batch_size": 7},
    "a last minibatch of one": {"batch_size": 23},
    "stops early": {"target_kl": 0.02, "batch_size": 4, "learning_rate": 0.01},
    "no hidden layers": {"policy_kwargs": {"net_arch": []}},
    "other depths": {"policy_kwargs": {"net_arch": {"pi": [9, 4, 3], "vf": [6]}}},
    "a tight clip": {"max_grad_norm": 1e-3},
    "pieces": {"rows": 300, "batch_size": 300},
    "gSDE": {"use_sde": True},
    "gSDE, one deviation a feature, expln": {
        "use_sde": True,
        "policy_kwargs": {"net_arch": [7], "full_std": False, "use_expln": True, "log_std_init": 0.3},
    },
    "gSDE, squashed": {"use_sde": True, "policy_kwargs": {"net_arch": [7, 5], "squash_output": True}},
    "gSDE, one action, pieces": {
        "use_sde": True,
        "rows": 600,
        "batch_size": 600,
        "action_space": spaces.Box(-1, 1, (1,), np.float32),
    },
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", PPO_CASES)
def test_ppo(monkeypatch, case):
    kwargs = {"n_epochs": 4, "batch_size": 8, "ent_coef": 0.01, **FAST, **PPO_CASES[case]}
    action_space = kwargs.pop("action_space", BOX)
    assert_close(*both_ways(monkeypatch, lambda: on_policy(PPO, action_space, **kwargs), 2))


@pytest.mark.parametrize(
    "activation_fn", [nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Identity]
)
def test_activations(monkeypatch, activation_fn):
    kwargs = {"policy_kwargs": {"net_arch": [7, 5], "activation_fn": activation_fn}, **FAST}
    assert_close(*both_ways(monkeypatch, lambda: on_policy(PPO, batch_size=8, n_epochs=3, **kwargs), 1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rms_prop": False},
        {"normalize_advantage": True, "ent_coef": 0.1},
        {"use_sde": True, "ent_coef": 0.1, "action_space": BOX},
    ],
)
def test_a2c(monkeypatch, options):
    assert_close(
        *both_ways(monkeypatch, lambda: on_policy(A2C, **{"action_space": spaces.Discrete(3), **options}))
    )


@pytest.mark.parametrize(
    ("optimizer_class", "optimizer_kwargs"),
    [
        (RMSpropTFLike, {"alpha": 0.9, "eps": 1e-5}),
        (optim.RMSprop, {"alpha": 0.8, "eps": 1e-3}),
        (optim.Adam, {"betas": (0.8, 0.9), "eps": 1e-3}),
        (optim.Adam, {"bias_correction": False}),
    ],
)
def test_optimizers(monkeypatch, optimizer_class, optimizer_kwargs):
    arch = {"net_arch": [7]}
    policy_kwargs = {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs, **arch}
    assert_close(*both_ways(monkeypatch, lambda: on_policy(A2C, policy_kwargs=dict(policy_kwargs))))


OFF_POLICY_CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "DQN": (DQN, {"max_grad_norm": 0.1}),
    "DQN of n steps": (DQN, {"n_steps": 3}),
    "DQN in pieces": (DQN, {"rows": 300}),
    "QR-DQN": (QRDQN, {"policy_kwargs": {"net_arch": [7], "n_quantiles": 19}}),
    "QR-DQN in pieces, clipped": (
        QRDQN,
        {"rows": 150, "max_grad_norm": 0.1, "policy_kwargs": {"net_arch": [7], "n_quantiles": 33}},
    ),
    "QR-DQN of n steps, no hidden layers": (
        QRDQN,
        {"n_steps": 3, "policy_kwargs": {"net_arch": [], "n_quantiles": 1}},
    ),
    "TQC": (TQC, {}),
    "TQC in pieces, fixed entropy": (TQC, {"rows": 600, "ent_coef": 0.2, "policy_kwargs": {"net_arch": [9]}}),
    "TQC of n steps, one critic, none dropped": (
        TQC,
        {
            "n_steps": 3,
            "top_quantiles_to_drop_per_net": 0,
            "policy_kwargs": {"net_arch": [7], "n_critics": 1, "n_quantiles": 3},
        },
    ),
    "TQC, three critics": (
        TQC,
        {"top_quantiles_to_drop_per_net": 4, "policy_kwargs": {"n_critics": 3, "n_quantiles": 18}},
    ),
    "SAC": (SAC, {}),
    "SAC, fixed entropy": (SAC, {"ent_coef": 0.2, "target_update_interval": 2}),
    "SAC of n steps, three critics": (
        SAC,
        {"replay_buffer_class": NStepReplayBuffer, "policy_kwargs": {"net_arch": [7], "n_critics": 3}},
    ),
    "SAC in pieces": (SAC, {"rows": 300, "policy_kwargs": {"net_arch": [130, 140]}}),
    "SAC, gSDE": (SAC, {"use_sde": True}),
    "SAC, gSDE, expln, means as they are": (
        SAC,
        {
            "use_sde": True,
            "rows": 300,
            "policy_kwargs": {"net_arch": [9], "use_expln": True, "clip_mean": 0.0, "log_std_init": 0.2},
        },
    ),
    "SAC, gSDE, tight means, no hidden layers": (
        SAC,
        {"use_sde": True, "policy_kwargs": {"net_arch": {"pi": [], "qf": [5]}, "clip_mean": 0.1}},
    ),
    "TD3": (TD3, {}),
    "TD3 at each step": (TD3, {"policy_delay": 1, "target_policy_noise": 0.5, "target_noise_clip": 0.2}),
    "DDPG": (DDPG, {"tau": 0.1}),
}


@pytest.mark.parametrize("case", OFF_POLICY_CASES)
def test_off_policy(monkeypatch, case):
    cls, kwargs = OFF_POLICY_CASES[case]
    native, mlx = both_ways(monkeypatch, lambda: off_policy(cls, **copy.deepcopy(kwargs)), 5)
    # Adam's first steps are as long as the learning rate: where a gradient is near 0 its last bit decides.
    assert_close(native, mlx, 1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: on_policy(PPO, rows=2048, batch_size=1024, policy_kwargs={"net_arch": [64, 64]}),
        lambda: off_policy(SAC, rows=600, policy_kwargs={"net_arch": [256, 256]}),
        lambda: off_policy(DQN, rows=600, policy_kwargs={"net_arch": [256, 256]}),
        lambda: off_policy(QRDQN, rows=100, policy_kwargs={"net_arch": [64, 64]}),
    ],
    ids=["PPO", "SAC", "DQN", "QR-DQN"],
)
def test_the_number_of_threads_changes_nothing(make):
    states = []
    for threads in (1, 2, 5):
        _native.set_threads(threads)
        try:
            model = make()
            train(model, 2)
        finally:
            _native.set_threads(None)
        states.append(state_of(model))
    for other in states[1:]:
        for name, value in states[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_mlx_is_asked_for_random_numbers_alone(monkeypatch):
    """No graph, no kernel, and one draw of noise however many steps there are."""
    models = [on_policy(PPO, batch_size=4), off_policy(DQN), off_policy(TD3)]
    for model in models:
        train(model, 1)
    # What is pending when a call ends is evaluated, for other threads. Here nothing is.
    monkeypatch.setattr(evaluated, "evaluate", lambda *roots: None)
    for name in ("eval", "compile", "value_and_grad"):
        monkeypatch.delattr(mx, name)
    drawn: list[mx.array] = []
    monkeypatch.setattr(mx, "async_eval", drawn.append)
    for model in models:
        train(model, 4)
    assert [noise.shape for noise in drawn] == [(4, ROWS, 2)]


@pytest.mark.parametrize("cls", [DQN, QRDQN, TQC, SAC, TD3])
def test_nan_changes_nothing(cls):
    model = off_policy(cls)
    train(model, 2)
    before = state_of(model)
    sound = model.replay_buffer.rewards.copy()
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(FloatingPointError, match=r"parameters of .*Nothing was changed"):
        train(model, 2)
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    # With sound numbers the same model learns on.
    model.replay_buffer.rewards[:] = sound
    train(model, 2)
    assert all(np.isfinite(value).all() for value in state_of(model).values())


def test_an_action_that_is_none():
    model = on_policy(PPO, spaces.Discrete(3), batch_size=8)
    before = model.policy.parameters_to_vector()
    model.rollout_buffer.actions[5] = 7
    with pytest.raises(ValueError, match="an action is 7, expected a choice from 0 to 2"):
        train(model, 1)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_actions_at_their_bounds(monkeypatch):
    """Where tanh is 1 its slope is 0, and the actor stays where it is."""

    def make():
        model = off_policy(SAC, ent_coef=0.2, learning_rate=1e-3)
        model.actor.mu.bias = mx.array([25.0, -25.0])
        return model

    native, mlx = both_ways(monkeypatch, make, 20)
    assert_close(native, mlx, 1e-4)
    np.testing.assert_array_equal(native["policy.actor.mu.bias"], [25.0, -25.0])
