import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import CloudpickleWrapper, DummyVecEnv, VecCheckNan, VecNormalize
from mlx_baselines3.common.vec_env.base_vec_env import tile_images
from mlx_baselines3.common.vec_env.patch_gym import _convert_space, _patch_env
from mlx_baselines3.common.vec_env.util import copy_value, dict_to_obs, obs_space_info
from support.vec_env_doubles import CountingEnv, DictEnv, ModelessEnv, NestedEnv, ReusingEnv, TupleEnv

ACTIONS = np.zeros(2, dtype=np.int64)


def make(*lengths, **kwargs):
    return DummyVecEnv([lambda n=n: CountingEnv(n, **kwargs) for n in lengths])


def test_steps_and_autoreset():
    env = make(2, 3)
    assert env.reset().tolist() == [[0, 0], [0, 0]]
    obs, rewards, dones, infos = env.step(ACTIONS)
    assert obs.tolist() == [[1, 10], [1, 10]]
    assert rewards.tolist() == [1, 1]
    assert dones.tolist() == [False, False]
    assert infos[0] == {"t": 1, "nested": {"list": [1]}, "TimeLimit.truncated": False}
    obs, rewards, dones, infos = env.step(ACTIONS)
    assert obs.tolist() == [[0, 0], [2, 20]]
    assert rewards.tolist() == [2, 2]
    assert dones.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [2, 20]
    assert "terminal_observation" not in infos[1]
    assert (obs.dtype, rewards.dtype, dones.dtype) == (np.float32, np.float32, bool)


def test_a_truncated_episode_says_so():
    env = make(1, truncate=True)
    env.reset()
    _, _, dones, infos = env.step(ACTIONS[:1])
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"] is True


def test_nothing_returned_is_shared_with_the_environment():
    env = DummyVecEnv([ReusingEnv])
    first = env.reset()
    second, _, _, infos_1 = env.step(ACTIONS[:1])
    third, _, _, infos_2 = env.step(ACTIONS[:1])
    fourth, _, _, infos_3 = env.step(ACTIONS[:1])
    assert [float(obs[0, 0]) for obs in (first, second, third, fourth)] == [0, 1, 0, 1]
    assert infos_2[0]["terminal_observation"].tolist() == [2, 20]
    assert "terminal_observation" not in infos_1[0]
    assert "terminal_observation" not in infos_3[0]
    assert env.envs[0].shared_info == {}


def test_nested_infos_are_copies():
    env = make(5)
    env.reset()
    env.step(ACTIONS[:1])[3][0]["nested"]["list"].append("mine")
    assert env.step(ACTIONS[:1])[3][0]["nested"]["list"] == [2]
    source = {"array": np.arange(3), "deep": {"x": [1]}, "objects": np.array([[1], None], dtype=object)}
    duplicate = copy_value(source)
    duplicate["array"][0] = 9
    duplicate["deep"]["x"].append(2)
    duplicate["objects"][0].append(2)
    assert source["array"].tolist() == [0, 1, 2]
    assert source["deep"] == {"x": [1]}
    assert source["objects"][0] == [1]


def test_structured_observations():
    env = DummyVecEnv([DictEnv, DictEnv])
    env.reset()
    obs = env.step(ACTIONS)[0]
    assert list(obs) == ["a", "image", "n"]
    assert obs["a"].tolist() == [[1, 10]] * 2
    assert obs["image"].shape == (2, 4, 5, 3)
    assert obs["image"].dtype == np.uint8
    assert obs["n"].tolist() == [1, 1]
    env = DummyVecEnv([TupleEnv, TupleEnv])
    env.reset()
    numbers, vectors = env.step(ACTIONS)[0]
    assert numbers.tolist() == [1, 1]
    assert vectors.tolist() == [[1, 10]] * 2


def test_seeds_and_options_are_used_once():
    env = make(3, 3, 3)
    assert list(env.seed(5)) == [5, 6, 7]
    env.set_options({"level": 2})
    env.reset()
    assert env.get_attr("last_seed") == [5, 6, 7]
    assert env.get_attr("last_options") == [{"level": 2}] * 3
    assert env.reset_infos == [{"seeded": 5}, {"seeded": 6}, {"seeded": 7}]
    env.set_options([{"a": 1}, {"b": 2}, {}])
    env.reset()
    assert env.get_attr("last_seed") == [None] * 3
    assert env.get_attr("last_options") == [{"a": 1}, {"b": 2}, None]
    with pytest.raises(ValueError, match="2 dicts for 3 environments"):
        env.set_options([{}, {}])


def test_seed_without_argument_follows_numpy():
    env = make(3, 3)
    np.random.seed(11)  # noqa: NPY002 - the generator that set_random_seed controls
    expected = int(np.random.randint(0, 2**32 - 1, dtype=np.uint32))  # noqa: NPY002
    np.random.seed(11)  # noqa: NPY002
    assert list(env.seed()) == [expected, expected + 1]


def test_attributes_and_methods():
    env = make(3, 4, 5)
    assert env.get_attr("length") == [3, 4, 5]
    assert env.get_attr("length", indices=1) == [4]
    assert env.get_attr("length", indices=np.int64(-1)) == [5]
    assert env.env_method("add", 1, b=10, indices=[0, 2]) == [14, 16]
    env.set_attr("length", 9, indices=[1])
    assert env.get_attr("length") == [3, 9, 5]
    assert env.has_attr("length")
    assert not env.has_attr("nothing")
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    assert env.unwrapped is env


def test_env_is_wrapped():
    env = DummyVecEnv([CountingEnv, lambda: Monitor(CountingEnv())])
    assert env.env_is_wrapped(Monitor) == [False, True]
    assert env.env_is_wrapped(gym.Wrapper, indices=0) == [False]


def test_close_closes_every_environment():
    env = make(3, 3)
    env.close()
    assert env.get_attr("closed") == [True, True]


def test_render_tiles_the_images():
    env = make(3, 3, 3)
    env.reset()
    image = env.render()
    assert image.shape == (4, 6, 3)
    assert np.array_equal(env.render("rgb_array"), image)
    assert env.metadata["render_fps"] == 7
    with pytest.warns(UserWarning, match="mode='ansi'"):
        assert env.render("ansi") is None


def test_render_without_a_mode_warns():
    env = make(3, render_mode=None)
    with pytest.warns(UserWarning, match="without a `render_mode`"):
        assert env.render() is None
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.get_images() == [None]
    with pytest.warns(UserWarning, match="render_mode"):
        assert DummyVecEnv([ModelessEnv]).render_mode is None


def test_tile_images_layout():
    images = [np.full((1, 2, 1), value) for value in (1, 2, 3)]
    assert tile_images(images)[:, :, 0].tolist() == [[1, 1, 2, 2], [3, 3, 0, 0]]
    five = [np.full((1, 1, 1), value) for value in range(1, 6)]
    assert tile_images(five)[:, :, 0].tolist() == [[1, 2], [3, 4], [5, 0]]


def test_bad_construction_and_bad_actions():
    with pytest.raises(ValueError, match="at least one"):
        DummyVecEnv([])
    one = CountingEnv()
    with pytest.raises(ValueError, match="same environment instance"):
        DummyVecEnv([lambda: one, lambda: one])
    with pytest.raises(NotImplementedError, match="Nested"):
        DummyVecEnv([NestedEnv])
    with pytest.raises(AssertionError, match="same for all environments"):
        DummyVecEnv([CountingEnv, lambda: CountingEnv(render_mode=None)])
    env = make(3, 3)
    env.reset()
    with pytest.raises(ValueError, match="2 environments, got 1"):
        env.step(np.zeros(1, dtype=np.int64))
    assert env.step(ACTIONS)[0].tolist() == [[1, 10]] * 2


def test_patching_leaves_gymnasium_alone_and_refuses_strangers():
    env, space = CountingEnv(), spaces.Discrete(2)
    assert _patch_env(env) is env
    assert _convert_space(space) is space
    with pytest.raises(ValueError, match="int"):
        _patch_env(3)
    with pytest.raises(ValueError, match="int"):
        _convert_space(3)


def test_space_helpers():
    keys, shapes, dtypes = obs_space_info(spaces.Discrete(3))
    assert (keys, shapes, dtypes) == ([None], {None: ()}, {None: np.dtype(np.int64)})
    assert dict_to_obs(spaces.Discrete(3), {None: np.array([1])}).tolist() == [1]
    with pytest.raises(AssertionError):
        dict_to_obs(spaces.Discrete(3), {"a": np.array([1])})


def test_wrapper_attribute_lookup():
    class Named(VecNormalize):
        def who(self):
            return type(self)

    inner = make(3, 3)
    env = VecCheckNan(Named(inner))
    assert env.who() is Named
    assert env.buf_obs is inner.buf_obs
    assert env.unwrapped is inner
    twice = VecCheckNan(Named(Named(inner)))
    with pytest.raises(AttributeError, match="ambiguous"):
        _ = twice.who
    with pytest.raises(AttributeError, match="nonexistent"):
        _ = env.nonexistent


def test_wrappers_can_be_deep_copied():
    env = VecCheckNan(make(3, 3))
    env.reset()
    env.step(ACTIONS)
    duplicate = copy.deepcopy(env)
    duplicate.step(ACTIONS)
    assert env.get_attr("t") == [1, 1]
    assert duplicate.get_attr("t") == [2, 2]


def test_cloudpickle_wrapper_carries_lambdas():
    wrapper = CloudpickleWrapper(lambda x: x + 1)
    state = wrapper.__getstate__()
    restored = CloudpickleWrapper.__new__(CloudpickleWrapper)
    restored.__setstate__(state)
    assert restored.var(2) == 3


def test_more_actions_than_environments_are_no_error_fewer_are():
    env = DummyVecEnv([lambda: CountingEnv()])
    env.reset()
    # Programs step a single environment with `action_space.sample()` of several numbers.
    np.testing.assert_array_equal(env.step(np.array([0, 9, 9]))[1], [1.0])
    with pytest.raises(ValueError, match="one action for each of 1 environments, got 0"):
        env.step(np.zeros(0, int))
