"""A vector environment that spends a step on resetting, small enough to know each step by heart."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Counting(gym.Env):
    """Sees the number of steps so far and an earlier action, which is its reward."""

    observation_space = spaces.Box(-1000, 1000, shape=(2,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length, truncate):
        self.length, self.truncate = length, truncate

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        end = self.t == self.length
        obs = np.array([self.t, action], np.float32)
        return obs, float(action), end and not self.truncate, end and self.truncate, {}


class NextStep:
    """Countings in a vector that resets in the step after the end, or whom it is asked to."""

    metadata = {"autoreset_mode": "NEXT_STEP"}
    render_mode = None
    single_observation_space = Counting.observation_space
    single_action_space = Counting.action_space

    def __init__(self, lengths, truncate):
        self.envs = [Counting(length, truncate) for length in lengths]
        self.num_envs = len(lengths)

    @property
    def unwrapped(self):
        return self

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if mask.all():
            self.over, self.obs = np.zeros(self.num_envs, bool), np.zeros((self.num_envs, 2), np.float32)
        for i in np.flatnonzero(mask):
            self.obs[i], self.over[i] = self.envs[i].reset()[0], False
        return self.obs, {}

    def step(self, actions):
        rewards, ends = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        for i, env in enumerate(self.envs):
            if self.over[i]:
                self.obs[i], rewards[i] = env.reset()[0], 100.0
            else:
                self.obs[i], rewards[i], ends[0, i], ends[1, i], _ = env.step(actions[i])
        self.over = ends.any(axis=0)
        return self.obs, rewards, *ends, {}
