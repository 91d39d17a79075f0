"""Train RecurrentPPO to balance a pole without seeing velocities; see docs/algorithms/recurrent_ppo.md."""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.contrib import RecurrentPPO


class Positions(gym.ObservationWrapper):
    """CartPole without its velocities: what is left of the state is the positions of the cart and of the
    pole."""

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        space: Any = env.observation_space
        self.observation_space = spaces.Box(space.low[::2], space.high[::2], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    args = parser.parse_args()

    env = make_vec_env("CartPole-v1", 8, seed=0, wrapper_class=Positions)
    kwargs = {"lstm_hidden_size": 64, "enable_critic_lstm": True}
    model = RecurrentPPO(
        "MlpLstmPolicy", env, policy_kwargs=kwargs, n_steps=64, learning_rate=1e-3, gamma=0.98, seed=0
    )
    model.learn(args.steps)
    test_env = make_vec_env("CartPole-v1", 1, seed=1000, wrapper_class=Positions)
    # Hands the states from step to step.
    mean, std = evaluate_policy(model, test_env, n_eval_episodes=20)
    print(f"Mean return over 20 episodes: {mean:.1f} +/- {std:.1f}")


if __name__ == "__main__":
    main()
