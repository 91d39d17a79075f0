"""Train DQN on CartPole-v1 with RL Zoo's settings, and evaluate it."""

import argparse

from mlx_baselines3 import DQN
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        target_update_interval=10,
        train_freq=256,
        # All 128 gradient steps of an update are sampled at once and run in one go.
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps, log_interval=100)

    test_env = make_vec_env("CartPole-v1", seed=1000)
    mean, std = evaluate_policy(model, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
