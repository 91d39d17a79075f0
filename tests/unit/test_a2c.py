"""A2C as a user meets it: its loss, gSDE, files, and that it learns."""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3.a2c import A2C, losses
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike


def test_losses_by_hand():
    log_prob, advantages = mx.array([-1.0, -2.0]), mx.array([3.0, -1.0])
    assert losses.policy_loss(log_prob, advantages).item() == 0.5
    assert losses.value_loss(mx.array([1.0, 2.0]), mx.array([2.0, 5.0])).item() == 5.0
    assert losses.entropy_loss(mx.array([1.0, 2.0]), log_prob).item() == -1.5
    assert losses.entropy_loss(None, log_prob).item() == -1.5


def test_normalised_advantages_by_hand():
    np.testing.assert_allclose(np.array(losses.normalize(mx.array([1.0, 2.0, 3.0]))), [-1, 0, 1], rtol=1e-6)
    assert losses.normalize(mx.array([4.0])).item() == 4.0


def test_learns_to_balance():
    env = make_vec_env("CartPole-v1", 8, seed=0)
    model = A2C("MlpPolicy", env, learning_rate=2e-3, seed=1)
    eval_env = make_vec_env("CartPole-v1", 8, seed=7)
    before = evaluate_policy(model, eval_env, n_eval_episodes=16, deterministic=False)[0]
    model.learn(10000)
    after = evaluate_policy(model, eval_env, n_eval_episodes=16, deterministic=False)[0]
    assert before < 50
    assert after > 90


def test_one_update_per_rollout_and_its_keys():
    model = A2C("MlpPolicy", "CartPole-v1", n_steps=6).learn(30)
    assert model._n_updates == 5
    assert {key for key in model.logger.name_to_value if key.startswith("train/")} == {
        "train/learning_rate", "train/n_updates", "train/entropy_loss", "train/policy_loss",
        "train/value_loss", "train/explained_variance",
    }  # fmt: skip


@pytest.mark.parametrize("sde_sample_freq", [-1, 2])
def test_state_dependent_exploration(tmp_path, sde_sample_freq):
    model = A2C("MlpPolicy", "Pendulum-v1", use_sde=True, sde_sample_freq=sde_sample_freq, seed=0)
    before = np.array(model.policy.log_std)
    model.learn(15)
    assert not np.array_equal(np.array(model.policy.log_std), before)
    assert "train/std" in model.logger.name_to_value
    model.save(tmp_path / "model")
    obs = np.ones((2, 3), np.float32)
    loaded = A2C.load(tmp_path / "model", env=model.get_env())
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    assert loaded.learn(10, reset_num_timesteps=False).num_timesteps == 25


def test_file_holds_the_optimizer(tmp_path):
    model = A2C("MlpPolicy", "CartPole-v1", rms_prop_eps=1e-3, seed=0).learn(20)
    model.save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model")
    assert type(loaded.policy.optimizer.optimizer) is optim.RMSprop
    assert loaded.policy.optimizer.optimizer.eps == 1e-3
    for key, value in model.get_parameters()["policy.optimizer"].items():
        np.testing.assert_array_equal(
            np.array(loaded.get_parameters()["policy.optimizer"][key]), np.array(value), err_msg=key
        )


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, optim.RMSprop),
        ({"use_rms_prop": False}, optim.Adam),
        ({"policy_kwargs": {"optimizer_class": RMSpropTFLike}}, RMSpropTFLike),
    ],
)
def test_optimizer(kwargs, expected):
    model = A2C("MlpPolicy", "CartPole-v1", **kwargs).learn(5)
    assert isinstance(model.policy.optimizer.optimizer, expected)


def test_users_own_buffer_class_is_asked():
    class Doubled(RolloutBuffer):
        def get(self, batch_size=None):
            yield from super().get(batch_size)
            self.asked = True

    model = A2C("MlpPolicy", "CartPole-v1", rollout_buffer_class=Doubled).learn(5)
    assert model.rollout_buffer.asked


def test_nan_is_an_error_and_changes_nothing():
    model = A2C("MlpPolicy", "CartPole-v1", seed=0).learn(5)
    before = model.policy.parameters_to_vector()
    model.rollout_buffer.advantages[2] = np.nan
    with pytest.raises(FloatingPointError, match="Nothing was changed"):
        model.train()
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_advantages_are_normalised_only_if_asked():
    runs = {}
    for normalize in (False, True):
        model = A2C("MlpPolicy", "CartPole-v1", seed=0, normalize_advantage=normalize).learn(5)
        runs[normalize] = model.policy.parameters_to_vector()
    assert not np.allclose(runs[False], runs[True])


def test_one_seed_one_run():
    first, second = (
        A2C("MlpPolicy", "CartPole-v1", seed=4).learn(100).policy.parameters_to_vector() for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
