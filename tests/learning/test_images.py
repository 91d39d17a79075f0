"""PPO and DQN with NatureCNN learn to catch a falling ball from its image, without MLX on a CPU."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN, PPO
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy

CELLS, PIXELS = 6, 6


class Catch(gym.Env[np.ndarray, np.int64]):
    """A ball falls in a random column, and a paddle below it moves left, right or not at all."""

    observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, *self.np_random.integers(CELLS, size=2)
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.row += 1
        self.paddle = int(np.clip(self.paddle + action - 1, 0, CELLS - 1))
        ends = self.row == CELLS - 1
        return self._image(), float(ends and self.paddle == self.column), ends, False, {}

    def _image(self) -> np.ndarray:
        cells = np.zeros((CELLS, CELLS), np.uint8)
        cells[-1, self.paddle] = 128
        cells[self.row, self.column] = 255
        return np.kron(cells, np.ones((PIXELS, PIXELS), np.uint8))[..., None]


SMALL = {"features_extractor_kwargs": {"features_dim": 64}}


def ppo(env: Any, seed: int) -> PPO:
    return PPO(
        "CnnPolicy",
        env,
        learning_rate=1e-3,
        n_steps=64,
        batch_size=128,
        n_epochs=4,
        ent_coef=0.01,
        policy_kwargs=SMALL,
        seed=seed,
        device="cpu",
    )


def dqn(env: Any, seed: int) -> DQN:
    return DQN(
        "CnnPolicy",
        env,
        learning_rate=5e-4,
        buffer_size=5000,
        learning_starts=500,
        train_freq=8,
        gradient_steps=4,
        target_update_interval=250,
        exploration_fraction=0.5,
        policy_kwargs=SMALL,
        seed=seed,
        device="cpu",
    )


@pytest.mark.learning
@pytest.mark.parametrize(("make", "n_envs", "steps"), [(ppo, 8, 20_000), (dqn, 1, 8_000)])
def test_a_ball_is_caught(make, n_envs, steps):
    model = make(make_vec_env(Catch, n_envs, seed=0), 0)
    model.learn(steps)
    assert model._updater.native is not None
    # At random it is caught in a quarter of the episodes.
    mean, _ = evaluate_policy(
        model, make_vec_env(Catch, 1, seed=1000), n_eval_episodes=100, deterministic=True
    )
    assert mean >= 0.9
