"""SB3's buffers. Rust owns the memory, NumPy looks into it, MLX gets batches of it."""

from mlx_baselines3.common.buffers.base import BaseBuffer
from mlx_baselines3.common.buffers.replay import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.buffers.rollout import DictRolloutBuffer, RolloutBuffer

__all__ = [
    "BaseBuffer",
    "DictReplayBuffer",
    "DictRolloutBuffer",
    "NStepReplayBuffer",
    "ReplayBuffer",
    "RolloutBuffer",
]
