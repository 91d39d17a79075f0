"""Checkpoints: another process goes on as if nothing had happened."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, HerReplayBuffer
from mlx_baselines3.common.callbacks import CheckpointCallback, EveryNTimesteps
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.envs import BitFlippingEnv
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    NativeVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecNormalize,
)
from support.checkpoint_runs import CASES, assert_same_parameters, learn, make, saved
from support.random_env import RandomEnv

SMALL = {"policy_kwargs": {"net_arch": [4]}}
PPO_ARGS = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, **SMALL}
REPLAY = {"buffer_size": 50, "learning_starts": 5, "batch_size": 4, **SMALL}


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_from_each_checkpoint(case, tmp_path):
    algorithm, *_, total = CASES[case]
    whole = make(case)
    rows = learn(whole, total)
    watched = make(case)
    freq = 1100 if case == "ddpg" else 41
    assert learn(watched, total, CheckpointCallback(freq, str(tmp_path), resumable=True)) == rows
    paths = list(tmp_path.iterdir())
    assert len(paths) > 1
    for path in paths:
        resumed = algorithm.load_checkpoint(path)
        steps = resumed.num_timesteps
        assert path.name == f"rl_model_{steps}_steps.zip"
        later = learn(resumed, total - steps, fresh=False) if steps < total else []
        assert later == rows[len(rows) - len(later) :]
        assert_same_parameters(whole, resumed)
        assert resumed.num_timesteps == whole.num_timesteps


@pytest.mark.parametrize("case", ["ppo", "sac", "td3"])
def test_between_two_calls_of_learn(case):
    model = make(case)
    learn(model, 100)
    checkpoint = saved(model)
    (log,) = model.logger.output_formats
    before = len(log.rows)
    model.learn(100, log_interval=1, reset_num_timesteps=False)
    rows = log.rows[before:]
    resumed = type(model).load_checkpoint(checkpoint)
    # Whatever else draws random numbers meanwhile does no harm.
    resumed.predict(np.zeros(resumed.observation_space.shape, np.float32))
    np.random.seed(9)  # noqa: NPY002
    assert learn(resumed, 100, fresh=False) == rows
    assert_same_parameters(model, resumed)


def test_a_new_run_or_a_new_seed_is_no_continuation():
    model = make("ppo")
    learn(model, 48)
    checkpoint = saved(model)
    first = PPO.load_checkpoint(checkpoint)
    first.set_random_seed(7)
    assert first._resumed is None
    checkpoint.seek(0)
    second = PPO.load_checkpoint(checkpoint)
    second.learn(48)
    assert (second.num_timesteps, second._resumed) == (48, None)


def test_python_environments_start_anew_and_say_so(tmp_path):
    env = make_vec_env(lambda: RandomEnv(spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)), n_envs=2)
    model = DQN("MlpPolicy", env, optimize_memory_usage=False, **REPLAY).learn(20)
    model.save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"environments are DummyVecEnv, which cannot be made.*`env`"):
        DQN.load_checkpoint(tmp_path / "checkpoint")
    with pytest.warns(UserWarning, match="running episodes of DummyVecEnv, which start anew") as said:
        resumed = DQN.load_checkpoint(tmp_path / "checkpoint", env=env)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert resumed._last_obs is None
    assert resumed.learn(10, reset_num_timesteps=False).num_timesteps >= 30


def test_goals_and_their_episodes():
    env = BitFlippingEnv(n_bits=3)
    model = DQN(
        *("MultiInputPolicy", env),
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"copy_info_dict": True},
        **REPLAY,
    )
    model.learn(40)
    with pytest.warns(UserWarning, match="start anew"):
        resumed = DQN.load_checkpoint(saved(model), env=env)
    old, new = model.replay_buffer, resumed.replay_buffer
    assert new.infos.shape == old.infos.shape
    assert repr(new.infos.tolist()) == repr(old.infos.tolist())
    np.testing.assert_array_equal(new.ep_start, old.ep_start)
    for key, column in old.observations.items():
        np.testing.assert_array_equal(new.observations[key], column)
    # Episodes that were running end where they were.
    assert (new._current_ep_start == new.pos).all()
    resumed.learn(20, reset_num_timesteps=False)


def test_wrappers_go_on_where_they_were():
    def stacked():
        return VecCheckNan(VecFrameStack(VecNormalize(NativeVecEnv("Pendulum-v1", 2, seed=0)), n_stack=3))

    model = A2C("MlpPolicy", stacked(), seed=0, **SMALL).learn(20)
    checkpoint = saved(model)
    with pytest.raises(ValueError, match=r"VecCheckNan.VecFrameStack.VecNormalize.NativeVecEnv.*`env`"):
        A2C.load_checkpoint(checkpoint)
    checkpoint.seek(0)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        A2C.load_checkpoint(checkpoint, env=NativeVecEnv("Pendulum-v1", 2))
    checkpoint.seek(0)
    with pytest.raises(ValueError, match="expected the same, got 2 with"):
        A2C.load_checkpoint(checkpoint, env=VecFrameStack(VecNormalize(NativeVecEnv("Pendulum-v1", 2)), 3))
    checkpoint.seek(0)
    resumed = A2C.load_checkpoint(checkpoint, env=stacked())
    np.testing.assert_array_equal(
        resumed.env.venv.stacked_obs.stacked_obs, model.env.venv.stacked_obs.stacked_obs
    )
    normalizers = [m.get_vec_normalize_env() for m in (model, resumed)]
    np.testing.assert_array_equal(normalizers[1].returns, normalizers[0].returns)
    for each in (model, resumed):
        each.learn(20, reset_num_timesteps=False)
    assert_same_parameters(model, resumed)


def test_native_environments_are_made_with_their_arguments(tmp_path):
    env = NativeVecEnv(
        "CartPole-v1", 2, seed=0, monitor_dir=str(tmp_path), env_kwargs={"max_episode_steps": 9}
    )
    model = PPO("MlpPolicy", env, **PPO_ARGS).learn(64)
    before = (tmp_path / "0.monitor.csv").read_text()
    resumed = PPO.load_checkpoint(saved(model), monitor_dir=str(tmp_path))
    assert resumed.env.get_attr("spec")[0].max_episode_steps == 9
    resumed.learn(64, reset_num_timesteps=False)
    # The file goes on.
    assert (tmp_path / "0.monitor.csv").read_text().startswith(before)
    assert max(info["l"] for info in resumed.ep_info_buffer) <= 9
    # A checkpoint does not decide what is written, not even where the run's files are still there.
    files = {path: path.read_text() for path in tmp_path.iterdir()}
    PPO.load_checkpoint(saved(resumed)).learn(32, reset_num_timesteps=False)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_callback_that_is_not_told_of_rollouts(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", **PPO_ARGS)
    child = CheckpointCallback(1, str(tmp_path), resumable=True)
    with pytest.raises(RuntimeError, match="not to another callback"):
        model.learn(16, callback=EveryNTimesteps(8, child))


def test_what_cannot_be_expressed_is_named_at_load():
    class Odd(gym.spaces.Discrete):
        """A space that no import path leads to."""

    model = PPO("MlpPolicy", DummyVecEnv([lambda: gym.make("CartPole-v1")]), **PPO_ARGS)
    model.action_space = Odd(2)
    with pytest.warns(UserWarning, match="`action_space` cannot be kept"):
        stream = saved(model)
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with (
        pytest.warns(UserWarning, match="Could not restore `action_space`"),
        pytest.raises(KeyError, match="action_space were not given"),
    ):
        PPO.load_checkpoint(stream, env=env)
    stream.seek(0)
    with pytest.warns(UserWarning, match="generator of the action space, the running episodes of Dummy"):
        PPO.load_checkpoint(stream, env=env, custom_objects={"action_space": env.action_space})
