"""Train A2C on CartPole-v1 in eight environments at once, and evaluate the policy in Gymnasium's own."""

import argparse

from mlx_baselines3 import A2C
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.utils import LinearSchedule
from mlx_baselines3.common.vec_env import NativeVecEnv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env = make_vec_env("CartPole-v1", n_envs=8, seed=args.seed, vec_env_cls=NativeVecEnv)
    model = A2C(
        "MlpPolicy",
        env,
        # A constant learning rate would balance the pole sooner, but unlearn it and learn it again.
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        gamma=0.98,
        gae_lambda=0.9,
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps, log_interval=1000)

    test_env = make_vec_env("CartPole-v1", seed=1000)
    mean, std = evaluate_policy(model, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
