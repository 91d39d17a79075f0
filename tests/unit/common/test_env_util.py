import sys
import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common import env_util
from mlx_baselines3.common.env_util import is_wrapped, make_vec_env, unwrap_wrapper
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import DummyVecEnv, VecEnv


class Plain(gym.Env):
    """Takes one argument and knows no render_mode in its constructor."""

    observation_space = spaces.Box(-1, 1, shape=(1,), dtype=np.float32)

    def __init__(self, gain=1):
        self.gain = gain
        self.action_space = spaces.Discrete(1000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(1).astype(np.float32), {}

    def step(self, action):
        return np.zeros(1, dtype=np.float32), float(self.gain), True, False, {}


class ScaledReward(gym.RewardWrapper):
    def __init__(self, env, factor):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


def test_default_is_monitored_dummy_rgb_array():
    env = make_vec_env("CartPole-v1", n_envs=3)
    assert type(env) is DummyVecEnv
    assert env.num_envs == 3
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.render_mode == "rgb_array"
    env.close()


def test_seeds_reach_environments_and_action_spaces():
    env = make_vec_env(Plain, n_envs=2, seed=7, start_index=3)
    expected = [np.random.default_rng(seed).random() for seed in (7, 8)]
    np.testing.assert_allclose(env.reset()[:, 0], expected, rtol=1e-6)
    for rank, space in enumerate(env.get_attr("action_space")):
        assert space.sample() == spaces.Discrete(1000, seed=7 + 3 + rank).sample()


def test_arguments_reach_where_they_belong(tmp_path):
    env = make_vec_env(
        Plain,
        n_envs=2,
        start_index=5,
        monitor_dir=str(tmp_path / "logs"),
        wrapper_class=ScaledReward,
        env_kwargs={"gain": 3},
        monitor_kwargs={"allow_early_resets": False},
        wrapper_kwargs={"factor": 10},
    )
    env.reset()
    _, rewards, _, infos = env.step(np.zeros(2, dtype=np.int64))
    assert rewards.tolist() == [30, 30]
    # The wrapper goes around the Monitor.
    assert infos[0]["episode"]["r"] == 3
    assert env.get_attr("allow_early_resets") == [False, False]
    env.close()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["5.monitor.csv", "6.monitor.csv"]


def test_registered_environment_without_render_mode(monkeypatch):
    spec = gym.envs.registration.EnvSpec("Plain-v0", entry_point=lambda gain=1: Plain(gain))
    monkeypatch.setitem(gym.registry, "Plain-v0", spec)
    env = make_vec_env("Plain-v0", env_kwargs={"gain": 2})
    assert env.get_attr("gain") == [2]
    with pytest.raises(TypeError, match="wrong"):
        make_vec_env("Plain-v0", env_kwargs={"wrong": 2})


def test_no_environment_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        make_vec_env("CartPole-v1", n_envs=0)


def test_unwrap_wrapper():
    env = gym.wrappers.TimeLimit(Monitor(gym.wrappers.TimeLimit(Plain(), 5)), 9)
    assert unwrap_wrapper(env, gym.wrappers.TimeLimit) is env
    assert unwrap_wrapper(env, Monitor) is env.env
    assert unwrap_wrapper(Plain(), Monitor) is None
    assert is_wrapped(env, Monitor)
    assert not is_wrapped(env.env.env, Monitor)


class Recorder:
    """Stands where NativeVecEnv is and keeps what it was made with."""

    def __init__(self, env_id, **kwargs):
        self.made = (env_id, kwargs)
        self.action_space = spaces.Discrete(1000)

    def seed(self, seed):
        self.seeded = seed


@pytest.fixture
def native(monkeypatch):
    name = "mlx_baselines3.common.vec_env.native_vec_env"
    module = types.ModuleType(name)
    module.NativeVecEnv = Recorder
    monkeypatch.setitem(sys.modules, name, module)
    return Recorder


def test_native_environments_are_made_directly(native, tmp_path):
    env = make_vec_env(
        "Pendulum-v1",
        n_envs=4,
        seed=3,
        monitor_dir=str(tmp_path),
        env_kwargs={"g": 9.0, "render_mode": "human"},
        vec_env_cls=native,
    )
    made_with = {"n_envs": 4, "env_kwargs": {"g": 9.0}, "render_mode": "human", "monitor_dir": str(tmp_path)}
    assert env.made == ("Pendulum-v1", made_with)
    assert env.seeded == 3
    assert env.action_space.sample() == spaces.Discrete(1000, seed=3).sample()
    assert make_vec_env("Pendulum-v1", vec_env_cls=native).made[1]["render_mode"] == "rgb_array"


@pytest.mark.parametrize(
    "argument",
    [
        {"wrapper_class": Monitor},
        {"wrapper_kwargs": {"a": 1}},
        {"monitor_kwargs": {"allow_early_resets": False}},
        {"start_index": 2},
    ],
)
def test_native_refuses_what_only_python_can_do(native, argument):
    with pytest.raises(ValueError, match=rf"{next(iter(argument))}(.|\n)*DummyVecEnv"):
        make_vec_env("Pendulum-v1", vec_env_cls=native, **argument)
    with pytest.raises(ValueError, match="DummyVecEnv"):
        make_vec_env(Plain, vec_env_cls=native)


def test_own_vec_env_classes_are_not_taken_for_native(native):
    class Own(DummyVecEnv):
        pass

    env = make_vec_env("CartPole-v1", vec_env_cls=Own, wrapper_class=Monitor)
    assert isinstance(env, Own)
    assert isinstance(env, VecEnv)


def test_make_atari_env_wraps_for_atari(monkeypatch):
    calls = {}
    monkeypatch.setattr(
        env_util, "make_vec_env", lambda env_id, **kwargs: calls.update(kwargs, env_id=env_id)
    )
    env_util.make_atari_env("Pong-v4", n_envs=2, seed=1, wrapper_kwargs={"noop_max": 3})
    assert calls["wrapper_class"] is env_util.AtariWrapper
    assert (calls["env_id"], calls["n_envs"], calls["seed"]) == ("Pong-v4", 2, 1)
    assert calls["wrapper_kwargs"] == {"noop_max": 3}
