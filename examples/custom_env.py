"""A custom environment, solved by PPO: push a puck to the middle of a line and keep it there."""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.env_checker import check_env
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy


class Puck(gym.Env):
    """Observations are position and velocity, the action is a force, the cost is the distance to 0."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-2.0, 2.0, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-1.0, 1.0), 0.0])
        self.steps = 0
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray):
        position, velocity = self.state
        velocity = np.clip(velocity + 0.1 * float(action[0]), -2.0, 2.0)
        self.state = np.array([np.clip(position + 0.1 * velocity, -2.0, 2.0), velocity])
        self.steps += 1
        # Truncated by the time limit; no state of the puck terminates an episode.
        return self.state.astype(np.float32), -abs(self.state[0]), False, self.steps >= 100, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    check_env(Puck())
    model = PPO(
        "MlpPolicy", make_vec_env(Puck, n_envs=8, seed=args.seed), n_steps=256, batch_size=256, gamma=0.95,
        learning_rate=1e-3, seed=args.seed, verbose=1,
    )  # fmt: skip
    test_env = make_vec_env(Puck, seed=1000)
    before, _ = evaluate_policy(model, test_env, n_eval_episodes=20)
    model.learn(args.steps, log_interval=10)
    after, _ = evaluate_policy(model, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {before:.1f} before training, {after:.1f} after")


if __name__ == "__main__":
    main()
