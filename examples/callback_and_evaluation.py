"""Monitor PPO: evaluate periodically, keep the best model and checkpoints, log a custom value."""

import argparse
import pathlib

from mlx_baselines3 import PPO
from mlx_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.vec_env import NativeVecEnv


class LongestEpisode(BaseCallback):
    """Log the length of the longest episode so far, and stop once it reaches a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.longest = limit, 0

    def _on_step(self) -> bool:
        lengths = [info["episode"]["l"] for info in self.locals["infos"] if "episode" in info]
        self.longest = max([self.longest, *lengths])
        self.logger.record("rollout/longest_episode", self.longest)
        return self.longest < self.limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("watched"))
    args = parser.parse_args()

    env = make_vec_env("CartPole-v1", n_envs=8, seed=0, vec_env_cls=NativeVecEnv)
    test_env = make_vec_env("CartPole-v1", seed=1000, vec_env_cls=NativeVecEnv)
    # Callbacks count calls, and one call is a step of all eight environments.
    every = max(args.steps // 10 // env.num_envs, 1)
    # CartPole-v1 truncates episodes at 500 steps: this limit is never reached, so training runs to its end.
    watch = LongestEpisode(limit=501)
    callbacks = [
        EvalCallback(test_env, eval_freq=every, best_model_save_path=str(args.out), log_path=str(args.out)),
        CheckpointCallback(save_freq=5 * every, save_path=str(args.out / "checkpoints")),
        watch,
    ]
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, learning_rate=1e-3, seed=0)
    model.learn(args.steps, callback=callbacks)

    checkpoints = sorted(file.name for file in (args.out / "checkpoints").iterdir())
    print(f"Longest episode: {watch.longest} steps. Checkpoints: {', '.join(checkpoints)}")
    mean, std = evaluate_policy(PPO.load(args.out / "best_model"), test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
