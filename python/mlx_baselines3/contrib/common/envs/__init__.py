"""Environments with actions that are not allowed, under sb3-contrib's names."""

from mlx_baselines3.contrib.common.envs.invalid_actions_env import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from mlx_baselines3.contrib.common.envs.seeded_invalid_action import SeededInvalidActionEnv

__all__ = [
    "InvalidActionEnvDiscrete",
    "InvalidActionEnvMultiBinary",
    "InvalidActionEnvMultiDiscrete",
    "SeededInvalidActionEnv",
]
