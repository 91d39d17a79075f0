"""Train MaskablePPO to win at Nim, where most moves are against the rules; see
docs/algorithms/maskable_ppo.md."""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.contrib import MaskablePPO
from mlx_baselines3.contrib.common.maskable.evaluation import evaluate_policy

HEAPS = (3, 4, 5)


class Nim(gym.Env):
    """Take any number of one heap; who takes the last one wins. The opponent moves at random."""

    observation_space = spaces.Box(0, max(HEAPS), (len(HEAPS),), np.float32)
    # Heap after heap: take 1, 2, ... of it.
    action_space = spaces.Discrete(sum(HEAPS))
    moves = [(heap, count) for heap, size in enumerate(HEAPS) for count in range(1, size + 1)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.heaps = np.array(HEAPS)
        return self.heaps.astype(np.float32), {}

    def action_masks(self) -> list[bool]:
        return [count <= self.heaps[heap] for heap, count in self.moves]

    def take(self, action: int) -> bool:
        heap, count = self.moves[action]
        self.heaps[heap] -= count
        return not self.heaps.any()

    def step(self, action: int) -> Any:
        if self.take(action):
            return self.heaps.astype(np.float32), 1.0, True, False, {}
        lost = self.take(self.np_random.choice(np.flatnonzero(self.action_masks())))
        return self.heaps.astype(np.float32), -float(lost), lost, False, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    args = parser.parse_args()

    env = make_vec_env(Nim, 8, seed=0)
    model = MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=256, learning_rate=1e-3, seed=0)
    model.learn(args.steps)
    mean, std = evaluate_policy(model, make_vec_env(Nim, 1, seed=1), n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
