"""What every algorithm does around the learning: wrapping, spaces, set_env, parameters, seeds."""

import collections
import copy

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.logger import configure
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    NativeVecEnv,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)

# One shape of network and minibatch for all, so that its kernels are built once.
SMALL = {"n_steps": 8, "batch_size": 4, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}


class AnyEnv(gym.Env):
    """An environment with given spaces; its episodes have five steps."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)
        self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 5, False, {}


VECTOR = spaces.Box(-1, 1, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_lines_for_an_id(capsys, monkeypatch):
    monkeypatch.setenv("MLX_BASELINES3_NATIVE_ENVS", "0")
    model = PPO("MlpPolicy", "CartPole-v1", verbose=1, device="cpu", **SMALL)
    assert lines(capsys) == [
        "Using cpu device",
        "Creating environment from the given name 'CartPole-v1'",
        "Wrapping the env with a `Monitor` wrapper",
        "Wrapping the env in a DummyVecEnv.",
    ]
    assert type(model.get_env()) is DummyVecEnv


def test_lines_for_a_native_environment(capsys):
    model = PPO("MlpPolicy", "CartPole-v1", verbose=1, device="cpu", **SMALL)
    printed = lines(capsys)
    assert printed[:2] == ["Using cpu device", "Creating environment from the given name 'CartPole-v1'"]
    assert len(printed) == 3
    assert "native Rust version of CartPole-v1" in printed[2]
    assert isinstance(model.get_env(), NativeVecEnv)


def test_lines_for_an_image_environment(capsys):
    model = PPO("CnnPolicy", AnyEnv(IMAGE), verbose=1, device="cpu", n_steps=8, batch_size=4)
    assert lines(capsys) == [
        "Using cpu device",
        "Wrapping the env with a `Monitor` wrapper",
        "Wrapping the env in a DummyVecEnv.",
        "Wrapping the env in a VecTransposeImage.",
    ]
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage)
    assert model.observation_space.shape == (3, 36, 40)
    assert model.predict(np.zeros((36, 40, 3), np.uint8))[0].shape == ()


def test_quiet_by_default(capsys):
    PPO("MlpPolicy", AnyEnv(VECTOR), **SMALL).learn(8)
    assert lines(capsys) == []


def test_wrapped_environments_stay_as_they_are(capsys):
    env = Monitor(AnyEnv(VECTOR))
    model = PPO("MlpPolicy", env, verbose=1, device="cpu", **SMALL)
    assert lines(capsys) == ["Using cpu device", "Wrapping the env in a DummyVecEnv."]
    assert model.get_env().envs[0] is env
    vec_env = DummyVecEnv([lambda: AnyEnv(VECTOR)])
    assert PPO("MlpPolicy", vec_env, **SMALL).get_env() is vec_env


def test_without_monitor_no_episodes_are_counted():
    class Bare(PPO):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

        @staticmethod
        def _wrap_env(env, verbose=0, monitor_wrapper=True):
            return PPO._wrap_env(env, verbose, monitor_wrapper=False)

    model = Bare("MlpPolicy", AnyEnv(VECTOR), **SMALL).learn(8)
    assert len(model.ep_info_buffer) == 0
    assert "rollout/ep_rew_mean" not in model.logger.name_to_value


@pytest.mark.parametrize(
    ("policy", "observations", "actions", "error", "message"),
    [
        ("MlpPolicy", spaces.Dict({"a": spaces.Dict({"b": VECTOR})}), None, NotImplementedError, "[Nn]ested"),
        ("MlpPolicy", spaces.Dict({"a": VECTOR}), None, ValueError, "`MultiInputPolicy`.*not MlpPolicy"),
        ("CnnPolicy", spaces.Dict({"a": VECTOR}), None, ValueError, "`MultiInputPolicy`.*not CnnPolicy"),
        ("CnnPolicy", VECTOR, None, AssertionError, "needs images"),
        ("NoPolicy", VECTOR, None, ValueError, "NoPolicy unknown; PPO has MlpPolicy, CnnPolicy"),
        (
            "MlpPolicy",
            VECTOR,
            spaces.Tuple([spaces.Discrete(2)]),
            AssertionError,
            "only supports Box, Discrete",
        ),
        (
            "MlpPolicy",
            VECTOR,
            spaces.Box(-np.inf, 1, (2,), np.float32),
            AssertionError,
            "finite lower and upper bound",
        ),
    ],
)
def test_what_does_not_fit_is_refused(policy, observations, actions, error, message):
    with pytest.raises(error, match=message):
        PPO(policy, AnyEnv(observations, actions), n_steps=8, batch_size=4)


def test_sde_needs_continuous_actions():
    with pytest.raises(ValueError, match=r"continuous actions, not with Discrete"):
        PPO("MlpPolicy", AnyEnv(VECTOR), use_sde=True, **SMALL)


def test_base_class_checks_the_number_of_environments():
    class OneEnv(BaseAlgorithm):
        def _setup_model(self):
            pass

        def learn(self, *args, **kwargs):
            return self

    OneEnv(PPO.policy_aliases["MlpPolicy"], AnyEnv(VECTOR), 1e-3)
    two = DummyVecEnv([lambda: AnyEnv(VECTOR)] * 2)
    with pytest.raises(ValueError, match=r"OneEnv does not support multiple envs.*got 2"):
        OneEnv(PPO.policy_aliases["MlpPolicy"], two, 1e-3)
    model = OneEnv(PPO.policy_aliases["MlpPolicy"], None, 1e-3)
    with pytest.raises(NotImplementedError, match="OneEnv"):
        model.dump_logs()
    with (
        pytest.warns(DeprecationWarning, match="dump_logs"),
        pytest.raises(NotImplementedError, match="OneEnv"),
    ):
        model._dump_logs()


def test_set_env():
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL).learn(16)
    env = make_vec_env("CartPole-v1", 2)
    model.set_env(env)
    assert model.get_env() is env
    assert model._last_obs is None
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps == 32
    last_obs = model._last_obs
    model.set_env(make_vec_env("CartPole-v1", 2), force_reset=False)
    assert model._last_obs is last_obs


def test_set_env_refuses_what_differs():
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL)
    env = model.get_env()
    with pytest.raises(AssertionError, match=r"\(3 != 2\).*PPO\.load"):
        model.set_env(make_vec_env("CartPole-v1", 3))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(make_vec_env("MountainCar-v0", 2))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        model.set_env(DummyVecEnv([lambda: AnyEnv(env.observation_space, spaces.Discrete(3))] * 2))
    assert model.get_env() is env


def test_set_env_refreshes_vec_normalize():
    first, second = (VecNormalize(make_vec_env("CartPole-v1", 1)) for _ in range(2))
    model = PPO("MlpPolicy", first, **SMALL)
    assert model.get_vec_normalize_env() is first
    model.set_env(second)
    assert model.get_vec_normalize_env() is second
    model.set_env(make_vec_env("CartPole-v1", 1))
    assert model.get_vec_normalize_env() is None


def test_learning_without_environment():
    model = PPO("MlpPolicy", AnyEnv(VECTOR), **SMALL)
    model.env = None
    with pytest.raises(AssertionError, match=r"set_env\(\)"):
        model.learn(8)


@pytest.fixture(scope="module")
def trained():
    return PPO("MlpPolicy", "CartPole-v1", seed=0, **SMALL).learn(16)


def numpy_parameters(model):
    return {
        name: {key: np.array(value) for key, value in arrays.items()}
        for name, arrays in model.get_parameters().items()
    }


def assert_same_parameters(first, second):
    assert first.keys() == second.keys()
    for name, arrays in first.items():
        assert arrays.keys() == second[name].keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, second[name][key], err_msg=key)


def test_parameters(trained):
    parameters = trained.get_parameters()
    assert list(parameters) == ["policy", "policy.optimizer"]
    assert parameters["policy"]["mlp_extractor.policy_net.0.weight"].shape == (4, 4)
    assert isinstance(parameters["policy"]["action_net.bias"], mx.array)
    other = PPO("MlpPolicy", "CartPole-v1", seed=1, **SMALL)
    before = other.policy.parameters_to_vector()
    assert not np.array_equal(before, trained.policy.parameters_to_vector())
    other.set_parameters(parameters)
    assert_same_parameters(numpy_parameters(other), numpy_parameters(trained))
    # Learning on does not reach the other model.
    before = trained.policy.parameters_to_vector()
    other.learn(8)
    np.testing.assert_array_equal(trained.policy.parameters_to_vector(), before)


def drop_tensor(parameters):
    del parameters["policy"]["value_net.bias"]


def drop_object(parameters):
    del parameters["policy.optimizer"]


def add_object(parameters):
    parameters["critic"] = {}


def reshape(parameters):
    parameters["policy"]["value_net.bias"] = np.ones(3, np.float32)


def spoil_optimizer(parameters):
    del parameters["policy.optimizer"]["m.value_net.bias"]


@pytest.mark.parametrize(
    ("spoil", "exact_match", "error", "message"),
    [
        (drop_tensor, True, RuntimeError, r"Missing key\(s\).*value_net\.bias"),
        (drop_object, True, ValueError, "Names of parameters do not match agents' parameters"),
        (add_object, True, ValueError, "Key critic is an invalid object name"),
        (add_object, False, ValueError, "Key critic is an invalid object name"),
        (reshape, True, RuntimeError, r"size mismatch for value_net\.bias"),
        (reshape, False, RuntimeError, r"size mismatch for value_net\.bias"),
        (spoil_optimizer, True, ValueError, r"m\.value_net\.bias"),
    ],
)
def test_wrong_parameters_change_nothing(trained, spoil, exact_match, error, message):
    before = numpy_parameters(trained)
    wrong = {
        name: {key: value + 1 for key, value in arrays.items()}
        for name, arrays in copy.deepcopy(before).items()
    }
    spoil(wrong)
    with pytest.raises(error, match=message):
        trained.set_parameters(wrong, exact_match=exact_match)
    assert_same_parameters(numpy_parameters(trained), before)


def test_part_of_the_parameters(trained):
    other = PPO("MlpPolicy", "CartPole-v1", seed=1, **SMALL)
    optimizer = numpy_parameters(other)["policy.optimizer"]
    other.set_parameters({"policy": {"value_net.bias": np.array([7.0])}}, exact_match=False)
    assert other.policy.value_net.bias.item() == 7.0
    assert_same_parameters({"o": numpy_parameters(other)["policy.optimizer"]}, {"o": optimizer})


def test_one_seed_one_run():
    """Exactly equal, whatever happened before; another seed gives another run."""
    runs = []
    for seed in (5, 5, 6):
        np.random.rand(3)  # noqa: NPY002
        mx.random.normal((2,))
        model = PPO("MlpPolicy", "CartPole-v1", seed=seed, **SMALL).learn(24)
        runs.append((model.policy.parameters_to_vector(), model._last_obs))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][0], runs[2][0])


def test_environment_i_is_seeded_with_seed_plus_i():
    model = PPO("MlpPolicy", DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), seed=11, **SMALL)
    first_obs = model.get_env().reset()
    for i in range(2):
        expected, _ = gym.make("CartPole-v1").reset(seed=11 + i)
        np.testing.assert_array_equal(first_obs[i], expected)


def test_no_seed_leaves_the_generators_alone():
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.RandomState(0).rand()
    PPO("MlpPolicy", AnyEnv(VECTOR), **SMALL)
    assert np.random.rand() == expected  # noqa: NPY002


def test_a_logger_of_ones_own(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", **SMALL)
    logger = configure(str(tmp_path), ["csv"])
    model.set_logger(logger)
    assert model.learn(16).logger is logger
    logger.close()
    assert (tmp_path / "progress.csv").read_text().count("\n") == 3


def test_callback_forms():
    model = PPO("MlpPolicy", AnyEnv(VECTOR), **SMALL)
    calls = collections.Counter()

    def counted(local_variables, global_variables):
        calls["steps"] += 1
        assert local_variables["self"] is model
        return True

    model.learn(16, callback=counted)
    assert calls["steps"] == 16


@pytest.mark.parametrize("learning_rate", [-1e-3, float("nan")])
def test_negative_learning_rate(learning_rate):
    with pytest.raises(ValueError, match="learning rate must be a finite number that is not negative"):
        PPO("MlpPolicy", AnyEnv(VECTOR), learning_rate=learning_rate, **SMALL)


def test_schedule_that_turns_negative():
    """Half way through the rate is negative: an error. The overshoot of the last rollout is none."""
    model = PPO("MlpPolicy", AnyEnv(VECTOR), learning_rate=lambda progress: progress - 0.75, **SMALL)
    with pytest.raises(ValueError, match=r"not negative, got -0\.25"):
        model.learn(16)
    line = PPO("MlpPolicy", AnyEnv(VECTOR), learning_rate=lambda progress: progress, **SMALL)
    line.learn(12)
    assert line.num_timesteps == 16
    assert line.logger.name_to_value["train/learning_rate"] == 0.0


def test_success_rate_is_counted():
    class Succeeding(AnyEnv):
        def step(self, action):
            obs, reward, terminated, truncated, _ = super().step(action)
            return obs, reward, terminated, truncated, {"is_success": terminated and self.t == 5}

    model = PPO("MlpPolicy", Succeeding(VECTOR), **SMALL)
    model.learn(8)
    assert list(model.ep_success_buffer) == [True]
