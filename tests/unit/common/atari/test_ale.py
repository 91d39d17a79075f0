"""SB3's Atari wrappers around a game of ale-py."""

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN
from mlx_baselines3.common.atari_wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    WarpFrame,
)
from mlx_baselines3.common.env_util import is_wrapped, make_atari_env
from mlx_baselines3.common.vec_env import VecFrameStack

GAME = "BreakoutNoFrameskip-v4"


@pytest.fixture(autouse=True, scope="module")
def games():
    """Gymnasium before 1.0 found the games by itself, later ones are told."""
    if GAME not in gym.registry:
        gym.register_envs(ale_py)


def step(env, action):
    return env.step(np.array([action]))


def test_default_wrappers_and_frames():
    env = make_atari_env(GAME, n_envs=1, seed=0)
    assert env.observation_space == spaces.Box(0, 255, (84, 84, 1), np.uint8)
    for kind in (NoopResetEnv, MaxAndSkipEnv, EpisodicLifeEnv, FireResetEnv, WarpFrame, ClipRewardEnv):
        assert is_wrapped(env.envs[0], kind)
    obs = env.reset()
    assert obs.shape == (1, 84, 84, 1)
    assert obs.dtype == np.uint8
    assert obs.max() > 0
    env.close()


def test_one_seed_one_game_and_clipped_rewards():
    def play():
        env = make_atari_env(GAME, n_envs=2, seed=3)
        steps, actions = [env.reset()], np.random.default_rng(0).integers(0, 4, (150, 2))
        rewards = []
        for row in actions:
            obs, reward, _, _ = env.step(row)
            steps.append(obs)
            rewards.append(reward)
        env.close()
        return np.stack(steps), np.stack(rewards)

    first, second = play(), play()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert set(np.unique(first[1])) == {0.0, 1.0}


def test_a_lost_life_ends_an_episode_but_not_the_game():
    env = make_atari_env(GAME, n_envs=1, seed=0)
    env.reset()
    lives = [env.get_attr("unwrapped")[0].ale.lives()]
    infos = []
    for _ in range(1500):
        _, _, dones, info = step(env, 1)
        if dones[0]:
            infos.append(info[0])
            lives.append(env.get_attr("unwrapped")[0].ale.lives())
        if "episode" in info[0]:
            break
    # Five lives: Monitor, inside the wrappers, sees the end of the game only.
    assert len(infos) == 5
    assert lives == [5, 4, 3, 2, 1, 5]
    assert [("episode" in info) for info in infos] == [False] * 4 + [True]
    env.close()


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_frames_are_skipped(frame_skip):
    env = make_atari_env(GAME, seed=0, wrapper_kwargs={"frame_skip": frame_skip, "noop_max": 0})
    env.reset()
    ale = env.get_attr("unwrapped")[0].ale
    before = ale.getEpisodeFrameNumber()
    for _ in range(5):
        step(env, 0)
    assert ale.getEpisodeFrameNumber() - before == 5 * frame_skip
    env.close()


@pytest.mark.parametrize("algorithm", [A2C, DQN])
def test_learning_from_stacked_frames(algorithm, tmp_path):
    env = VecFrameStack(make_atari_env(GAME, seed=0), 4)
    assert env.observation_space.shape == (84, 84, 4)
    kwargs = (
        {"n_steps": 8} if algorithm is A2C else {"buffer_size": 64, "learning_starts": 8, "batch_size": 4}
    )
    features = {"features_extractor_kwargs": {"features_dim": 16}}
    model = algorithm("CnnPolicy", env, policy_kwargs=features, **kwargs).learn(16)
    assert model.observation_space.shape == (4, 84, 84)
    obs = env.reset()
    action, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], action)
    env.close()
