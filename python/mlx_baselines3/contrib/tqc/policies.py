"""The networks of TQC."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from gymnasium import spaces

from mlx_baselines3.common.distributions import (
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from mlx_baselines3.common.policies import BaseModel, BasePolicy
from mlx_baselines3.common.policies.critics import ContinuousCritic, ContinuousPolicy
from mlx_baselines3.common.preprocessing import get_action_dim
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
    get_actor_critic_arch,
)
from mlx_baselines3.common.type_aliases import PyTorchObs, Schedule
from mlx_baselines3.sac import policies as sac
from mlx_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy

__all__ = [
    "LOG_STD_MAX",
    "LOG_STD_MIN",
    "Actor",
    "BaseFeaturesExtractor",
    "BaseModel",
    "BasePolicy",
    "CnnPolicy",
    "CombinedExtractor",
    "Critic",
    "FlattenExtractor",
    "MlpPolicy",
    "MultiInputPolicy",
    "NatureCNN",
    "PyTorchObs",
    "Schedule",
    "SquashedDiagGaussianDistribution",
    "StateDependentNoiseDistribution",
    "TQCPolicy",
    "create_mlp",
    "get_action_dim",
    "get_actor_critic_arch",
]


class Actor(sac.Actor):
    """SAC's actor: a Gaussian squashed by tanh."""


class Critic(ContinuousCritic):
    """
    One or more networks that give quantiles of the return of an action, called ``qf0``, ``qf1``, …

    :param observation_space: space of one observation
    :param action_space: a Box
    :param net_arch: units of the hidden layers
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param normalize_images: divide uint8 images by 255
    :param n_quantiles: number of quantiles that each network gives
    :param n_critics: number of networks
    :param share_features_extractor: the extractor is the actor's, and only the actor's loss trains it
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_quantiles: int = 25,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            normalize_images,
            n_critics,
            share_features_extractor,
            output_dim=n_quantiles,
        )
        self.n_quantiles = n_quantiles
        self.quantiles_total = n_quantiles * n_critics

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, action: mx.array, features: mx.array | None = None
    ) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param action: (batch, action_dim) actions in [-1, 1]
        :param features: (batch, features_dim) features of ``obs``, if already computed
        :return: (batch, n_critics, n_quantiles)
        """
        return mx.stack([*super().forward(obs, action, features)], axis=1)


class TQCPolicy(SACPolicy):
    """
    Actor and critics of TQC.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers, one list for both or ``dict(pi=[…], qf=[…])``; two layers
        of 256 by default
    :param activation_fn: class of the activations
    :param use_sde: state-dependent exploration (gSDE)
    :param log_std_init: with gSDE, initial log standard deviation
    :param use_expln: with gSDE, ``expln`` instead of ``exp`` for the standard deviation
    :param clip_mean: with gSDE, largest absolute mean before tanh; 0 does not clip it
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    :param n_quantiles: number of quantiles that each critic gives
    :param n_critics: number of critics
    :param share_features_extractor: one extractor for actor and critics, trained by the actor's loss alone
    """

    actor_class = Actor
    critic_class = Critic
    actor: Actor
    critic: Critic
    critic_target: Critic

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        use_sde: bool = False,
        log_std_init: float = -3,
        use_expln: bool = False,
        clip_mean: float = 2.0,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_quantiles: int = 25,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        assert n_quantiles >= 1, f"`n_quantiles` must be at least 1, got {n_quantiles}."
        # SAC's own would not know what the critics take.
        ContinuousPolicy.__init__(
            self,
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
            n_critics,
            share_features_extractor,
            actor_kwargs={
                "use_sde": use_sde,
                "log_std_init": log_std_init,
                "use_expln": use_expln,
                "clip_mean": clip_mean,
            },
            critic_kwargs={"n_quantiles": n_quantiles},
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_quantiles": self.critic_kwargs["n_quantiles"]}


MlpPolicy = TQCPolicy


class CnnPolicy(TQCPolicy):
    """:class:`TQCPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(TQCPolicy):
    """:class:`TQCPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor
