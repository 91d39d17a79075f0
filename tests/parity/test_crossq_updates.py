"""Consecutive CrossQ updates give sb3-contrib's parameters, running averages and logged values."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.contrib import CrossQ
from mlx_baselines3.contrib.common.torch_layers import BatchRenorm1d
from support.contrib_updates import MANIFEST, make_model, read_case, read_function
from support.golden import (
    LOG_TOLERANCE,
    PARAMETER_TOLERANCE,
    assert_log_equal,
    assert_parameters_equal,
)
from support.offpolicy import RecordedBuffer

NAMES = ("crossq_warmup", "crossq_renorm", "crossq_fixed")


def recorded_noise(name, case):
    """(steps, 2, batch, actions), at the observations and at the next ones; zeros where contrib drew none."""
    entry = MANIFEST["updates"][name]
    noise = np.zeros((entry["gradient_steps"], 2, *case.arrays["noise0"].shape), np.float32)
    for index, text in enumerate(entry["noise_order"]):
        step, _, what = text.removeprefix("step ").partition(": ")
        noise[int(step), int(what == "next_observations")] = case.arrays[f"noise{index}"]
    return mx.array(noise)


def recorded_model(name, case):
    model = make_model(CrossQ, name, buffer_size=100)
    model.policy.load_state_dict(case.group("before"))
    if "before_log_ent_coef" in case.arrays:
        model.log_ent_coef = mx.array(case.arrays["before_log_ent_coef"])
    return model


@pytest.mark.parametrize("name", NAMES)
def test_updates_equal_contribs(name, updates, monkeypatch):
    case = read_case(name)
    model = recorded_model(name, case)
    buffer, noise = RecordedBuffer(case), recorded_noise(name, case)
    monkeypatch.setattr(model, "replay_buffer", buffer)
    monkeypatch.setattr(model, "_noise", lambda *_: noise)
    model.train(gradient_steps=len(buffer), batch_size=32)
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
    if "after_log_ent_coef" in case.arrays:
        difference = np.abs(np.array(model.log_ent_coef) - case.arrays["after_log_ent_coef"]).max()
        assert difference <= PARAMETER_TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_each_step_equals_contribs(name, updates, monkeypatch):
    case = read_case(name)
    model = recorded_model(name, case)
    buffer, noise = RecordedBuffer(case), recorded_noise(name, case)
    monkeypatch.setattr(model, "replay_buffer", buffer)
    for index in range(len(buffer)):
        monkeypatch.setattr(model, "_noise", lambda *_, i=index: noise[i : i + 1])
        model.logger.name_to_value.clear()
        model.train(gradient_steps=1, batch_size=32)
        logged = model.logger.name_to_value
        for part in ("critic", "actor", "ent_coef"):
            expected = case.arrays.get(f"loss{index}/{part}")
            assert (expected is None) == (f"train/{part}_loss" not in logged)
            if expected is not None:
                np.testing.assert_allclose(logged[f"train/{part}_loss"], expected, LOG_TOLERANCE)
        expected = case.group("after") if index == len(buffer) - 1 else case.group(f"step{index + 1}")
        assert_parameters_equal(model.policy.state_dict(), expected)


def test_batch_renorm_equals_contribs():
    """Nine calls of one layer: warm-up and past it, training and evaluation."""
    calls = read_function("batch_renorm")
    layer = BatchRenorm1d(6, momentum=0.1, warmup_steps=2)
    layer.load_state_dict(calls.pop("before"))
    for name, call in calls.items():
        layer.train(bool(call["training"]))
        cotangent = mx.array(call["cotangent"])

        def weighed(x, scale, bias, cotangent=cotangent):
            own = layer.scale, layer.bias
            layer.scale, layer.bias = scale, bias
            y = layer(x)
            layer.scale, layer.bias = own
            return (y * cotangent).sum(), y

        arrays = (mx.array(call["x"]), layer.scale, layer.bias)
        (_, y), gradients = mx.value_and_grad(weighed, argnums=(0, 1, 2))(*arrays)
        np.testing.assert_allclose(y, call["y"], 1e-5, 1e-5, err_msg=name)
        by_x = np.array(gradients[0])
        assert np.isfinite(by_x).all()
        # Where a column is constant, torch's gradient is nan.
        expected = np.where(np.isnan(call["grad_x"]), by_x, call["grad_x"])
        assert np.isnan(call["grad_x"]).sum() == (16 if name == "call4" else 0)
        np.testing.assert_allclose(by_x, expected, 1e-4, 1e-4, err_msg=name)
        np.testing.assert_allclose(gradients[1], call["grad_scale"], 1e-4, 1e-4, err_msg=name)
        np.testing.assert_allclose(gradients[2], call["grad_bias"], 1e-4, 1e-4, err_msg=name)
        state = {key.removeprefix("after/"): value for key, value in call.items() if "after/" in key}
        for key, value in state.items():
            # One column's variance is 20, where the last bit of a float32 is 2e-6 already: two of them.
            np.testing.assert_allclose(layer[key], value, 3e-7, 2e-6, err_msg=f"{name} {key}")
        assert layer.steps.dtype == mx.int64
