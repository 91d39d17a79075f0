"""DDPG is TD3 with one critic, without delay and without smoothing."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.ddpg import DDPG
from mlx_baselines3.td3 import TD3

SMALL = {"net_arch": [16, 16]}


def test_settings():
    kwargs = dict(SMALL)
    model = DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs)
    assert isinstance(model, TD3)
    assert model.policy_delay == 1
    assert model.target_noise_clip == 0.0
    assert model.policy_kwargs["n_critics"] == 1
    assert kwargs == SMALL
    assert not [name for name in model.policy.state_dict() if "qf1" in name]


def test_two_critics_if_asked_for():
    model = DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs={**SMALL, "n_critics": 2})
    assert "critic_target.qf1.0.weight" in model.policy.state_dict()


def test_the_noise_of_the_target_does_not_matter(monkeypatch):
    results = []
    for noise in (-5.0, 5.0):
        model = DDPG("MlpPolicy", "Pendulum-v1", learning_starts=20, policy_kwargs=dict(SMALL), seed=0)
        model.learn(20)
        shape = model._noise(2, 8).shape
        monkeypatch.setattr(model, "_noise", lambda *sizes, fill=noise, shape=shape: mx.full(shape, fill))
        np.random.seed(0)  # noqa: NPY002  what the buffer draws from
        model.train(gradient_steps=2, batch_size=8)
        results.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(*results)


def test_run_save_load(tmp_path):
    model = DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(SMALL), seed=1, train_freq=(1, "episode"))
    model.learn(300)
    # One update of one gradient step after each episode of 200 steps.
    assert model._n_updates == 2
    model.save(tmp_path / "ddpg")
    loaded = DDPG.load(tmp_path / "ddpg")
    obs = np.array([1.0, 0.0, 0.5], np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], model.predict(obs)[0])
    assert loaded.policy_kwargs["n_critics"] == 1
    with pytest.raises(ValueError, match="policy kwargs"):
        DDPG.load(tmp_path / "ddpg", policy_kwargs={"net_arch": [8]})
