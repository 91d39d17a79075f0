"""The networks of CrossQ."""

from functools import partial
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
from gymnasium import spaces

from mlx_baselines3.common.distributions import (
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.policies import BaseModel, BasePolicy
from mlx_baselines3.common.policies.critics import ContinuousCritic, ContinuousPolicy
from mlx_baselines3.common.preprocessing import get_action_dim
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    create_mlp,
    get_actor_critic_arch,
)
from mlx_baselines3.common.type_aliases import PyTorchObs, Schedule
from mlx_baselines3.contrib.common.torch_layers import BatchRenorm1d, set_renorm_training_mode
from mlx_baselines3.sac import policies as sac
from mlx_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy

__all__ = [
    "LOG_STD_MAX",
    "LOG_STD_MIN",
    "Actor",
    "BaseFeaturesExtractor",
    "BaseModel",
    "BasePolicy",
    "BatchRenorm1d",
    "CrossQCritic",
    "CrossQPolicy",
    "FlattenExtractor",
    "MlpPolicy",
    "PyTorchObs",
    "Schedule",
    "SquashedDiagGaussianDistribution",
    "StateDependentNoiseDistribution",
    "create_mlp",
    "get_action_dim",
    "get_actor_critic_arch",
]


def _renorms(batch_norm: bool, momentum: float, eps: float, warmup_steps: int) -> list[Any]:
    """:return: what makes the modules before a linear layer"""
    if not batch_norm:
        return []
    return [partial(BatchRenorm1d, momentum=momentum, eps=eps, warmup_steps=warmup_steps)]


class Actor(sac.Actor):
    """
    SAC's actor with batch renormalizations before its linear layers.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param net_arch: units of the hidden layers
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param use_sde: state-dependent exploration (gSDE)
    :param log_std_init: with gSDE, initial log standard deviation
    :param full_std: with gSDE, one standard deviation per (feature, action) instead of per feature
    :param use_expln: with gSDE, ``expln`` instead of ``exp`` for the standard deviation
    :param clip_mean: with gSDE, largest absolute mean before tanh; 0 does not clip it
    :param normalize_images: divide uint8 images by 255
    :param batch_norm: put a batch renormalization before each linear layer
    :param batch_norm_momentum: how far its running averages move with each batch
    :param batch_norm_eps: added to variances
    :param renorm_warmup_steps: batches before they are corrected towards the running averages
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        use_sde: bool = False,
        log_std_init: float = -3,
        full_std: bool = True,
        use_expln: bool = False,
        clip_mean: float = 2.0,
        normalize_images: bool = True,
        batch_norm: bool = True,
        batch_norm_momentum: float = 0.01,
        batch_norm_eps: float = 0.001,
        renorm_warmup_steps: int = 100_000,
    ):
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            use_sde,
            log_std_init,
            full_std,
            use_expln,
            clip_mean,
            normalize_images,
        )
        self.batch_norm_params = {
            "batch_norm": batch_norm,
            "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_eps": batch_norm_eps,
            "renorm_warmup_steps": renorm_warmup_steps,
        }
        if renorms := _renorms(batch_norm, batch_norm_momentum, batch_norm_eps, renorm_warmup_steps):
            layers = create_mlp(features_dim, -1, net_arch, activation_fn, pre_linear_modules=renorms)
            # One before the heads, too.
            layers += [make(net_arch[-1]) for make in renorms if net_arch]
            self.latent_pi = Sequential(*layers)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.batch_norm_params}

    def set_bn_training_mode(self, mode: bool) -> None:
        """
        Set the mode of the batch renormalizations alone.

        :param mode: True for training: they normalize by the batch, and their running averages follow
        """
        set_renorm_training_mode(self, mode)


class CrossQCritic(ContinuousCritic):
    """
    One or more networks Q(s, a) with batch renormalizations before their linear layers.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param net_arch: units of the hidden layers
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param normalize_images: divide uint8 images by 255
    :param n_critics: number of networks
    :param share_features_extractor: the extractor is the actor's, and only the actor's loss trains it
    :param batch_norm: put a batch renormalization before each linear layer
    :param batch_norm_momentum: how far its running averages move with each batch
    :param batch_norm_eps: added to variances
    :param renorm_warmup_steps: batches before they are corrected towards the running averages
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
        n_critics: int = 2,
        share_features_extractor: bool = True,
        batch_norm: bool = True,
        batch_norm_momentum: float = 0.01,
        batch_norm_eps: float = 0.001,
        renorm_warmup_steps: int = 100_000,
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
            pre_linear_modules=_renorms(batch_norm, batch_norm_momentum, batch_norm_eps, renorm_warmup_steps),
        )

    def set_bn_training_mode(self, mode: bool) -> None:
        """
        Set the mode of the batch renormalizations alone.

        :param mode: True for training: they normalize by the batch, and their running averages follow
        """
        set_renorm_training_mode(self, mode)


class CrossQPolicy(SACPolicy):
    """
    Actor and critics of CrossQ; there are no target networks.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers, one list for both or ``dict(pi=[…], qf=[…])``; by
        default two layers of 256 for the actor and two of 1024 for the critics
    :param activation_fn: class of the activations
    :param batch_norm: put a batch renormalization before each linear layer
    :param batch_norm_momentum: how far its running averages move with each batch
    :param batch_norm_eps: added to variances
    :param renorm_warmup_steps: batches before they are corrected towards the running averages
    :param use_sde: state-dependent exploration (gSDE)
    :param log_std_init: with gSDE, initial log standard deviation
    :param use_expln: with gSDE, ``expln`` instead of ``exp`` for the standard deviation
    :param clip_mean: with gSDE, largest absolute mean before tanh; 0 does not clip it
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate; by default Adam and AdamW get
        ``betas=(0.5, 0.999)``
    :param n_critics: number of critics
    :param share_features_extractor: one extractor for actor and critics, trained by the actor's loss alone
    """

    actor_class = Actor
    critic_class = CrossQCritic
    actor: Actor
    critic: CrossQCritic

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        batch_norm: bool = True,
        batch_norm_momentum: float = 0.01,
        batch_norm_eps: float = 0.001,
        renorm_warmup_steps: int = 100_000,
        use_sde: bool = False,
        log_std_init: float = -3,
        use_expln: bool = False,
        clip_mean: float = 2.0,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        if optimizer_kwargs is None:
            # The paper's, instead of Adam's usual 0.9.
            knows_betas = issubclass(optimizer_class, (optim.Adam, optim.AdamW))
            optimizer_kwargs = {"betas": (0.5, 0.999)} if knows_betas else {}
        self.batch_norm_params = {
            "batch_norm": batch_norm,
            "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_eps": batch_norm_eps,
            "renorm_warmup_steps": renorm_warmup_steps,
        }
        sde = {
            "use_sde": use_sde,
            "log_std_init": log_std_init,
            "use_expln": use_expln,
            "clip_mean": clip_mean,
        }
        # SAC's own would not know what the networks take.
        ContinuousPolicy.__init__(
            self,
            observation_space,
            action_space,
            lr_schedule,
            {"pi": [256, 256], "qf": [1024, 1024]} if net_arch is None else net_arch,
            activation_fn,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
            n_critics,
            share_features_extractor,
            actor_kwargs={**self.batch_norm_params, **sde},
            critic_kwargs=self.batch_norm_params,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.critic = self.make_critic(
            self.actor.features_extractor if self.share_features_extractor else None
        )
        if self.share_features_extractor:
            self._share_extractor("critic", lender="actor")
        self._make_optimizers(lr_schedule)

    def update_networks(self) -> tuple[dict[str, nn.Module], dict[str, str]]:
        """:return: name -> network that an update reads or changes; and no target networks"""
        return {"actor": self.actor, "critic": self.critic}, {}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.batch_norm_params}


MlpPolicy = CrossQPolicy
