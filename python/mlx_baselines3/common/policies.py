"""Policies: the names that SB3 offers here, each from the module it lives in."""

from mlx_baselines3.common.actor_critic import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from mlx_baselines3.common.base_policy import BaseModel, BasePolicy
from mlx_baselines3.common.critics import ContinuousCritic

__all__ = [
    "ActorCriticCnnPolicy",
    "ActorCriticPolicy",
    "BaseModel",
    "BasePolicy",
    "ContinuousCritic",
    "MultiInputActorCriticPolicy",
]
