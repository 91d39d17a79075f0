"""evaluate_policy: what is counted, for whom, and what the callback sees."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import DummyVecEnv, VecMonitor


class Countdown(gym.Env):
    """Episode k (from 1) of an environment lasts ``length`` steps and each step is worth ``k``."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=3):
        self.length, self.episode, self.rendered = length, 0, 0

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.left = self.length
        return np.array([self.left], np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.array([self.left], np.float32), float(self.episode), self.left == 0, False, {}


class Half(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2


class EndsEveryStep(gym.Wrapper):
    """Reports an end after each step, as Atari's lost life does; only a true end resets."""

    over = True

    def reset(self, **kwargs):
        if self.over:
            self.last = self.env.reset(**kwargs)
        return self.last

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.over, self.last = terminated or truncated, (obs, {})
        return obs, reward, True, truncated, info


class Model:
    """Remembers how it was asked."""

    def __init__(self):
        self.calls = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.calls.append((np.array(observation), state, np.array(episode_start), deterministic))
        return np.zeros(len(observation), int), (np.array([len(self.calls)]),)


def test_returns_and_lengths_of_one_env():
    rewards, lengths = evaluate_policy(Model(), Monitor(Countdown(3)), 4, return_episode_rewards=True)
    assert rewards == [3.0, 6.0, 9.0, 12.0]
    assert lengths == [3, 3, 3, 3]
    mean, std = evaluate_policy(Model(), Monitor(Countdown(3)), 4)
    assert mean == 7.5
    assert std == pytest.approx(np.sqrt(11.25))


def test_states_and_episode_starts_reach_the_model():
    model = Model()
    evaluate_policy(model, Monitor(Countdown(2)), 2, deterministic=False)
    assert [call[2].tolist() for call in model.calls] == [[True], [False], [True], [False]]
    assert model.calls[0][1] is None
    assert [call[1][0].item() for call in model.calls[1:]] == [1, 2, 3]
    assert not any(call[3] for call in model.calls)


@pytest.mark.parametrize(("n_envs", "shares"), [(1, [6]), (4, [1, 1, 2, 2]), (7, [0, 1, 1, 1, 1, 1, 1])])
def test_episodes_are_shared_evenly_whatever_their_length(n_envs, shares):
    # environment i has episodes of i + 1 steps: without shares the first one would play most
    env = DummyVecEnv([lambda i=i: Monitor(Countdown(i + 1)) for i in range(n_envs)])
    ended = []
    evaluate_policy(
        Model(), env, 6, callback=lambda scope, _: ended.append(scope["i"]) if scope["done"] else None
    )
    assert [ended.count(i) for i in range(n_envs)] == shares


def test_monitor_knows_better_than_the_wrappers_around_it():
    inside = Half(EndsEveryStep(Monitor(Countdown(3))))
    assert evaluate_policy(Model(), inside, 2, return_episode_rewards=True) == ([3.0, 6.0], [3, 3])
    bare = Half(EndsEveryStep(Countdown(3)))
    got = evaluate_policy(Model(), bare, 2, return_episode_rewards=True, warn=False)
    assert got == ([0.5, 0.5], [1, 1])


def test_warning_without_monitor():
    with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
        evaluate_policy(Model(), Countdown(), 1)
    rewards, _ = evaluate_policy(
        Model(), VecMonitor(DummyVecEnv([Countdown])), 1, return_episode_rewards=True
    )
    assert rewards == [3.0]


def test_callback_sees_the_step():
    seen = []

    def callback(scope, global_scope):
        assert "evaluate_policy" in global_scope
        assert scope["observations"] is not scope["new_observations"]
        names = ("observations", "new_observations", "reward", "done", "info", "i", "model")
        seen.append([scope[name] for name in names])

    model = Model()
    evaluate_policy(model, Monitor(Countdown(2)), 1, callback=callback)
    (obs, new_obs, reward, done, info, index, seen_model), last = seen
    assert (obs.tolist(), new_obs.tolist(), reward, done, index) == ([[2.0]], [[1.0]], 1.0, False, 0)
    assert "episode" not in info
    assert seen_model is model
    assert last[3]
    assert last[4]["episode"]["r"] == 2.0


def test_threshold():
    evaluate_policy(Model(), Monitor(Countdown(3)), 1, reward_threshold=2.99)
    with pytest.raises(AssertionError, match=r"3\.00 < 3\.00"):
        evaluate_policy(Model(), Monitor(Countdown(3)), 1, reward_threshold=3.0)


def test_render_is_called_each_step():
    env = DummyVecEnv([lambda: Monitor(Countdown(3))])
    calls = []
    env.render = lambda: calls.append(1)
    evaluate_policy(Model(), env, 2, render=True)
    assert len(calls) == 6
