"""An environment with any spaces, for both sides of the comparison: it imports neither package."""

import gymnasium as gym


class RandomEnv(gym.Env):
    """
    Random observations and rewards, episodes of ten steps.

    :param observation_space: any space
    :param action_space: any space
    """

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        reward = float(self.np_random.normal())
        return self.observation_space.sample(), reward, self.steps >= 10, False, {}
