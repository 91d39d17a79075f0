"""Consecutive DDPG updates give SB3's parameters and logged values."""

import mlx.core as mx
import numpy as np

from mlx_baselines3.ddpg import DDPG
from support.golden import Case, assert_log_equal, assert_parameters_equal, check_who_computed
from support.offpolicy import RecordedBuffer, make_model


def test_updates_equal_sb3s(golden_updates, updates, monkeypatch):
    case = Case(golden_updates / "ddpg.npz")
    model = make_model(DDPG, policy_kwargs={"net_arch": [48, 32]})
    model.policy.load_state_dict(case.group("before"))
    batches = RecordedBuffer(case)
    noise = mx.array(np.stack([case.arrays[f"noise{i}"] for i in range(len(batches))]))
    assert model._noise(len(batches), 32).shape == noise.shape
    monkeypatch.setattr(model, "replay_buffer", batches)
    monkeypatch.setattr(model, "_noise", lambda gradient_steps, batch_size: noise)

    model.train(gradient_steps=len(batches), batch_size=32)

    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
