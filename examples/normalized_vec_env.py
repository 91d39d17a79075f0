"""Train PPO on Pendulum-v1 with normalised observations and rewards; the statistics travel with the model."""

import argparse
import pathlib

from mlx_baselines3 import PPO
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.utils import LinearSchedule
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("normalized"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    env = make_vec_env("Pendulum-v1", n_envs=8, seed=args.seed, vec_env_cls=NativeVecEnv)
    env = VecNormalize(env, gamma=0.9)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        n_steps=256,
        batch_size=256,
        gamma=0.9,
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps, log_interval=10)
    model.save(args.out / "model")
    env.save(str(args.out / "statistics.pkl"))

    test_env = make_vec_env("Pendulum-v1", seed=1000)
    test_env = VecNormalize.load(str(args.out / "statistics.pkl"), test_env)
    # Evaluation does not update the statistics, and uses unnormalised rewards.
    test_env.training, test_env.norm_reward = False, False
    loaded = PPO.load(args.out / "model")
    mean, std = evaluate_policy(loaded, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
