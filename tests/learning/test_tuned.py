"""RL Zoo's settings for A2C, DQN and TD3, shortened: they reach the return, on every seed."""

import numpy as np
import pytest

from mlx_baselines3 import A2C, DQN, TD3
from mlx_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.vec_env import NativeVecEnv

pytestmark = [pytest.mark.learning, pytest.mark.parametrize("seed", [0, 1, 2])]


def judge(model, env_id):
    """Mean return over 20 episodes in Gymnasium's own environment, not the native one of the training."""
    mean, _ = evaluate_policy(model, make_vec_env(env_id, 1, seed=1000), n_eval_episodes=20)
    return mean


def stop_at(reward, env_id, eval_freq):
    """
    Train until ten episodes reach a mean return.

    A2C and DQN find a good policy, lose it and find it again, SB3's no less than ours: the policy after
    a fixed number of steps would be a matter of luck.
    """
    env = make_vec_env(env_id, 1, seed=2000, vec_env_cls=NativeVecEnv)
    stop = StopTrainingOnRewardThreshold(reward)
    return EvalCallback(env, stop, n_eval_episodes=10, eval_freq=eval_freq, verbose=0)


def test_a2c_balances_the_pole(seed):
    env = make_vec_env("CartPole-v1", 8, seed=seed, vec_env_cls=NativeVecEnv)
    model = A2C("MlpPolicy", env, ent_coef=0.0, seed=seed)
    model.learn(200_000, callback=stop_at(490, "CartPole-v1", eval_freq=500))
    assert judge(model, "CartPole-v1") >= 450


def test_dqn_balances_the_pole(seed):
    env = make_vec_env("CartPole-v1", 1, seed=seed, vec_env_cls=NativeVecEnv)
    model = DQN(
        "MlpPolicy",
        env,
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
    )
    model.learn(50_000, callback=stop_at(490, "CartPole-v1", eval_freq=1280))
    assert judge(model, "CartPole-v1") >= 450


def test_td3_swings_the_pendulum_up(seed):
    env = make_vec_env("Pendulum-v1", 1, seed=seed, vec_env_cls=NativeVecEnv)
    model = TD3(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        gamma=0.98,
        buffer_size=200_000,
        learning_starts=10_000,
        action_noise=NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)),
        policy_kwargs={"net_arch": [400, 300]},
        seed=seed,
    )
    model.learn(17_000)
    assert judge(model, "Pendulum-v1") > -200
