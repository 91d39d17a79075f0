"""PPO with the tuned settings solves CartPole-v1, on every seed that is tried."""

import pytest

from mlx_baselines3 import PPO
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.utils import LinearSchedule
from mlx_baselines3.common.vec_env import NativeVecEnv


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_solved(seed, tmp_path):
    env = make_vec_env("CartPole-v1", 8, seed=seed, vec_env_cls=NativeVecEnv)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        clip_range=LinearSchedule(0.2, 0.0, 1.0),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        seed=seed,
    )
    model.learn(100_000)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model")
    # Gymnasium's own environment judges, not the native one that the policy learned in.
    mean, _ = evaluate_policy(loaded, make_vec_env("CartPole-v1", 1, seed=1000), n_eval_episodes=20)
    assert mean >= 475
