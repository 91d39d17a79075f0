"""Models in files: what comes back, what may change on the way, what is refused."""

import io
import json
import zipfile

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.exported_models import make

SMALL = {"n_steps": 8, "batch_size": 4, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
OBS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)


class AnyEnv(gym.Env):
    """CartPole's spaces, or others."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


@pytest.fixture(scope="module")
def model():
    return PPO("MlpPolicy", "CartPole-v1", seed=0, gamma=0.9, **SMALL).learn(16)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "model"
    model.save(file)
    return file


def assert_equal_models(first, second):
    for name, arrays in first.get_parameters().items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(
                np.array(value), np.array(second.get_parameters()[name][key]), err_msg=f"{name} {key}"
            )
    np.testing.assert_array_equal(
        first.predict(OBS, deterministic=True)[0], second.predict(OBS, deterministic=True)[0]
    )


def test_model_comes_back(model, path):
    loaded = PPO.load(path)
    assert_equal_models(loaded, model)
    assert (loaded.gamma, loaded.n_steps, loaded.num_timesteps, loaded._n_updates) == (0.9, 8, 16, 2)
    assert loaded.clip_range(1.0) == 0.2
    assert loaded.get_env() is None
    assert loaded.policy_class is ActorCriticPolicy
    assert loaded.observation_space == model.observation_space


def test_suffix_and_stream(model, path):
    assert path.with_suffix(".zip").is_file()
    assert_equal_models(PPO.load(path.with_suffix(".zip")), model)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    assert_equal_models(PPO.load(stream), model)


def test_saved_models_go_on_exactly(model, path):
    """Loaded into equal environments and seeded alike, two models stay equal."""
    models = [PPO.load(path, env=make_vec_env("CartPole-v1", 1)) for _ in range(2)]
    for loaded in models:
        loaded.set_random_seed(3)
        loaded.learn(16, reset_num_timesteps=False)
    assert models[0].num_timesteps == 32
    assert_equal_models(*models)
    before = model.policy.parameters_to_vector()
    assert not np.array_equal(models[0].policy.parameters_to_vector(), before)


def test_predicting_needs_no_environment_learning_does(path):
    loaded = PPO.load(path)
    assert loaded.predict(OBS[0])[0].shape == ()
    with pytest.raises(AssertionError, match=r"set_env\(\)"):
        loaded.learn(8)
    loaded.set_env(make_vec_env("CartPole-v1", 1))
    assert loaded.learn(8, reset_num_timesteps=False).num_timesteps == 24


@pytest.mark.parametrize("n_envs", [1, 3])
def test_another_number_of_environments(path, n_envs):
    loaded = PPO.load(path, env=make_vec_env("CartPole-v1", n_envs))
    assert loaded.n_envs == n_envs
    assert loaded.rollout_buffer.n_envs == n_envs
    assert loaded.learn(8 * n_envs).num_timesteps == 8 * n_envs


def test_force_reset(model, path):
    loaded = PPO.load(path, env=make_vec_env("CartPole-v1", 1))
    assert loaded._last_obs is None
    loaded = PPO.load(path, env=make_vec_env("CartPole-v1", 1), force_reset=False)
    np.testing.assert_array_equal(loaded._last_obs, model._last_obs)


def test_other_spaces_are_refused(path):
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        PPO.load(path, env=AnyEnv(spaces.Box(-1, 1, (3,), np.float32)))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        PPO.load(path, env=AnyEnv(PPO.load(path).observation_space, spaces.Discrete(3)))


def test_attributes_can_be_changed(path):
    loaded = PPO.load(path, gamma=0.5, verbose=0, n_steps=4, policy_kwargs={"net_arch": [4]})
    assert (loaded.gamma, loaded.n_steps, loaded.rollout_buffer.buffer_size) == (0.5, 4, 4)
    with pytest.raises(ValueError, match=r"policy kwargs do not equal.*\[4\].*\[8\]"):
        PPO.load(path, policy_kwargs={"net_arch": [8]})


def test_custom_objects_replace_what_is_there(path):
    loaded = PPO.load(path, custom_objects={"learning_rate": 0.25, "clip_range": 0.125, "unknown": 1})
    assert loaded.learning_rate == 0.25
    assert loaded.lr_schedule(1.0) == 0.25
    assert loaded.clip_range(1.0) == 0.125
    assert not hasattr(loaded, "unknown")


def test_a_function_is_not_kept_but_named(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda progress: progress, **SMALL)
    with pytest.warns(UserWarning, match="`learning_rate` cannot be kept.*custom_objects") as said:
        model.save(tmp_path / "model")
    assert len(said) == 1
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="Could not restore `learning_rate`.*custom_objects") as said:
        PPO.load(tmp_path / "model")
    assert len(said) == 1
    custom = {"learning_rate": lambda progress: 2 * progress}
    assert PPO.load(tmp_path / "model", custom_objects=custom).lr_schedule(0.5) == 1.0


def test_pickles_are_written_and_opened_by_consent(tmp_path):
    kwargs = {
        **SMALL,
        "learning_rate": lambda progress: progress / 2,
        "clip_range": lambda progress: progress,
    }
    model = PPO("MlpPolicy", "CartPole-v1", **kwargs)
    model.save(tmp_path / "model", allow_pickle=True)
    with pytest.warns(UserWarning, match=r"`learning_rate`.*allow_pickle=True.*`clip_range`") as said:
        without = PPO.load(tmp_path / "model")
    assert len(said) == 1
    obs = np.ones((1, 4), np.float32)
    assert without.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]
    with pytest.warns(UserWarning, match="Opening pickles.*`learning_rate`, `clip_range`") as said:
        loaded = PPO.load(tmp_path / "model", allow_pickle=True)
    assert len(said) == 1
    assert loaded.lr_schedule(0.5) == 0.25
    assert loaded.clip_range(0.5) == 0.5
    custom = {"learning_rate": 0.125, "clip_range": 0.25}
    assert PPO.load(tmp_path / "model", custom_objects=custom).lr_schedule(1.0) == 0.125


def test_exclude_and_include(model, tmp_path):
    model.save(tmp_path / "model", exclude=["gamma", "seed"], include=["_custom_logger"])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        stored = json.loads(archive.read("data"))
    assert "gamma" not in json.dumps(stored)
    assert "_custom_logger" in json.dumps(stored)
    loaded = PPO.load(tmp_path / "model")
    assert loaded.gamma == 0.99
    assert_equal_models(loaded, model)


def test_environments_buffers_and_loggers_stay_outside(path):
    with zipfile.ZipFile(path.with_suffix(".zip")) as archive:
        stored = archive.read("data").decode()
    for name in ("rollout_buffer", "_logger", "_updater", "env", "_vec_normalize_env", "device"):
        assert f'"{name}"' not in stored


def test_set_parameters_from_a_file(model, path):
    other = PPO("MlpPolicy", "CartPole-v1", seed=1, **SMALL)
    other.set_parameters(str(path))
    assert_equal_models(other, model)


def test_system_info_is_printed(path, capsys):
    PPO.load(path, print_system_info=True)
    out = capsys.readouterr().out
    assert "== CURRENT SYSTEM INFO ==" in out
    assert "== SAVED MODEL SYSTEM INFO ==" in out


def test_sde_models_predict_after_loading(tmp_path):
    model = PPO("MlpPolicy", "Pendulum-v1", use_sde=True, **SMALL)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model")
    obs = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    assert loaded.predict(obs)[0].shape == (2, 1)


def test_the_policy_alone(model, tmp_path):
    model.policy.save(tmp_path / "policy")
    policy = ActorCriticPolicy.load(tmp_path / "policy.zip")
    np.testing.assert_array_equal(policy.parameters_to_vector(), model.policy.parameters_to_vector())


class UsersPolicy(ActorCriticPolicy):
    """A policy of the user's own, importable."""


def test_users_policy_class(tmp_path):
    PPO(UsersPolicy, "CartPole-v1", **SMALL).save(tmp_path / "model")
    assert type(PPO.load(tmp_path / "model").policy) is UsersPolicy


def test_policy_class_that_cannot_be_found(tmp_path):
    class Hidden(ActorCriticPolicy):
        pass

    model = PPO(Hidden, "CartPole-v1", **SMALL)
    with pytest.warns(UserWarning, match="policy_class"):
        model.save(tmp_path / "model")
    with (
        pytest.warns(UserWarning, match="policy_class"),
        pytest.raises(KeyError, match=r"custom_objects=\{'policy_class'"),
    ):
        PPO.load(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", custom_objects={"policy_class": Hidden})
    assert_equal_models(loaded, model)


@pytest.mark.parametrize("algorithm", [A2C, DQN, SAC, TD3])
def test_another_algorithms_model_is_refused(algorithm, path, golden_models):
    with pytest.raises(ValueError, match=rf"holds a model of PPO, which {algorithm.__name__} cannot load"):
        algorithm.load(path)
    name = "td3_pendulum" if algorithm is not TD3 else "sac_pendulum"
    with pytest.raises(ValueError, match=r"holds a model of (TD3 or DDPG|SAC), which"):
        algorithm.load(golden_models / name)
    with pytest.raises(ValueError, match="holds a model of A2C, which PPO cannot load"):
        PPO.load(golden_models / "a2c_pendulum")


def test_algorithms_of_the_user_load_their_models(path):
    class Own(PPO):
        """A variant."""

    assert isinstance(Own.load(path), Own)


def test_files_that_hold_no_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        PPO.load(tmp_path / "nothing")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.zip"):
        PPO.load(tmp_path / "text.zip")


def test_vectorised_environment_of_ones_own(path):
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    assert PPO.load(path, env=env).get_env() is env


def test_optimizer_state_comes_back(model, path):
    state = PPO.load(path).policy.optimizer.state_dict()
    # Two rollouts of two minibatches each.
    assert state["step"].item() == 4
    assert isinstance(state["m.value_net.bias"], mx.array)
    assert state["m.value_net.bias"].item() != 0.0


def early_file(name, change):
    """A file as SB3 writes it, with its parameters changed: object name -> state."""
    stream, early = io.BytesIO(), io.BytesIO()
    model = make(name, steps=0)
    model.save(stream, format="sb3")
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(early, "w") as out:
        for entry in archive.namelist():
            data = archive.read(entry)
            if entry.startswith("policy"):
                data = _torch_file.dumps(change(entry, _torch_file.load(data, entry)))
            out.writestr(entry, data)
    early.seek(0)
    return model, early


def one_extractor(entry, state):
    return {key: value for key, value in state.items() if not key.startswith(("pi_feat", "vf_feat"))}


def both_networks(entry, state):
    if "optimizer" in entry:
        (group,) = state["param_groups"]
        group["params"] = list(range(2 * len(group["params"])))
    return state


@pytest.mark.parametrize(
    ("name", "change", "version"),
    [("ppo_cnn", one_extractor, r"1\.7\.0.*Missing key"), ("dqn_mlp", both_networks, r"2\.4\.0")],
)
def test_models_of_an_early_sb3_are_loaded_with_a_warning(name, change, version):
    model, file = early_file(name, change)
    with pytest.warns(UserWarning, match=version) as said:
        loaded = type(model).load(file)
    assert [warning.filename for warning in said] == [__file__]
    for key, value in model.policy.state_dict().items():
        np.testing.assert_array_equal(np.array(loaded.policy.state_dict()[key]), np.array(value))


def test_other_missing_parameters_are_no_early_sb3s():
    _, file = early_file(
        "ppo_cnn", lambda _, state: {k: v for k, v in state.items() if "action_net" not in k}
    )
    with pytest.raises(RuntimeError, match=r"Missing key.*action_net"):
        PPO.load(file)
