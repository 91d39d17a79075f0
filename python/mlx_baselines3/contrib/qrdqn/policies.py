"""The networks of QR-DQN."""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from gymnasium import spaces
from mlx import nn

from mlx_baselines3.common.native.actor import Blueprint, blueprint, mlp_layers, observed
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.fused_mlp import Net, fused
from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.policies.given_extractor import GivenExtractorPolicy
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from mlx_baselines3.common.type_aliases import PyTorchObs, Schedule
from mlx_baselines3.dqn.policies import ValuePolicy

__all__ = [
    "BaseFeaturesExtractor",
    "BasePolicy",
    "CnnPolicy",
    "CombinedExtractor",
    "FlattenExtractor",
    "MlpPolicy",
    "MultiInputPolicy",
    "NatureCNN",
    "PyTorchObs",
    "QRDQNPolicy",
    "QuantileNetwork",
    "Schedule",
    "create_mlp",
]


class QuantileNetwork(GivenExtractorPolicy):
    """
    Quantiles of the return of every action, and the greedy policy of their means.

    :param observation_space: space of one observation
    :param action_space: a Discrete space
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param n_quantiles: number of quantiles of each action
    :param net_arch: units of the hidden layers; two of 64 by default
    :param activation_fn: class of the activations
    :param normalize_images: divide uint8 images by 255
    """

    action_space: spaces.Discrete

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        n_quantiles: int = 200,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor,
            features_dim,
            normalize_images=normalize_images,
        )
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.n_quantiles = n_quantiles
        outputs = int(action_space.n) * n_quantiles
        self.quantile_net = Sequential(*create_mlp(features_dim, outputs, self.net_arch, activation_fn))

    def forward(self, obs: PyTorchObs) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :return: (batch, n_quantiles, actions) quantiles of the returns
        """
        features = self.extract_features(obs, self.features_extractor)
        quantiles = None
        if type(self.quantile_net) is Sequential:
            found = fused([Net([*self.quantile_net.layers()], ())], features)
            quantiles = found[0][0] if found else None
        if quantiles is None:
            quantiles = self.quantile_net(features)
        return quantiles.reshape(-1, self.n_quantiles, int(self.action_space.n))

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> mx.array:
        return self(observation).mean(axis=1).argmax(axis=1).astype(mx.int64)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "n_quantiles": self.n_quantiles,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
        }


class QRDQNPolicy(ValuePolicy):
    """
    A quantile network and its target network.

    :param observation_space: space of one observation
    :param action_space: a Discrete space
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param n_quantiles: number of quantiles of each action
    :param net_arch: units of the hidden layers; two of 64 by default, none after a NatureCNN
    :param activation_fn: class of the activations
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    """

    network_name = "quantile_net"
    network_class = QuantileNetwork
    quantile_net: QuantileNetwork
    quantile_net_target: QuantileNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        n_quantiles: int = 200,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        assert n_quantiles >= 1, f"`n_quantiles` must be at least 1, got {n_quantiles}."
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
            network_kwargs={"n_quantiles": n_quantiles},
        )
        self.n_quantiles = n_quantiles

    def _make_network(self) -> GivenExtractorPolicy:
        # sb3-contrib's name of the method, which subclasses override.
        return self.make_quantile_net()

    def make_quantile_net(self) -> QuantileNetwork:
        """:return: a new network with its own features extractor"""
        network = super()._make_network()
        assert isinstance(network, QuantileNetwork)
        return network

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_quantiles": self.n_quantiles}


MlpPolicy = QRDQNPolicy


class CnnPolicy(QRDQNPolicy):
    """:class:`QRDQNPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(QRDQNPolicy):
    """:class:`QRDQNPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor


@blueprint.register
def _qrdqn_blueprint(policy: QRDQNPolicy) -> Blueprint:
    network = policy.quantile_net
    check_unchanged(policy, QRDQNPolicy, ("__call__", "forward", "_predict", "obs_to_tensor"))
    check_unchanged(network, QuantileNetwork, ("__call__", "forward", "_predict", "extract_features"))
    keys, codes, (features,) = observed(network, network.features_extractor)
    # The algorithm draws random actions before it calls the policy.
    options = (int(network.action_space.n),)
    return Blueprint(
        tuple(mlp_layers(network.quantile_net)),
        "greedy_quantiles",
        options,
        keys=keys,
        codes=codes,
        features=features,
    )
