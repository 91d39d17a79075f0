"""The nine models that SB3 2.9.2 saved: what is read from them acts as SB3 did, computed here in NumPy."""

import json
import pathlib
import warnings
import zipfile

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.save_util import load_from_zip_file
from mlx_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

DATA = pathlib.Path(__file__).parent.parent / "data"
MODELS = sorted(json.loads((DATA / "MANIFEST.json").read_text())["models"])
POLICIES = {
    "a2c_pendulum": "ActorCriticPolicy",
    "ddpg_pendulum": "TD3Policy",
    "dqn_cartpole": "DQNPolicy",
    "ppo_cartpole": "ActorCriticPolicy",
    "ppo_cnn": "ActorCriticCnnPolicy",
    "ppo_multiinput": "MultiInputActorCriticPolicy",
    "ppo_pendulum_sde": "ActorCriticPolicy",
    "sac_pendulum": "SACPolicy",
    "td3_pendulum": "TD3Policy",
}


def load(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_from_zip_file(DATA / "models" / f"{name}.zip")


@pytest.mark.parametrize("name", MODELS)
def test_every_attribute_is_restored(name):
    data, params, variables = load(name)
    with zipfile.ZipFile(DATA / "models" / f"{name}.zip") as archive:
        stored = json.loads(archive.read("data"))
    assert list(data) == list(stored)
    for key, value in stored.items():
        if not (isinstance(value, dict) and ":serialized:" in value):
            assert data[key] == value, key
    assert data["policy_class"].__name__ == POLICIES[name]
    # One schedule for all: its end result is what was asked for.
    assert data["lr_schedule"](0.3) == data["learning_rate"]
    assert data["ep_info_buffer"].maxlen == 100
    optimizers = {"sac": 3, "td3": 2, "ddpg": 2}.get(name.split("_")[0], 1)
    assert sum(key.endswith("optimizer") for key in params) == optimizers
    assert set(variables) == ({"log_ent_coef"} if name == "sac_pendulum" else set())


def bounds(space):
    """Gymnasium 0.29 makes CartPole's infinite bounds the largest float32."""
    return [
        np.where(np.abs(bound) > 1e38, np.sign(bound) * np.inf, bound) for bound in (space.low, space.high)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_spaces_are_those_of_the_environments(name):
    data, _, _ = load(name)
    observation_space, action_space = data["observation_space"], data["action_space"]
    for word, env_id in (("cartpole", "CartPole-v1"), ("pendulum", "Pendulum-v1")):
        if word in name:
            env = gym.make(env_id)
            for saved, made in zip(bounds(observation_space), bounds(env.observation_space), strict=True):
                np.testing.assert_array_equal(saved, made)
            assert observation_space.dtype == env.observation_space.dtype
            assert action_space == env.action_space
            env.close()
    with np.load(DATA / "models" / f"{name}.npz") as arrays:
        for action in arrays["actions"]:
            assert action_space.contains(action)
        if name == "ppo_cnn":
            # SB3 moves the channels to the front.
            assert observation_space == spaces.Box(0, 255, (3, 36, 36), np.uint8)
            assert arrays["obs"].shape == (16, 36, 36, 3)
        elif name == "ppo_multiinput":
            assert list(observation_space.spaces) == ["img", "vec"]
            assert observation_space["vec"].shape == arrays["obs/vec"].shape[1:]
        else:
            assert observation_space.shape == arrays["obs"].shape[1:]


def layers(policy, prefix, x, activation):
    """A multilayer perceptron as torch numbers its layers, with an activation after all but the last."""
    names = [key.removeprefix(f"{prefix}.") for key in policy if key.startswith(f"{prefix}.")]
    numbers = sorted({int(name.partition(".")[0]) for name in names})
    for number in numbers:
        x = x @ np.array(policy[f"{prefix}.{number}.weight"]).T + np.array(policy[f"{prefix}.{number}.bias"])
        if number != numbers[-1]:
            x = activation(x)
    return x


def relu(x):
    return np.maximum(x, 0)


def head(policy, prefix, x):
    return x @ np.array(policy[f"{prefix}.weight"]).T + np.array(policy[f"{prefix}.bias"])


def actor_critic(policy, obs):
    return head(policy, "action_net", np.tanh(layers(policy, "mlp_extractor.policy_net", obs, np.tanh)))


@pytest.mark.parametrize("name", ["ppo_cartpole", "dqn_cartpole"])
def test_weights_choose_sb3s_discrete_actions(name):
    policy = load(name)[1]["policy"]
    with np.load(DATA / "models" / f"{name}.npz") as arrays:
        if name == "ppo_cartpole":
            scores = actor_critic(policy, arrays["obs"])
        else:
            scores = layers(policy, "q_net.q_net", arrays["obs"], relu)
        np.testing.assert_array_equal(scores.argmax(axis=1), arrays["actions"])


@pytest.mark.parametrize("name", [name for name in MODELS if "pendulum" in name])
def test_weights_give_sb3s_continuous_actions(name):
    policy = load(name)[1]["policy"]
    with np.load(DATA / "models" / f"{name}.npz") as arrays:
        obs, expected = arrays["obs"], arrays["actions"]
    if name.startswith(("ppo", "a2c")):
        actions = np.clip(actor_critic(policy, obs), -2, 2)
    elif name.startswith("sac"):
        actions = 2 * np.tanh(head(policy, "actor.mu", relu(layers(policy, "actor.latent_pi", obs, relu))))
    else:
        actions = 2 * np.tanh(layers(policy, "actor.mu", obs, relu))
    np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_optimizer_states_fit_the_parameters(name):
    _, params, variables = load(name)
    for key, state in params.items():
        if not key.endswith("optimizer"):
            continue
        (group,) = state["param_groups"]
        assert group["params"] == list(range(len(group["params"])))
        owner = key.partition(".")[0]
        pool = {"policy": params["policy"], "ent_coef_optimizer": variables}.get(owner) or {
            name: array for name, array in params["policy"].items() if name.startswith(f"{owner}.")
        }
        shapes = {array.shape for array in pool.values()}
        for slot in state["state"].values():
            moments = [value for value in slot.values() if isinstance(value, mx.array) and value.ndim]
            assert moments
            assert all(moment.shape in shapes for moment in moments)


def test_attributes_that_sb3_computed():
    data, params, variables = load("sac_pendulum")
    assert data["train_freq"] == TrainFreq(1, TrainFrequencyUnit.STEP)
    assert data["_n_updates"] == 70
    assert variables["log_ent_coef"].shape == (1,)
    assert params["actor.optimizer"]["state"][0]["step"].item() == 70
    data, _, _ = load("dqn_cartpole")
    # 1.0 to 0.05 over the first tenth of training
    assert data["exploration_schedule"](1.0) == 1.0
    assert data["exploration_schedule"](0.95) == pytest.approx(0.525)
    assert data["exploration_schedule"](0.0) == 0.05
    assert load("ppo_cartpole")[0]["clip_range"](0.5) == 0.2
    kwargs = load("a2c_pendulum")[0]["policy_kwargs"]
    assert kwargs["optimizer_class"].__module__.startswith("mlx.optimizers")
    assert kwargs["optimizer_kwargs"]["alpha"] == 0.99


def test_custom_objects_and_parameters_only():
    path = DATA / "models" / "ppo_cartpole.zip"
    data, _, _ = load_from_zip_file(path, custom_objects={"clip_range": 0.1, "absent": 1})
    assert data["clip_range"] == 0.1
    assert "absent" not in data
    data, params, _ = load_from_zip_file(path, load_data=False)
    assert data is None
    assert set(params) == {"policy", "policy.optimizer"}
