"""With nothing but the default settings, 10,000 steps are enough to get somewhere, on every seed."""

import pytest

from mlx_baselines3 import PPO, SAC
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.vec_env import NativeVecEnv
from support.judging import judge, stop_at

pytestmark = [pytest.mark.learning, pytest.mark.parametrize("seed", [0, 1, 2])]


def test_ppo_balances_the_pole(seed):
    """A policy that acts at random gets about 22."""
    env = make_vec_env("CartPole-v1", 1, seed=seed, vec_env_cls=NativeVecEnv)
    model = PPO("MlpPolicy", env, seed=seed).learn(10_000)
    assert judge(model, "CartPole-v1") > 195


def test_sac_swings_the_pendulum_up(seed):
    """A policy that acts at random gets about -1200."""
    env = make_vec_env("Pendulum-v1", 1, seed=seed, vec_env_cls=NativeVecEnv)
    model = SAC("MlpPolicy", env, seed=seed)
    model.learn(10_000, callback=stop_at(-170, "Pendulum-v1", eval_freq=1000))
    assert judge(model, "Pendulum-v1") > -200
