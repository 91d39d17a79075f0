"""Consecutive SAC updates give SB3's parameters, entropy coefficient and logged values."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.sac import SAC
from support.golden import (
    PARAMETER_TOLERANCE,
    Case,
    assert_log_equal,
    assert_parameters_equal,
    check_who_computed,
)
from support.offpolicy import RecordedBuffer, make_model

NET = {"net_arch": [48, 32]}
CASES = {
    "sac_auto": {"policy_kwargs": NET},
    "sac_fixed": {"ent_coef": 0.1, "target_update_interval": 2, "policy_kwargs": NET},
    "sac_sde": {"use_sde": True, "policy_kwargs": NET},
}


def recorded_noise(case: Case, gradient_steps: int, use_sde: bool) -> mx.array:
    """(gradient_steps, 2, …): for the current and the next action; gSDE uses one matrix for both."""
    pairs = [(2 * i, 2 * i + (0 if use_sde else 1)) for i in range(gradient_steps)]
    return mx.array(np.stack([[case.arrays[f"noise{j}"] for j in pair] for pair in pairs]))


@pytest.mark.parametrize("name", CASES)
def test_updates_equal_sb3s(name, golden_updates, updates, monkeypatch):
    case = Case(golden_updates / f"{name}.npz")
    model = make_model(SAC, **{**CASES[name], "policy_kwargs": dict(NET)})
    model.policy.load_state_dict(case.group("before"))
    if "before_log_ent_coef" in case.arrays:
        model.log_ent_coef = mx.array(case.arrays["before_log_ent_coef"])
    batches = RecordedBuffer(case)
    noise = recorded_noise(case, len(batches), model.use_sde)
    monkeypatch.setattr(model, "replay_buffer", batches)
    monkeypatch.setattr(model, "_noise", lambda gradient_steps, batch_size: noise)

    model.train(gradient_steps=len(batches), batch_size=32)

    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
    if "after_log_ent_coef" in case.arrays:
        difference = np.abs(np.array(model.log_ent_coef) - case.arrays["after_log_ent_coef"]).max()
        assert difference <= PARAMETER_TOLERANCE


@pytest.mark.parametrize("use_sde", [False, True])
def test_the_noise_that_train_draws_has_the_recorded_shape(use_sde, golden_updates):
    case = Case(golden_updates / f"sac_{'sde' if use_sde else 'auto'}.npz")
    model = make_model(SAC, use_sde=use_sde, policy_kwargs=dict(NET))
    drawn = model._noise(3, 32)
    assert drawn.shape == recorded_noise(case, 3, use_sde).shape
    one_matrix_for_both = bool(mx.array_equal(drawn[:, 0], drawn[:, 1]))
    assert one_matrix_for_both is use_sde
