"""The optimizer of Stable-Baselines 2, under the name that SB3 gives it."""

from mlx_baselines3.common.nn.optimizers import RMSpropTFLike

__all__ = ["RMSpropTFLike"]
