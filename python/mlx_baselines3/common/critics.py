"""The action-value networks of SAC, TD3 and DDPG."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from gymnasium import spaces

from mlx_baselines3.common.base_policy import BaseModel
from mlx_baselines3.common.layers import Sequential
from mlx_baselines3.common.preprocessing import get_action_dim
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from mlx_baselines3.common.type_aliases import PyTorchObs


class ContinuousCritic(BaseModel):
    """
    One or more networks Q(s, a) for continuous actions, called ``qf0``, ``qf1``, …

    Several networks, of which the smallest answer is taken, keep the estimate from growing too large
    (clipped double Q-learning, https://arxiv.org/abs/1802.09477).

    :param observation_space: space of one observation
    :param action_space: a Box
    :param net_arch: units of the hidden layers
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param normalize_images: divide uint8 images by 255
    :param n_critics: number of networks
    :param share_features_extractor: the extractor is the actor's, and only the actor's loss trains it
    """

    features_extractor: BaseFeaturesExtractor

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
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.share_features_extractor = share_features_extractor
        self.n_critics = n_critics
        input_dim = features_dim + get_action_dim(action_space)
        for i in range(n_critics):
            setattr(self, f"qf{i}", Sequential(*create_mlp(input_dim, 1, net_arch, activation_fn)))

    @property
    def q_networks(self) -> list[Sequential]:
        """:return: the networks in order"""
        return [getattr(self, f"qf{i}") for i in range(self.n_critics)]

    def forward(self, obs: PyTorchObs, actions: mx.array) -> tuple[mx.array, ...]:
        """
        :param obs: (batch, ...) observations
        :param actions: (batch, action_dim) actions in [-1, 1]
        :return: (batch, 1) from each network
        """
        features = self.extract_features(obs, self.features_extractor)
        if self.share_features_extractor:
            features = mx.stop_gradient(features)
        qvalue_input = mx.concatenate([features, actions], axis=1)
        return tuple(q_net(qvalue_input) for q_net in self.q_networks)

    def q1_forward(self, obs: PyTorchObs, actions: mx.array) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param actions: (batch, action_dim) actions in [-1, 1]
        :return: (batch, 1) from the first network alone; no gradient reaches the features
        """
        features = mx.stop_gradient(self.extract_features(obs, self.features_extractor))
        return self.qf0(mx.concatenate([features, actions], axis=1))
