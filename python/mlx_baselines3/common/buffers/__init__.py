"""SB3's buffers. Rust owns the memory, NumPy looks into it, MLX gets batches of it."""

from typing import TYPE_CHECKING

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common._types import (
    DictReplayBufferSamples,
    DictRolloutBufferSamples,
    ReplayBufferSamples,
    RolloutBufferSamples,
)
from mlx_baselines3.common.buffers.base import BaseBuffer
from mlx_baselines3.common.buffers.replay import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.buffers.rollout import DictRolloutBuffer, RolloutBuffer
from mlx_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from mlx_baselines3.common.utils import get_device
from mlx_baselines3.common.vec_env.vec_normalize import VecNormalize

if TYPE_CHECKING:
    import psutil as psutil
else:
    __getattr__ = lazy_names(globals(), "np spaces", optional={"psutil": "psutil"})

__all__ = [
    "BaseBuffer",
    "DictReplayBuffer",
    "DictReplayBufferSamples",
    "DictRolloutBuffer",
    "DictRolloutBufferSamples",
    "NStepReplayBuffer",
    "ReplayBuffer",
    "ReplayBufferSamples",
    "RolloutBuffer",
    "RolloutBufferSamples",
    "VecNormalize",
    "get_action_dim",
    "get_device",
    "get_obs_shape",
]
