"""Vectors that take one integer as seed, and SuperSuit's, whose infos are a list."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.vec_env import GymVecEnv, VecMonitor, as_vec_env, is_vector_env

SHORT = {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "device": "cpu"}


class OneSeed:
    """A vector of random numbers that is seeded as Gymnasium's contract says: with an int or None."""

    num_envs = 2
    metadata = {"autoreset_mode": "NEXT_STEP"}
    render_mode = None
    single_observation_space = spaces.Box(0, 1, shape=(2,), dtype=np.float64)
    single_action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            assert type(seed) is int, seed
            self.random = np.random.default_rng(seed)
        self.seed, self.t = seed, 0
        return self.random.random((2, 2)), {}

    def step(self, actions):
        self.t = self.t % 5 + 1
        no = np.zeros(2, bool)
        return self.random.random((2, 2)), np.ones(2), no | (self.t == 4), no, {}

    def close(self):
        pass


def first_observations(env, seed):
    model = PPO("MlpPolicy", env, seed=seed, **SHORT).learn(16)
    return np.array(model.rollout_buffer.observations)


def test_a_vector_that_takes_one_integer_is_seeded():
    runs = [first_observations(OneSeed(), seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@pytest.mark.skipif(not hasattr(gym, "make_vec"), reason="Gymnasium 0.29 and later")
def test_the_vector_that_gymnasium_registers_for_cartpole_is_seeded():
    kwargs = {"vectorization_mode": "vector_entry_point"}
    if gym.__version__.startswith("0."):
        pytest.skip("its vector is without autoreset")
    runs = [first_observations(gym.make_vec("CartPole-v1", num_envs=2, **kwargs), seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_seeds_go_to_one_reset_only_and_as_plain_numbers():
    vector = OneSeed()
    env = GymVecEnv(vector)
    assert env.seed(np.int64(7)) == [7, 8]
    env.reset()
    assert vector.seed == 7
    env.reset()
    assert vector.seed is None


def test_an_integer_gives_sync_vectors_the_seeds_of_a_list():
    envs = [gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3) for _ in range(2)]
    env = GymVecEnv(envs[0])
    env.seed(5)
    np.testing.assert_array_equal(env.reset(), envs[1].reset(seed=[5, 6, 7])[0])


def test_seeds_that_do_not_follow_each_other_stay_a_list():
    vector = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    env = GymVecEnv(vector)
    env._seeds = [3, 3]
    first, second = env.reset()
    np.testing.assert_array_equal(first, second)
    env._seeds = [None, 3]
    np.testing.assert_array_equal(env.reset()[1], second)


class Agents(gym.vector.VectorEnv):
    """
    Three agents of one game in SuperSuit's form: spaces of one agent, infos in a list, dones as bytes, no
    call of VectorEnv.__init__. Agent 0 has ended after two steps, all after four; then the game starts anew
    in the same step.
    """

    def __init__(self, shared_infos=False):
        self.num_envs, self.metadata, self.render_mode = 3, {"render_modes": ["rgb_array"]}, "rgb_array"
        self.observation_space = spaces.Box(-100, 100, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self.shared_infos, self.seeds, self.closed = shared_infos, [], False

    def _observe(self):
        return np.full((3, 2), self.t, np.float32) + np.arange(3, dtype=np.float32)[:, None] * 10

    def reset(self, seed=None, options=None):
        self.seeds.append(seed if seed is None else seed + 0)
        self.t = 0
        return self._observe(), [[], []] if self.shared_infos else [{"fresh": i} for i in range(3)]

    def step(self, actions):
        assert len(actions) == 3
        self.t += 1
        infos = [{}] * 3 if self.shared_infos else [{"t": self.t} for _ in range(3)]
        terms = np.array([self.t >= 2, self.t == 4, False], np.uint8)
        truncs = np.array([False, False, self.t == 4], np.uint8)
        obs = self._observe()
        if self.t == 4:
            infos = [{**info, "terminal_observation": row} for info, row in zip(infos, obs, strict=True)]
            obs = self.reset()[0]
        return obs, np.array([1, 2, 3], np.float32), terms, truncs, infos

    def render(self):
        return np.full((4, 6, 3), self.t, np.uint8)

    def close(self, **kwargs):
        self.closed = True


def test_supersuits_vector_is_adapted():
    env = as_vec_env(Agents())
    assert isinstance(env, GymVecEnv)
    assert (env.num_envs, env.observation_space.shape, env.action_space) == (3, (2,), spaces.Discrete(2))
    env.seed(3)
    assert env.reset()[:, 0].tolist() == [0, 10, 20]
    assert env.env.seeds == [3]
    assert env.reset_infos == [{"fresh": 0}, {"fresh": 1}, {"fresh": 2}]
    steps = [env.step(np.zeros(3, int)) for _ in range(5)]
    assert [dones.tolist() for _, _, dones, _ in steps] == [
        [False] * 3, [True, False, False], [True, False, False], [True] * 3, [False] * 3,
    ]  # fmt: skip
    assert steps[0][1].tolist() == [1, 2, 3]
    # The game goes on without agent 0: where it ended is what it saw.
    assert steps[1][3][0]["terminal_observation"].tolist() == [2, 2]
    assert "terminal_observation" not in steps[1][3][1]
    assert steps[3][0][:, 0].tolist() == [0, 10, 20]
    assert [info["terminal_observation"].tolist() for info in steps[3][3]] == [[4, 4], [14, 14], [24, 24]]
    assert [info["TimeLimit.truncated"] for info in steps[3][3]] == [False, False, True]
    assert steps[4][3][2] == {"t": 1, "TimeLimit.truncated": False}
    assert [image.shape for image in env.get_images()] == [(4, 6, 3)]
    env.close()
    assert env.env.closed


def test_infos_that_share_a_dict_are_taken_apart():
    """SuperSuit's processes: one empty dict for all who have none, resets with a list for each process."""
    env = GymVecEnv(Agents(shared_infos=True))
    env.reset()
    assert env.reset_infos == [{}, {}, {}]
    for _ in range(2):
        infos = env.step(np.zeros(3, int))[3]
    assert ["terminal_observation" in info for info in infos] == [True, False, False]


def test_an_algorithm_learns_from_supersuits_vector():
    model = PPO("MlpPolicy", Agents(), seed=0, **{**SHORT, "batch_size": 24}).learn(24)
    assert isinstance(model.get_env(), VecMonitor)
    assert model.num_timesteps == 24
    assert {episode["l"] for episode in model.ep_info_buffer} >= {2, 4}


def test_a_single_environment_that_counts_itself_is_no_vector():
    env = gym.make("CartPole-v1").unwrapped
    env.num_envs = 1
    assert not is_vector_env(env)


def test_pettingzoos_environments_are_named():
    class Parallel:
        possible_agents = ["one", "two"]

    with pytest.raises(ValueError, match="PettingZoo's, and has several agents") as caught:
        PPO("MlpPolicy", Parallel())
    assert "supersuit.pettingzoo_env_to_vec_env_v1(parallel_env)" in str(caught.value)
