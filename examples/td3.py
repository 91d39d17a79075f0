"""Train TD3 on Pendulum-v1 with noise on its actions, and evaluate it without."""

import argparse

import numpy as np

from mlx_baselines3 import TD3
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.noise import NormalActionNoise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = TD3(
        "MlpPolicy",
        "Pendulum-v1",
        learning_rate=1e-3,
        learning_starts=1000,
        buffer_size=50_000,
        gamma=0.98,
        # Eight steps, then eight updates in one go: faster than one by one.
        train_freq=8,
        gradient_steps=8,
        # The policy is deterministic: without noise it would never try anything else.
        action_noise=NormalActionNoise(mean=np.zeros(1), sigma=0.1 * np.ones(1)),
        policy_kwargs={"net_arch": [64, 64]},
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps, log_interval=10)

    test_env = make_vec_env("Pendulum-v1", seed=1000)
    mean, std = evaluate_policy(model, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
