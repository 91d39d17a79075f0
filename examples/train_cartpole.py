"""Train PPO on CartPole-v1, save the model, load it again, evaluate it and draw the learning curve."""

import argparse
import pathlib

from mlx_baselines3 import PPO
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.monitor import load_results
from mlx_baselines3.common.utils import LinearSchedule
from mlx_baselines3.common.vec_env import NativeVecEnv


def draw_learning_curve(folder: pathlib.Path, file: pathlib.Path) -> None:
    """Plot the return of every training episode, and their running mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    episodes = load_results(str(folder))
    steps = episodes["l"].cumsum()
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(steps, episodes["r"], ".", markersize=2, alpha=0.4, label="episode")
    axes.plot(steps, episodes["r"].rolling(50, min_periods=1).mean(), label="mean of 50 episodes")
    axes.set(title="PPO on CartPole-v1", xlabel="environment steps", ylabel="return")
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("cartpole"))
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    env = make_vec_env(
        "CartPole-v1", 8, seed=args.seed, vec_env_cls=NativeVecEnv, monitor_dir=str(args.out)
    )
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
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps, log_interval=50, progress_bar=True)
    model.save(args.out / "ppo_cartpole")

    loaded = PPO.load(args.out / "ppo_cartpole")
    mean, std = evaluate_policy(loaded, make_vec_env("CartPole-v1", 1, seed=1000), n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")
    curve = args.out / "learning_curve.png"
    draw_learning_curve(args.out, curve)
    print(f"Model: {args.out / 'ppo_cartpole.zip'}, learning curve: {curve}")


if __name__ == "__main__":
    main()
