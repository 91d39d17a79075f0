"""Vector environments that spend a step on resetting: what training sees of it."""

import gymnasium as gym
import numpy as np
import pytest

from mlx_baselines3 import DQN, PPO
from mlx_baselines3.common.training.dead_steps import without_dead_steps
from mlx_baselines3.common.vec_env import DummyVecEnv, GymVecEnv
from support.next_step_env import Counting, NextStep


def dummy(lengths, truncate):
    return DummyVecEnv([lambda length=length: Counting(length, truncate) for length in lengths])


REPLAY = {"learning_starts": 30, "train_freq": 4, "batch_size": 8, "buffer_size": 200, "seed": 0}
SMALL = {"policy_kwargs": {"net_arch": [4]}}
# All end at once; not so, but whoever is asked to resets.
MASKABLE = [((3, 3), False), ((4,), False), ((2, 3), True)]


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize(("lengths", "reset_mask"), MASKABLE)
def test_dqn_stores_what_a_dummy_vec_env_gives(lengths, reset_mask, truncate):
    vector = GymVecEnv(NextStep(lengths, truncate), reset_mask=reset_mask)
    envs = (vector, dummy(lengths, truncate))
    first, second = (DQN("MlpPolicy", env, **REPLAY, **SMALL).learn(64) for env in envs)
    ours, theirs = first.replay_buffer, second.replay_buffer
    assert ours.pos == theirs.pos == 64 // len(lengths)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.dones.any()
    assert ours.timeouts.any() == truncate
    assert first._episode_num == second._episode_num


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize(("lengths", "reset_mask"), MASKABLE)
def test_ppo_sees_what_a_dummy_vec_env_gives(lengths, reset_mask, truncate):
    vector = GymVecEnv(NextStep(lengths, truncate), reset_mask=reset_mask)
    kwargs = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, **SMALL}
    envs = (vector, dummy(lengths, truncate))
    first, second = (PPO("MlpPolicy", env, **kwargs).learn(16 * len(lengths)) for env in envs)
    ours, theirs = first.rollout_buffer, second.rollout_buffer
    for name in ("observations", "actions", "rewards", "episode_starts", "values", "advantages", "returns"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.episode_starts[1:].any()


@pytest.mark.parametrize("truncate", [False, True])
def test_replay_buffers_hold_true_transitions_only(truncate):
    model = DQN("MlpPolicy", NextStep((2, 3), truncate), **REPLAY, **SMALL).learn(64)
    # Steps of 11 rows: an episode's, and its last transition once more in the place of the dead step,
    # which is not there where both end at once, in row 10.
    expected = [[0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1], [0, 1, 2, 2, 0, 1, 2, 2, 0, 1, 2]]
    assert model.env.unwrapped.n_dead_steps == 2 * (3 + 2) + 3 + 2
    buffer, rows = model.replay_buffer, slice(0, 32)
    assert buffer.pos == 32
    for env, length in enumerate((2, 3)):
        steps = np.resize(expected[env], 32)
        np.testing.assert_array_equal(buffer.observations[rows, env, 0], steps)
        np.testing.assert_array_equal(buffer.next_observations[rows, env, 0], steps + 1)
        np.testing.assert_array_equal(buffer.rewards[rows, env], buffer.actions[rows, env, 0])
        np.testing.assert_array_equal(buffer.next_observations[rows, env, 1], buffer.actions[rows, env, 0])
        np.testing.assert_array_equal(buffer.dones[rows, env], steps == length - 1)
        np.testing.assert_array_equal(buffer.timeouts[rows, env], (steps == length - 1) & truncate)
    # Each episode counts once: 4 and 3 in 11 rows.
    assert model._episode_num == 2 * (4 + 3) + 3 + 2


def test_dictionaries_of_observations_are_replaced_by_key():
    before = ({"a": np.array([[1.0], [2.0]])}, np.array([[3], [4]]), np.array([5.0, 6.0]))
    given = ({"a": np.array([[7.0], [8.0]])}, np.array([[0], [1]]), np.array([0.0, 9.0]))
    infos = [{"autoreset_step": True}, {}]
    obs, actions, rewards = without_dead_steps(given, before, infos)
    np.testing.assert_array_equal(obs["a"], [[1], [8]])
    np.testing.assert_array_equal(actions, [[3], [1]])
    np.testing.assert_array_equal(rewards, [5, 9])
    # The environments' own arrays stay as they are.
    assert (given[0]["a"][0, 0], given[2][0]) == (7, 0)
    assert without_dead_steps(given, before, [{}, {}]) is given


class Wrapped:
    """A wrapper of vectors, as gymnasium.wrappers.vector has them."""

    def __init__(self, env):
        self.env = self.unwrapped = env

    def __getattr__(self, name):
        return getattr(self.env, name)


def test_wrapped_vectors_of_gymnasium_are_asked_to_reset():
    env = GymVecEnv(Wrapped(gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3)))
    env.reset()
    n_episodes = 0
    for _ in range(60):
        _, rewards, dones, infos = env.step(np.ones(3, int))
        np.testing.assert_array_equal(rewards, 1)
        assert ["terminal_observation" in info for info in infos] == dones.tolist()
        n_episodes += dones.sum()
    assert n_episodes > 12
    assert env.n_dead_steps == 0
