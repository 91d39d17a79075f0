"""Environments whose every number can be worked out in the head."""

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class CountingEnv(gym.Env):
    """After step t of an episode: observation [t, 10 t], reward t. The episode ends at step `length`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, length: int = 3, truncate: bool = False, render_mode: str | None = "rgb_array"):
        self.observation_space = spaces.Box(-1000, 1000, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self.length = length
        self.truncate = truncate
        self.render_mode = render_mode
        self.t = 0
        self.last_seed: int | None = None
        self.last_options: dict[str, Any] | None = None
        self.closed = False

    def _obs(self) -> np.ndarray:
        return np.array([self.t, 10 * self.t], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.last_seed, self.last_options = seed, options
        return self._obs(), {"seeded": seed}

    def step(self, action):
        if action == 9:
            raise ValueError("action nine is forbidden")
        if action == 8:
            os._exit(3)
        self.t += 1
        over = self.t == self.length
        info = {"t": self.t, "nested": {"list": [self.t]}}
        return self._obs(), float(self.t), over and not self.truncate, over and self.truncate, info

    def render(self):
        return np.full((2, 3, 3), self.t, dtype=np.uint8)

    def add(self, a: int, b: int = 0) -> int:
        return a + b + self.length

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def unpicklable(self):
        return lambda: None

    def close(self):
        self.closed = True


class EndingEnv(gym.Env):
    """Episodes of one step: the first is truncated, the second terminated, the third both, and so on."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    episode = 0

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        kind = self.episode % 3
        return np.ones(1, np.float32), 0.0, kind != 1, kind != 2, {}


class ReusingEnv(CountingEnv):
    """Hands out the same info dict and the same observation array every time."""

    def __init__(self, length: int = 2):
        super().__init__(length)
        self.shared_info: dict[str, Any] = {}
        self.shared_obs = np.zeros(2, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed, options=options)
        self.shared_obs[:] = obs
        return self.shared_obs, self.shared_info

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        self.shared_obs[:] = obs
        return self.shared_obs, reward, terminated, truncated, self.shared_info


class DictEnv(CountingEnv):
    """The observation of CountingEnv under "a", a number under "n", an image of t under "image"."""

    def __init__(self, length: int = 3):
        super().__init__(length)
        self.observation_space = spaces.Dict(
            {
                "a": spaces.Box(-1000, 1000, shape=(2,), dtype=np.float32),
                "image": spaces.Box(0, 255, shape=(4, 5, 3), dtype=np.uint8),
                "n": spaces.Discrete(5),
            }
        )

    def _obs(self):
        image = np.zeros((4, 5, 3), dtype=np.uint8)
        image[..., 1] = self.t
        return {"a": super()._obs(), "image": image, "n": self.t}


class TupleEnv(CountingEnv):
    """Observations (t, [t, 10 t])."""

    def __init__(self, length: int = 3):
        super().__init__(length)
        self.observation_space = spaces.Tuple(
            (spaces.Discrete(9), spaces.Box(-1000, 1000, shape=(2,), dtype=np.float32))
        )

    def _obs(self):
        return self.t, super()._obs()


class ImageEnv(CountingEnv):
    """Images (4, 5, 3) whose three channels hold t, 10 + t, 20 + t."""

    def __init__(self, length: int = 3):
        super().__init__(length)
        self.observation_space = spaces.Box(0, 255, shape=(4, 5, 3), dtype=np.uint8)

    def _obs(self):
        return np.broadcast_to(np.array([0, 10, 20]) + self.t, (4, 5, 3)).astype(np.uint8)


class NestedEnv(CountingEnv):
    """An observation space that is refused."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({"outer": spaces.Dict({"inner": spaces.Discrete(2)})})


class ModelessEnv(gym.Env):
    """An environment that says nothing about rendering."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def __getattribute__(self, name):
        if name == "render_mode":
            raise AttributeError(name)
        return super().__getattribute__(name)
