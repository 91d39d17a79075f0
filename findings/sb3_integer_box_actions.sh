#!/usr/bin/env bash
# Stable-Baselines3 on a Box action space of an integer dtype learns from other actions than those that it took.
#
# stable-baselines3 2.9.2, torch 2.15.0, Gymnasium 1.4.0, NumPy 2.4.6, Python 3.11.7, Linux x86-64. Seen 2026-11-29.
# The policy's actions are real numbers and reach the environment as such, but rollout and replay buffers have the dtype
# of the action space and cut the fraction off. PPO keeps 0 where the environment was given -0.5, and computes the
# probability ratio of an action that was never taken. A replay buffer holds actions scaled to -1..1, so nearly
# everything that SAC learns from is the action 0. One would expect the numbers that were sent, an error, or a warning that
# names the consequence (the one about symmetric, normalised Boxes does not).
#
# Output seen (without the warnings; SAC's stored actions are scaled back to -10..10):
#   PPO given [-0.5  -2.36 -1.21  1.61] stored [ 0 -2 -1  1], furthest apart 0.98
#   SAC given [ 6.24 -1.75 -8.27  8.8 ] stored [0 0 0 0], furthest apart 9.35
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet stable-baselines3==2.9.2 torch==2.15.0 gymnasium==1.4.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import warnings

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO, SAC

warnings.simplefilter("ignore")


class WholeNumbers(gym.Env):
    """Episodes of one step, which keep the actions that they are given."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-10, 10, (1,), np.int32)

    def __init__(self):
        self.given = []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.given.append(action)
        return np.zeros(1, np.float32), 0.0, True, False, {}


def furthest(name, env, stored, first):
    given = np.concatenate(env.given)[first:]
    stored = stored.ravel()[first : len(env.given)]
    apart = float(np.abs(given - stored).max())
    print(name, "given", given[:4].round(2), "stored", stored[:4], end=", ")
    print("furthest apart", round(apart, 2))
    return apart


env = WholeNumbers()
ppo = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0).learn(64)
assert furthest("PPO", env, ppo.rollout_buffer.actions, 0) > 0.5, "PPO stores what it sent"

env = WholeNumbers()
sac = SAC("MlpPolicy", env, learning_starts=32, buffer_size=64, seed=0).learn(64)
assert furthest("SAC", env, 10 * sac.replay_buffer.actions, 32) > 5, "SAC stores what it sent"
PYTHON
