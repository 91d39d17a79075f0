import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.running_mean_std import RunningMeanStd
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecNormalize,
    is_vecenv_wrapped,
    sync_envs_normalization,
    unwrap_vec_normalize,
)
from support.vec_env_doubles import CountingEnv, DictEnv, ImageEnv, TupleEnv

ACTIONS = np.zeros(2, dtype=np.int64)
# The statistics start as 0.0001 samples of mean 0 and variance 1.
PRIOR = 1e-4


def moments(history):
    """Mean and variance of all samples and of the prior, from their sums."""
    history = np.asarray(history, dtype=np.float64)
    count = PRIOR + len(history)
    mean = history.sum(axis=0) / count
    return mean, (PRIOR + (history**2).sum(axis=0)) / count - mean**2


def make(*lengths, env_class=CountingEnv, **kwargs):
    return VecNormalize(DummyVecEnv([lambda n=n: env_class(n) for n in lengths]), **kwargs)


def test_running_statistics_equal_those_of_the_whole_history():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 5, size=(size, 2)) for size in (1, 4, 7)]
    statistics = RunningMeanStd(shape=(2,))
    for batch in batches:
        statistics.update(batch)
    mean, variance = moments(np.concatenate(batches))
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(statistics.var, variance, rtol=1e-12)
    assert statistics.count == pytest.approx(12 + PRIOR)


def test_statistics_combine_and_copy():
    a, b = RunningMeanStd(epsilon=0.0, shape=()), RunningMeanStd(epsilon=0.0, shape=())
    a.update(np.array([1.0, 3.0]))
    b.update(np.array([5.0, 7.0, 9.0]))
    before = a.copy()
    a.combine(b)
    # Of 1 3 5 7 9: mean 5, variance (16 + 4 + 0 + 4 + 16) / 5.
    assert (a.mean, a.var, a.count) == (5, 8, 5)
    assert (before.mean, before.var, before.count) == (2, 1, 2)


def test_observations_and_rewards_follow_the_formulas():
    env = make(3, 5, gamma=0.9, clip_obs=1e9, clip_reward=1e9)
    history = [[0, 0], [0, 0]]
    env.reset()
    returns, return_history = np.zeros(2), []
    for t in range(1, 5):
        obs, rewards, dones, _ = env.step(ACTIONS)
        raw = env.get_original_obs()
        history.extend(raw.tolist())
        mean, variance = moments(history)
        np.testing.assert_allclose(obs, (raw - mean) / np.sqrt(variance + 1e-8), rtol=1e-5, atol=1e-6)
        raw_rewards = np.array([t if t <= 3 else 1, t])
        assert env.get_original_reward().tolist() == raw_rewards.tolist()
        returns = 0.9 * returns + raw_rewards
        return_history.extend(returns)
        np.testing.assert_allclose(
            rewards, raw_rewards / np.sqrt(moments(return_history)[1] + 1e-8), rtol=1e-5
        )
        assert (obs.dtype, rewards.dtype) == (np.float32, np.float32)
        returns[dones] = 0
        np.testing.assert_allclose(env.returns, returns)
    assert list(dones) == [False, False]


def test_terminal_observations_are_normalised():
    env = make(2)
    env.reset()
    env.step(ACTIONS[:1])
    _, _, dones, infos = env.step(ACTIONS[:1])
    assert dones[0]
    # The statistics have seen 0, 1 and, after the reset, 0: not the terminal 2.
    mean, variance = moments([[0, 0], [1, 10], [0, 0]])
    expected = (np.array([2, 20]) - mean) / np.sqrt(variance + 1e-8)
    np.testing.assert_allclose(infos[0]["terminal_observation"], expected, rtol=1e-5)


def test_clipping_and_inverse():
    env = make(9, clip_obs=0.5, clip_reward=0.25)
    env.reset()
    for _ in range(4):
        obs, rewards, _, _ = env.step(ACTIONS[:1])
    assert obs.tolist() == [[0.5, 0.5]]
    assert rewards.tolist() == [0.25]
    loose = make(9, clip_obs=1e6, clip_reward=1e6)
    loose.reset()
    for _ in range(4):
        obs, rewards, _, _ = loose.step(ACTIONS[:1])
    np.testing.assert_allclose(loose.unnormalize_obs(obs), [[4, 40]], rtol=1e-5)
    np.testing.assert_allclose(loose.unnormalize_reward(rewards), [4], rtol=1e-5)


def test_evaluation_leaves_the_statistics_alone():
    env = make(9)
    env.reset()
    env.step(ACTIONS[:1])
    env.training = False
    count, ret_count = env.obs_rms.count, env.ret_rms.count
    env.step(ACTIONS[:1])
    env.reset()
    assert (env.obs_rms.count, env.ret_rms.count) == (count, ret_count)


def test_switched_off():
    env = make(9, norm_obs=False, norm_reward=False)
    env.reset()
    obs, rewards, _, _ = env.step(ACTIONS[:1])
    assert obs.tolist() == [[1, 10]]
    assert rewards.tolist() == [1]
    assert env.unnormalize_reward(rewards).tolist() == [1]
    kept = env.normalize_obs(obs)
    kept[0] = -1
    assert obs.tolist() == [[1, 10]]


def test_chosen_keys_of_a_dict():
    env = make(9, 9, env_class=DictEnv, norm_obs_keys=["a", "image"])
    inner_space = env.venv.observation_space["image"]
    assert env.observation_space["image"] == spaces.Box(-10, 10, shape=(4, 5, 3), dtype=np.float32)
    assert (inner_space.dtype, inner_space.high.max()) == (np.uint8, 255)
    env.reset()
    obs, _, _, _ = env.step(ACTIONS)
    mean, variance = moments([[0, 0], [0, 0], [1, 10], [1, 10]])
    np.testing.assert_allclose(obs["a"][0], ([1, 10] - mean) / np.sqrt(variance + 1e-8), rtol=1e-5)
    assert obs["n"].tolist() == [1, 1]
    assert obs["image"].dtype == np.float32
    raw = env.get_original_obs()
    np.testing.assert_allclose(env.unnormalize_obs(obs)["a"], raw["a"], rtol=1e-5)
    raw["a"][:] = 77
    assert env.get_original_obs()["a"].tolist() == [[1, 10]] * 2


def test_image_space_becomes_a_float_space():
    env = make(3, env_class=ImageEnv, clip_obs=4)
    assert env.observation_space == spaces.Box(-4, 4, shape=(4, 5, 3), dtype=np.float32)


def test_refusals():
    with pytest.raises(ValueError, match="norm_obs_keys"):
        make(3, env_class=DictEnv)
    with pytest.raises(ValueError, match="'missing'"):
        make(3, env_class=DictEnv, norm_obs_keys=["missing"])
    with pytest.raises(ValueError, match="norm_obs_keys"):
        make(3, norm_obs_keys=["a"])
    with pytest.raises(ValueError, match="only supports"):
        make(3, env_class=TupleEnv)
    with pytest.raises(ValueError, match="already initialized"):
        make(3).set_venv(DummyVecEnv([CountingEnv]))


def test_save_and_load(tmp_path):
    env = make(9, 9, gamma=0.5, clip_obs=3.0)
    env.reset()
    env.step(ACTIONS)
    env.save(str(tmp_path / "statistics.pkl"))
    loaded = VecNormalize.load(str(tmp_path / "statistics.pkl"), DummyVecEnv([CountingEnv]))
    assert (loaded.num_envs, loaded.gamma, loaded.clip_obs) == (1, 0.5, 3.0)
    assert loaded.returns.tolist() == [0]
    sample = np.array([[3.0, 4.0]])
    assert np.array_equal(loaded.normalize_obs(sample), env.normalize_obs(sample))
    assert np.array_equal(loaded.normalize_reward(sample), env.normalize_reward(sample))
    assert loaded.reset().shape == (1, 2)
    with pytest.raises(AssertionError, match="shape"):
        VecNormalize.load(str(tmp_path / "statistics.pkl"), DummyVecEnv([ImageEnv]))


def test_sync_and_unwrap():
    env, evaluation = VecCheckNan(make(9)), VecCheckNan(make(9, training=False))
    env.reset()
    env.step(ACTIONS[:1])
    sync_envs_normalization(env, evaluation)
    assert evaluation.obs_rms.mean.tolist() == env.obs_rms.mean.tolist()
    assert evaluation.obs_rms is not env.obs_rms
    assert evaluation.ret_rms.count == env.ret_rms.count
    with pytest.raises(AssertionError, match="VecNormalize"):
        sync_envs_normalization(env, VecCheckNan(VecCheckNan(DummyVecEnv([CountingEnv]))))
    with pytest.raises(AssertionError, match="VecEnvWrapper"):
        sync_envs_normalization(env, DummyVecEnv([CountingEnv]))
    assert unwrap_vec_normalize(env) is env.venv
    assert unwrap_vec_normalize(env.unwrapped) is None
    assert is_vecenv_wrapped(env, VecCheckNan)
    assert not is_vecenv_wrapped(env.venv, VecCheckNan)
