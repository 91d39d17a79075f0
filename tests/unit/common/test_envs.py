"""The small test environments."""

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common import envs
from mlx_baselines3.common.env_checker import check_env


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *[(name, {}) for name in envs.__all__],
        ("BitFlippingEnv", {"continuous": True}),
        ("BitFlippingEnv", {"discrete_obs_space": True}),
        ("BitFlippingEnv", {"image_obs_space": True, "channel_first": False}),
        ("FakeImageEnv", {"discrete": False, "channel_first": True, "n_channels": 3}),
    ],
)
def test_they_pass_the_checker_in_silence(name, kwargs):
    check_env(getattr(envs, name)(**kwargs))


class TestIdentity:
    @pytest.mark.parametrize(
        "env",
        [
            envs.IdentityEnv(5, ep_length=3),
            envs.IdentityEnvMultiDiscrete(4, ep_length=3),
            envs.IdentityEnvMultiBinary(4, ep_length=3),
            envs.IdentityEnv(space=spaces.Discrete(7), ep_length=3),
        ],
    )
    def test_reward_for_repeating_the_state(self, env):
        state, _ = env.reset()
        state, reward, terminated, truncated, _ = env.step(state)
        assert (reward, terminated, truncated) == (1.0, False, False)
        other = 1 - state if isinstance(state, np.ndarray) and state.max() <= 1 else state + 1
        state, reward, _, truncated, _ = env.step(other)
        assert (reward, truncated) == (0.0, False)
        assert env.step(state)[3]

    def test_resets_are_counted(self):
        env = envs.IdentityEnv()
        assert env.num_resets == 0
        env.reset(seed=1)
        assert env.num_resets == 1
        assert env.action_space == spaces.Discrete(1)

    def test_box_allows_a_small_error(self):
        env = envs.IdentityEnvBox(low=-2, high=2, eps=0.1)
        state, _ = env.reset()
        state, reward, *_ = env.step(state + np.float32(0.09))
        assert reward == 1.0
        assert env.step(state - np.float32(0.11))[1] == 0.0

    def test_dim_or_space(self):
        with pytest.raises(AssertionError, match="at most one"):
            envs.IdentityEnv(dim=2, space=spaces.Discrete(2))


def test_fake_images():
    env = envs.FakeImageEnv(screen_height=40, screen_width=50, n_channels=3, channel_first=True)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (3, 40, 50)
    ends = [env.step(0)[3] for _ in range(10)]
    assert ends == [False] * 9 + [True]


class TestBitFlipping:
    def test_flipping_the_zeros_solves_it(self):
        env = envs.BitFlippingEnv(n_bits=6)
        obs, _ = env.reset(seed=3)
        zeros = np.flatnonzero(obs["observation"] == 0)
        rewards = []
        for bit in zeros:
            obs, reward, terminated, _, info = env.step(bit)
            rewards.append(reward)
        assert rewards == [-1.0] * (len(zeros) - 1) + [0.0]
        assert terminated
        assert info == {"is_success": True}
        assert obs["achieved_goal"].tolist() == obs["desired_goal"].tolist() == [1] * 6

    def test_truncated_after_max_steps(self):
        env = envs.BitFlippingEnv(n_bits=3, max_steps=2)
        env.reset(seed=0)
        assert [env.step(0)[3], env.step(0)[3]] == [False, True]

    def test_continuous_flips_where_positive(self):
        env = envs.BitFlippingEnv(n_bits=4, continuous=True)
        before = env.reset(seed=0)[0]["observation"]
        after = env.step(np.array([1.0, -1.0, 0.5, 0.0], np.float32))[0]["observation"]
        assert (before != after).tolist() == [True, False, True, False]

    def test_bits_as_a_number_and_as_an_image(self):
        number = envs.BitFlippingEnv(n_bits=4, discrete_obs_space=True)
        number.reset(seed=0)
        assert number.convert_if_needed(np.array([1, 0, 1, 1], np.int8)) == 13
        assert number.convert_to_bit_vector(13, 1).tolist() == [[1, 0, 1, 1]]
        image = envs.BitFlippingEnv(n_bits=4, image_obs_space=True)
        image.reset(seed=0)
        pixels = image.convert_if_needed(np.array([1, 0, 1, 1], np.int8))
        assert pixels.shape == (1, 36, 36)
        assert pixels.ravel()[:5].tolist() == [255, 0, 255, 255, 0]
        assert image.convert_to_bit_vector(pixels, 1).tolist() == [[1.0, 0.0, 1.0, 1.0]]

    @pytest.mark.parametrize("kwargs", [{}, {"discrete_obs_space": True}, {"image_obs_space": True}])
    def test_reward_of_a_batch(self, kwargs):
        env = envs.BitFlippingEnv(n_bits=3, **kwargs)
        env.reset(seed=0)
        goals = [env.convert_if_needed(np.array(bits, np.int8)) for bits in ([1, 1, 1], [0, 1, 1], [1, 1, 1])]
        wanted = np.stack([goals[0]] * 3)
        rewards = env.compute_reward(np.stack(goals).reshape(wanted.shape), wanted, None)
        if kwargs.get("discrete_obs_space"):
            # a buffer keeps a column of floats
            columns = np.array(goals, np.float32)[:, None]
            rewards = env.compute_reward(columns, np.full_like(columns, 7), None)
        assert rewards.tolist() == [0.0, -1.0, 0.0]
        assert rewards.dtype == np.float32

    def test_one_kind_of_observation_only(self):
        with pytest.raises(ValueError, match="both discrete and image"):
            envs.BitFlippingEnv(discrete_obs_space=True, image_obs_space=True)

    def test_seed_and_render(self, capsys):
        env = envs.BitFlippingEnv(render_mode="rgb_array")
        env.seed(5)
        first = env.reset()[0]["observation"].tolist()
        assert env.reset(seed=5)[0]["observation"].tolist() == first
        assert env.render().tolist() == first
        env.render_mode = "human"
        assert env.render() is None
        assert capsys.readouterr().out == f"{np.array(first)}\n"


class TestMultiObs:
    def test_a_walk_along_the_edge(self, capsys):
        env = envs.SimpleMultiObsEnv(random_start=False)
        env.reset()
        cells, rewards = [], []
        for move in [1, 0, 1, 1, 2, 2, 2]:  # down, left (a wall), down, down, right three times
            _, reward, terminated, _, info = env.step(move)
            cells.append(env.state)
            rewards.append(reward)
        assert cells == [4, 4, 8, 12, 13, 14, 15]
        assert rewards == [-0.1] * 6 + [1.0]
        assert terminated
        assert info == {"got_to_end": True}
        env.render()
        assert capsys.readouterr().out == "Went right in state 14, got to state 15\n"

    def test_up_and_continuous_actions(self):
        env = envs.SimpleMultiObsEnv(random_start=False, discrete_actions=False)
        env.reset()
        env.step(np.array([0.1, 0.9, 0.3, 0.2]))
        assert env.state == 4
        env.step(np.array([0.1, 0.2, 0.3, 0.9]))
        assert env.state == 0

    def test_cells_come_from_the_global_generator(self):
        np.random.seed(4)  # noqa: NPY002
        env = envs.SimpleMultiObsEnv(num_col=4, num_row=4, channel_last=False)
        generator = np.random.RandomState(4)
        vectors = generator.random_sample((4, 5))
        images = generator.randint(0, 255, (4, 64, 64), dtype=np.uint8)
        # cell 6: column 1, row 2
        np.testing.assert_array_equal(env.state_mapping[6]["vec"], vectors[1])
        np.testing.assert_array_equal(env.state_mapping[6]["img"], images[2][None])

    def test_cut_after_max_count(self):
        env = envs.SimpleMultiObsEnv(random_start=False)
        env.reset()
        ends = [env.step(0)[3] for _ in range(101)]
        assert ends == [False] * 100 + [True]
