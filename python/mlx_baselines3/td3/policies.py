"""The networks of TD3 and DDPG."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from gymnasium import spaces

from mlx_baselines3.common.native.actor import Blueprint, blueprint, mlp_layers, observed
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.policies import BasePolicy, ContinuousCritic
from mlx_baselines3.common.policies.critics import ContinuousActor, ContinuousPolicy
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

__all__ = [
    "Actor",
    "BaseFeaturesExtractor",
    "BasePolicy",
    "CnnPolicy",
    "CombinedExtractor",
    "ContinuousCritic",
    "FlattenExtractor",
    "MlpPolicy",
    "MultiInputPolicy",
    "NatureCNN",
    "PyTorchObs",
    "Schedule",
    "TD3Policy",
    "create_mlp",
    "get_action_dim",
    "get_actor_critic_arch",
]


class Actor(ContinuousActor):
    """
    A network that maps observations to actions, with a tanh at the end.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param net_arch: units of the hidden layers
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param normalize_images: divide uint8 images by 255
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
    ):
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            normalize_images,
        )
        action_dim = get_action_dim(action_space)
        self.mu = Sequential(
            *create_mlp(features_dim, action_dim, net_arch, activation_fn, squash_output=True)
        )

    def forward(self, obs: PyTorchObs, features: mx.array | None = None) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param features: (batch, features_dim) features of ``obs``, if already computed
        :return: (batch, action_dim) actions in [-1, 1]
        """
        if features is None:
            features = self.extract_features(obs, self.features_extractor)
        return self.mu(features)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        return self(observation)


class TD3Policy(ContinuousPolicy):
    """
    Actor and critics of TD3 and DDPG, and their target networks.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers, one list for both or ``dict(pi=[…], qf=[…])``; by default
        400 and 300 as in the paper, 256 and 256 after a NatureCNN
    :param activation_fn: class of the activations
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    :param n_critics: number of critics
    :param share_features_extractor: one extractor for actor and critics, trained by the actor's loss alone
    """

    actor_class = Actor
    actor: Actor
    actor_target: Actor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        super().__init__(
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
        )

    def _default_net_arch(self) -> list[int]:
        return [256, 256] if self.features_extractor_class is NatureCNN else [400, 300]

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.actor_target = self.make_actor()
        self._copy_network("actor", "actor_target")
        for critic, actor in (("critic", self.actor), ("critic_target", self.actor_target)):
            shared = actor.features_extractor if self.share_features_extractor else None
            setattr(self, critic, self.make_critic(shared))
        if self.share_features_extractor:
            self._share_extractor("critic", lender="actor")
            self._share_extractor("critic_target", lender="actor_target")
        self._copy_network("critic", "critic_target")
        self._make_optimizers(lr_schedule)

    def update_networks(self) -> tuple[dict[str, nn.Module], dict[str, str]]:
        """:return: name -> network that an update reads or changes; and target network -> its original"""
        networks, targets = super().update_networks()
        networks["actor_target"] = self.actor_target
        if not self.share_features_extractor:
            return networks, {**targets, "actor_target": "actor"}
        # The target of a shared extractor is updated twice, with the critics and with the actor, as in SB3.
        # For that, the actor's target network follows the actor under a name without an optimizer, so that
        # its arrays are not packed into one.
        networks["plain_actor"] = self.actor
        networks["extractor"] = self.actor.features_extractor
        networks["extractor_target"] = self.actor_target.features_extractor
        return networks, {**targets, "extractor_target": "extractor", "actor_target": "plain_actor"}

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        """
        :param observation: (batch, ...) observations
        :param deterministic: ignored; the actions are always deterministic
        :return: (batch, action_dim) actions in [-1, 1]
        """
        return self._predict(observation, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        return self.actor(observation)


MlpPolicy = TD3Policy


class CnnPolicy(TD3Policy):
    """:class:`TD3Policy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(TD3Policy):
    """:class:`TD3Policy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor


@blueprint.register
def _td3_blueprint(policy: TD3Policy) -> Blueprint:
    actor = policy.actor
    check_unchanged(policy, TD3Policy, ("__call__", "forward", "_predict", "obs_to_tensor"))
    check_unchanged(actor, Actor, ("__call__", "forward", "_predict", "extract_features"))
    keys, codes, (features,) = observed(actor, actor.features_extractor)
    return Blueprint(tuple(mlp_layers(actor.mu)), "deterministic", keys=keys, codes=codes, features=features)
