"""Consecutive TQC updates give sb3-contrib's parameters and logged values, in Rust and in MLX."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.contrib import TQC
from mlx_baselines3.contrib.tqc import losses
from support.contrib_updates import make_model, read_case
from support.golden import (
    LOG_TOLERANCE,
    PARAMETER_TOLERANCE,
    assert_log_equal,
    assert_parameters_equal,
)
from support.offpolicy import RecordedBuffer

NAMES = ("tqc_auto", "tqc_fixed")


def recorded_noise(case, first, last):
    """(steps, 2, batch, actions): for the actions at the observations and at the next ones."""
    pairs = [[case.arrays[f"noise{2 * i + j}"] for j in (0, 1)] for i in range(first, last)]
    return mx.array(np.stack(pairs))


def recorded_model(name, case):
    model = make_model(TQC, name, buffer_size=100)
    model.policy.load_state_dict(case.group("before"))
    if "before_log_ent_coef" in case.arrays:
        model.log_ent_coef = mx.array(case.arrays["before_log_ent_coef"])
    return model


@pytest.mark.parametrize("name", NAMES)
def test_updates_equal_contribs(name, updates, monkeypatch):
    case = read_case(name)
    model = recorded_model(name, case)
    monkeypatch.setattr(model, "replay_buffer", RecordedBuffer(case))
    monkeypatch.setattr(model, "_noise", lambda *_: recorded_noise(case, 0, 3))
    model.train(gradient_steps=3, batch_size=32)
    assert (model._updater.compiled is not None) == (updates == "mlx")
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
    if "after_log_ent_coef" in case.arrays:
        difference = np.abs(np.array(model.log_ent_coef) - case.arrays["after_log_ent_coef"]).max()
        assert difference <= PARAMETER_TOLERANCE


def test_each_step_equals_contribs(updates, monkeypatch):
    """The target networks follow at every step here, so that steps can be taken one at a time."""
    case = read_case("tqc_auto")
    model = recorded_model("tqc_auto", case)
    monkeypatch.setattr(model, "replay_buffer", RecordedBuffer(case))
    for index in range(3):
        monkeypatch.setattr(model, "_noise", lambda *_, i=index: recorded_noise(case, i, i + 1))
        model.train(gradient_steps=1, batch_size=32)
        logged = model.logger.name_to_value
        for part in ("critic", "actor", "ent_coef"):
            expected = case.arrays[f"loss{index}/{part}"]
            np.testing.assert_allclose(logged[f"train/{part}_loss"], expected, LOG_TOLERANCE)
        expected = case.group(f"step{index + 1}") if index < 2 else case.group("after")
        assert_parameters_equal(model.policy.state_dict(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_sides_of_the_loss_are_contribs(name):
    case = read_case(name)
    model = recorded_model(name, case)
    batch = {key: mx.array(value) for key, value in case.group("batch0").items()}
    current = model.critic(batch["observations"], batch["actions"])
    np.testing.assert_allclose(current, case.arrays["inner0/current"], LOG_TOLERANCE, 1e-6)
    coefficient = mx.exp(mx.array(case.arrays.get("before_log_ent_coef", np.log([0.1]))).squeeze())
    noise = recorded_noise(case, 0, 1)[0]
    settings = {"gamma": mx.array(0.99)}
    target = model._target({**batch, "noise": noise}, settings, coefficient)
    np.testing.assert_allclose(target, case.arrays["inner0/target"], LOG_TOLERANCE, 1e-6)
    assert target.shape == (32, 1, {"tqc_auto": 16, "tqc_fixed": 18}[name])


def test_target_by_hand():
    """Two critics with three quantiles each: of 1, 2, 9, 0, 5, 7 the four smallest stay."""
    quantiles = mx.array([[[1.0, 2.0, 9.0], [0.0, 5.0, 7.0]]])
    arrays = (mx.array([[1.0]]), mx.array([[0.0]]), mx.array(0.5), quantiles)
    target = losses.truncated_target(*arrays, 4, mx.array([[2.0]]), mx.array(0.5))
    np.testing.assert_allclose(np.array(target), [[[0.5, 1.0, 1.5, 3.0]]])
