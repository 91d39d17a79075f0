"""With nothing but the default settings, 10,000 steps are enough to get somewhere, on every seed."""

import pytest

from mlx_baselines3 import PPO, SAC
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.vec_env import NativeVecEnv


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
# A policy that acts at random gets about 22 and -1200.
@pytest.mark.parametrize(
    ("algorithm", "env_id", "bar"), [(PPO, "CartPole-v1", 195), (SAC, "Pendulum-v1", -200)]
)
def test_ten_thousand_steps(algorithm, env_id, bar, seed):
    env = make_vec_env(env_id, 1, seed=seed, vec_env_cls=NativeVecEnv)
    model = algorithm("MlpPolicy", env, seed=seed).learn(10_000)
    # Gymnasium's own environment judges, not the native one that the policy learned in.
    mean, _ = evaluate_policy(model, make_vec_env(env_id, 1, seed=1000), n_eval_episodes=10)
    assert mean > bar
