"""Vectorised environments and the wrappers around them."""

from mlx_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnv, VecEnvWrapper
from mlx_baselines3.common.vec_env.dummy_vec_env import DummyVecEnv

__all__ = [
    "CloudpickleWrapper",
    "DummyVecEnv",
    "VecEnv",
    "VecEnvWrapper",
]
