"""ARS: what it refuses, its files, and it learns. Its numbers are in ``tests/parity``."""

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.contrib import ARS
from mlx_baselines3.contrib.ars.policies import ARSPolicy
from mlx_baselines3.export import export_onnx
from support.judging import judge


@pytest.mark.parametrize("name", ["n_delta", "n_top", "n_eval_episodes"])
def test_counts_are_at_least_one(name):
    with pytest.raises(AssertionError, match=f"`{name}` must be at least 1, got 0"):
        ARS("LinearPolicy", "CartPole-v1", **{name: 0})


def test_more_best_ones_than_there_are():
    with pytest.warns(UserWarning, match="n_top = 9 > n_delta = 4, setting n_top = n_delta"):
        model = ARS("LinearPolicy", "CartPole-v1", n_delta=4, n_top=9)
    assert (model.n_top, model.pop_size) == (4, 8)


def test_actions_of_other_spaces_are_refused():
    space = spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(NotImplementedError, match="it takes Box and Discrete spaces"):
        ARSPolicy(space, spaces.MultiBinary(2))


def test_weights_are_the_policys():
    model = ARS("LinearPolicy", "CartPole-v1")
    assert model.n_params == 8
    np.testing.assert_array_equal(model.weights, np.zeros(8))
    model.weights = np.arange(8)
    np.testing.assert_array_equal(model.policy.action_net[0].weight, np.arange(8).reshape(2, 4))
    with pytest.raises(ValueError, match="7 numbers, the network has 8"):
        model.weights = np.zeros(7)


def test_a_loaded_model_goes_on_from_its_weights(tmp_path):
    """sb3-contrib's begins at 0 again, with `zero_policy`."""
    model = ARS("LinearPolicy", "CartPole-v1", seed=1).learn(2000)
    assert np.abs(model.weights).max() > 0
    model.save(tmp_path / "ars")
    again = ARS.load(tmp_path / "ars")
    np.testing.assert_array_equal(again.weights, model.weights)
    assert again._n_updates == model._n_updates
    assert list(again.ep_info_buffer) == list(model.ep_info_buffer)


def test_the_linear_layer_of_old_files_has_another_name():
    model = ARS("LinearPolicy", "CartPole-v1")
    weight = np.arange(8, dtype=np.float32).reshape(2, 4)
    model.set_parameters({"policy": {"action_net.weight": weight}})
    np.testing.assert_array_equal(model.policy.action_net[0].weight, weight)


def test_other_algorithms_do_not_load_it(tmp_path):
    ARS("LinearPolicy", "CartPole-v1").save(tmp_path / "ars")
    with pytest.raises(ValueError, match="a model of ARS, which PPO cannot load"):
        PPO.load(tmp_path / "ars")


def test_a_policy_is_saved_alone(tmp_path):
    policy = ARS("MlpPolicy", "Pendulum-v1", zero_policy=False, policy_kwargs={"with_bias": False}).policy
    policy.save(tmp_path / "policy")
    again = ARSPolicy.load(tmp_path / "policy")
    obs = np.ones((3, 3), np.float32)
    np.testing.assert_array_equal(again.predict(obs)[0], policy.predict(obs)[0])


@pytest.mark.parametrize(
    ("policy", "env_id"), [("LinearPolicy", "CartPole-v1"), ("MlpPolicy", "Pendulum-v1")]
)
def test_onnx_acts_alike(policy, env_id, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = ARS(policy, env_id, zero_policy=False, seed=0)
    export_onnx(model, tmp_path / "ars.onnx")
    obs = np.random.default_rng(0).normal(size=(50, *model.observation_space.shape)).astype(np.float32)
    (actions,) = onnxruntime.InferenceSession(tmp_path / "ars.onnx").run(None, {"obs": obs})
    np.testing.assert_allclose(actions, model.predict(obs)[0], rtol=0, atol=1e-5)


def test_learns_to_balance():
    model = ARS("LinearPolicy", "CartPole-v1", learning_rate=0.05, delta_std=0.1, seed=0)
    model.learn(300_000)
    assert judge(model, "CartPole-v1") > 450
