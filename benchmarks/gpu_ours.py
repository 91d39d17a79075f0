"""This package's gradient steps on a GPU, through the public ``train()`` and ``learn()``."""

import os
import time
from typing import Any

import gymnasium
import mlx.core as mx
import numpy as np
from gymnasium import spaces
from worker import Job

import mlx_baselines3
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv

_DEVICE = os.environ.get("BENCHMARK_DEVICE", "gpu")


class _Random(gymnasium.Env[Any, Any]):
    """Observations that were drawn once, with episodes of 100 steps."""

    def __init__(self, observations: spaces.Box, actions: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions
        rng = np.random.default_rng(0)
        numbers = rng.random((8, *observations.shape)) * (255 if observations.dtype == np.uint8 else 1)
        self._seen, self._steps = numbers.astype(observations.dtype), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen[0], {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        observation = self._seen[self._steps % len(self._seen)]
        return observation, float(self._steps % 7) - 3.0, False, self._steps % 100 == 0, {}


def _images(size: int, actions: int, count: int) -> DummyVecEnv:
    observations = spaces.Box(0, 255, (size, size, 4), np.uint8)
    return DummyVecEnv([lambda: _Random(observations, spaces.Discrete(actions))] * count)


def _on_policy(policy: str, env: Any, n_steps: int, **settings: Any) -> Job:
    model = mlx_baselines3.PPO(policy, env, seed=0, device=_DEVICE, n_steps=n_steps, **settings)
    model.set_logger(Logger(None, []))
    rows = n_steps * env.num_envs
    model.learn(rows)
    return Job(model.train, model.n_epochs * (rows // model.batch_size), finish=mx.synchronize)


def ppo(total: int, rows: int, epochs: int) -> Job:
    """PPO over one rollout of CartPole again and again."""
    n_envs = min(max(total // 128, 1), 4096)
    env = NativeVecEnv("CartPole-v1", n_envs)
    return _on_policy("MlpPolicy", env, total // n_envs, batch_size=rows, n_epochs=epochs)


def ppo_cnn(total: int, rows: int, epochs: int, size: int = 84, actions: int = 6) -> Job:
    """PPO of NatureCNN over one rollout of images again and again."""
    env = _images(size, actions, 16)
    return _on_policy("CnnPolicy", env, total // 16, batch_size=rows, n_epochs=epochs)


def _filled(model: Any, capacity: int) -> Any:
    """A model whose buffer is full of random transitions."""
    model.set_logger(Logger(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    shape, dtype = buffer.observations.shape[1:], buffer.observations.dtype
    images = dtype == np.uint8
    for i in range(capacity):
        both = rng.integers(0, 256, (2, *shape), dtype) if images else rng.random((2, *shape), np.float32)
        action = np.array([model.action_space.sample()])
        buffer.add(both[0], both[1], action, np.array([i % 7 - 3.0]), np.array([i % 100 == 0]), [{}])
    return model


def _off_policy(model: Any, batch: int, steps: int) -> Job:
    return Job(lambda: model.train(steps, batch), steps, finish=mx.synchronize)


def _sac_model(capacity: int, obs: int, act: int) -> Any:
    box = spaces.Box(-1, 1, (act,), np.float32)
    env = _Random(spaces.Box(-1, 1, (obs,), np.float32), box)
    return _filled(
        mlx_baselines3.SAC("MlpPolicy", env, buffer_size=capacity, seed=0, device=_DEVICE), capacity
    )


def sac(batch: int, steps: int, capacity: int, obs: int = 17, act: int = 6) -> Job:
    """SAC, several gradient steps in one call or one."""
    return _off_policy(_sac_model(capacity, obs, act), batch, steps)


def sac_first(batch: int, capacity: int) -> float:
    """Seconds of the first gradient step of a process."""
    model = _sac_model(capacity, 17, 6)
    start = time.perf_counter()
    model.train(1, batch)
    mx.synchronize()
    return time.perf_counter() - start


def dqn(batch: int, steps: int, capacity: int, size: int = 84, actions: int = 6) -> Job:
    """DQN of NatureCNN."""
    model = mlx_baselines3.DQN(
        "CnnPolicy", _images(size, actions, 1), buffer_size=capacity, seed=0, device=_DEVICE
    )
    return _off_policy(_filled(model, capacity), batch, steps)


def learn(n_envs: int, n_steps: int, batch: int, epochs: int) -> Job:
    """PPO's ``learn()``, a rollout and its update in each call."""
    env = NativeVecEnv("CartPole-v1", n_envs)
    model = mlx_baselines3.PPO(
        "MlpPolicy", env, seed=0, device=_DEVICE, n_steps=n_steps, batch_size=batch, n_epochs=epochs
    )
    model.set_logger(Logger(None, []))
    steps = n_envs * n_steps
    return Job(lambda: model.learn(steps, reset_num_timesteps=False) and None, steps, finish=mx.synchronize)
