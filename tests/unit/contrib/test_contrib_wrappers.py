"""ActionMasker and TimeFeatureWrapper."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from mlx_baselines3.common.env_checker import check_env
from mlx_baselines3.common.envs import BitFlippingEnv, IdentityEnv
from mlx_baselines3.contrib.common.wrappers import ActionMasker, TimeFeatureWrapper


class Game(IdentityEnv):
    """Allows the right action only, and says so in several ways."""

    size = 4

    def __init__(self):
        super().__init__(dim=self.size)

    def legal(self):
        return [choice == self.state for choice in range(self.size)]

    def legal_of(self, env):
        assert env.unwrapped is self
        return self.legal()


@pytest.mark.parametrize("how", [lambda env: env.unwrapped.legal(), "legal", "legal_of"])
def test_masks_come_from_a_function_or_a_method_by_name(how):
    env = ActionMasker(TimeLimit(Game(), 3), how)
    for _ in range(5):
        state, _ = env.reset()
        assert np.flatnonzero(env.action_masks()).tolist() == [state]


def test_a_copy_asks_its_own_environment():
    env = ActionMasker(Game(), "legal")
    env.unwrapped.state = 1
    twin = copy.deepcopy(env)
    twin.unwrapped.state = 2
    assert (env.action_masks(), twin.action_masks()) == (
        [False, True, False, False],
        [False, False, True, False],
    )


def test_an_attribute_that_is_no_method_is_refused():
    with pytest.raises(ValueError, match="size is not a method but 4"):
        ActionMasker(Game(), "size")
    with pytest.raises(AttributeError):
        ActionMasker(Game(), "absent")


class Counter(gym.Env):
    """Observes how many steps were taken."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full(2, self.count, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize(("test_mode", "expected"), [(False, [1, 0.75, 0.5, 0.25]), (True, [1, 1, 1, 1])])
def test_the_remaining_share_of_the_episode_is_appended(test_mode, expected):
    env = TimeFeatureWrapper(Counter(), max_steps=4, test_mode=test_mode)
    assert env.observation_space == spaces.Box(
        np.array([-np.inf, -np.inf, 0], np.float32), np.array([np.inf, np.inf, 1], np.float32)
    )
    for _ in range(2):
        seen = [env.reset()[0], *(env.step(0)[0] for _ in range(3))]
        np.testing.assert_array_equal(seen, [[n, n, share] for n, share in enumerate(expected)])
        assert seen[0].dtype == np.float32
    assert env.env.observation_space.shape == (2,)


def test_the_time_limit_of_the_specification_comes_first():
    env = TimeFeatureWrapper(gym.make("CartPole-v1", max_episode_steps=10), max_steps=999)
    env.reset(seed=0)
    np.testing.assert_allclose([env.step(0)[0][-1] for _ in range(3)], [0.9, 0.8, 0.7], rtol=1e-6)
    check_env(TimeFeatureWrapper(gym.make("CartPole-v1").unwrapped), warn=False)


class Goals(BitFlippingEnv):
    def convert_if_needed(self, state):
        return state.astype(np.float32)

    def __init__(self):
        super().__init__(n_bits=3)
        box = spaces.Box(0, 1, (3,), np.float32)
        self.observation_space = spaces.Dict(
            dict.fromkeys(("observation", "achieved_goal", "desired_goal"), box)
        )


def test_dict_observations_get_it_under_observation():
    env = TimeFeatureWrapper(Goals(), max_steps=2)
    obs, _ = env.reset()
    assert obs in env.observation_space
    assert obs["observation"].tolist()[3:] == [1.0]
    assert env.step(0)[0]["observation"].tolist()[3:] == [0.5]


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(3), spaces.Box(0, 1, (2, 2)), spaces.Dict({"other": spaces.Box(0, 1, (2,))})],
)
def test_other_observations_are_refused(space):
    env = Counter()
    env.observation_space = space
    with pytest.raises(AssertionError, match="Box observations"):
        TimeFeatureWrapper(env)
