"""A custom features extractor: a normalised hidden layer, shared by PPO's policy and value function."""

import argparse

# Before MLX: on Linux CPUs it gives MLX a fast matrix product, which is possible only until MLX is loaded.
from mlx_baselines3 import PPO

# isort: split
import mlx.core as mx
import mlx.nn as nn
from gymnasium import spaces

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor
from mlx_baselines3.common.vec_env import NativeVecEnv


class NormalizedLayer(BaseFeaturesExtractor):
    """A linear layer, LayerNorm and ReLU. Any MLX module can be used inside."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 64) -> None:
        super().__init__(observation_space, features_dim)
        self.linear = nn.Linear(observation_space.shape[0], features_dim)
        self.norm = nn.LayerNorm(features_dim)

    def forward(self, observations: mx.array) -> mx.array:
        """From (batch, observation) to (batch, features_dim)."""
        return nn.relu(self.norm(self.linear(observations)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env = make_vec_env("CartPole-v1", n_envs=8, seed=args.seed, vec_env_cls=NativeVecEnv)
    policy_kwargs = {
        "features_extractor_class": NormalizedLayer,
        "features_extractor_kwargs": {"features_dim": 32},
        "net_arch": {"pi": [32], "vf": [32]},
        "activation_fn": nn.ReLU,
    }
    model = PPO(
        "MlpPolicy", env, n_steps=128, batch_size=256, learning_rate=1e-3, policy_kwargs=policy_kwargs,
        seed=args.seed, verbose=1,
    )  # fmt: skip
    model.learn(args.steps, log_interval=10)

    mean, std = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1000), n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
