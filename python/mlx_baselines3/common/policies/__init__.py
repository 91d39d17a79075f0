"""Policies: the names that SB3 offers here, each from the module it lives in."""

from typing import TYPE_CHECKING

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common._types import PyTorchObs, Schedule
from mlx_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
    make_proba_distribution,
)
from mlx_baselines3.common.policies.actor_critic import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from mlx_baselines3.common.policies.base import BaseModel, BasePolicy
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.preprocessing import (
    get_action_dim,
    is_image_space,
    maybe_transpose,
    preprocess_obs,
)
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
    create_mlp,
)
from mlx_baselines3.common.utils import get_device, is_vectorized_observation, obs_as_tensor

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "np spaces")

__all__ = [
    "ActorCriticCnnPolicy",
    "ActorCriticPolicy",
    "BaseFeaturesExtractor",
    "BaseModel",
    "BasePolicy",
    "BernoulliDistribution",
    "CategoricalDistribution",
    "CombinedExtractor",
    "ContinuousCritic",
    "DiagGaussianDistribution",
    "Distribution",
    "FlattenExtractor",
    "MlpExtractor",
    "MultiCategoricalDistribution",
    "MultiInputActorCriticPolicy",
    "NatureCNN",
    "PyTorchObs",
    "Schedule",
    "StateDependentNoiseDistribution",
    "create_mlp",
    "get_action_dim",
    "get_device",
    "is_image_space",
    "is_vectorized_observation",
    "make_proba_distribution",
    "maybe_transpose",
    "obs_as_tensor",
    "preprocess_obs",
]
