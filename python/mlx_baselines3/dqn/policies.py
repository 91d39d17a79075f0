"""The networks of DQN."""

from typing import Any, ClassVar

import mlx.core as mx
import mlx.optimizers as optim
from gymnasium import spaces
from mlx import nn

from mlx_baselines3.common.native.actor import Blueprint, blueprint, mlp_layers, observed
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.fused_mlp import Net, fused
from mlx_baselines3.common.nn.layers import Sequential, named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer, nothing_to_train
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

__all__ = [
    "BaseFeaturesExtractor",
    "BasePolicy",
    "CnnPolicy",
    "CombinedExtractor",
    "DQNPolicy",
    "FlattenExtractor",
    "MlpPolicy",
    "MultiInputPolicy",
    "NatureCNN",
    "PyTorchObs",
    "QNetwork",
    "Schedule",
    "ValuePolicy",
    "create_mlp",
]


class QNetwork(GivenExtractorPolicy):
    """
    The network Q(s, .) and its greedy policy.

    :param observation_space: space of one observation
    :param action_space: a Discrete space
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
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
        layers = create_mlp(features_dim, int(action_space.n), self.net_arch, activation_fn)
        self.q_net = Sequential(*layers)

    def forward(self, obs: PyTorchObs) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :return: (batch, actions) values Q(s, .)
        """
        features = self.extract_features(obs, self.features_extractor)
        if type(self.q_net) is Sequential and (found := fused([Net([*self.q_net.layers()], ())], features)):
            return found[0][0]
        return self.q_net(features)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> mx.array:
        return self(observation).argmax(axis=1).astype(mx.int64)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
        }


class ValuePolicy(BasePolicy):
    """
    Base class of the policies of DQN and QR-DQN: a network of values, its target network, and an optimizer.

    :param observation_space: space of one observation
    :param action_space: a Discrete space
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers; two of 64 by default, none after a NatureCNN
    :param activation_fn: class of the activations
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    :param network_kwargs: arguments of the network that other networks do not have
    """

    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    # The attribute of the network; with "_target" behind it, that of its target network.
    network_name: ClassVar[str]
    network_class: ClassVar[type[GivenExtractorPolicy]]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None,
        activation_fn: type[nn.Module],
        features_extractor_class: type[BaseFeaturesExtractor] | None,
        features_extractor_kwargs: dict[str, Any] | None,
        normalize_images: bool,
        optimizer_class: type[optim.Optimizer],
        optimizer_kwargs: dict[str, Any] | None,
        network_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
        )
        if net_arch is None:
            net_arch = [] if self.features_extractor_class is NatureCNN else [64, 64]
        self.net_arch = net_arch
        self.activation_fn = activation_fn
        self.net_args = {
            "observation_space": observation_space,
            "action_space": action_space,
            **(network_kwargs or {}),
            "net_arch": net_arch,
            "activation_fn": activation_fn,
            "normalize_images": normalize_images,
        }
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        """
        Create the network, its target network with equal parameters, and the optimizer.

        :param lr_schedule: ``lr_schedule(1)`` is the initial learning rate
        """
        network, target = self._make_network(), self._make_network()
        setattr(self, self.network_name, network)
        setattr(self, f"{self.network_name}_target", target)
        # Copies: shared arrays could be changed in place through either network.
        copies = {name: mx.array(value) for name, value in network.state_dict().items()}
        target.load_state_dict(copies)
        target.set_training_mode(False)
        mx.eval(named_parameters(self))
        self.optimizer = ParameterOptimizer(
            network, self.optimizer_class, lr_schedule(1), self.optimizer_kwargs
        )

    def _network(self) -> GivenExtractorPolicy:
        """:return: the network that learns"""
        network: GivenExtractorPolicy = getattr(self, self.network_name)
        return network

    def _make_network(self) -> GivenExtractorPolicy:
        """:return: a new network with its own features extractor"""
        network = self.network_class(**self._update_features_extractor(self.net_args)).to(self.device)
        network.features_extractor_kwargs = self.features_extractor_kwargs
        return network

    def _optimizer_of(self, optimizer: optim.Optimizer) -> ParameterOptimizer:
        return ParameterOptimizer.around(self._network(), optimizer)

    def settle_optimizers(self) -> None:
        """Update the optimizer for parameters frozen, thawed or replaced since the last update."""
        self.optimizer.follow(self._network())
        if not self.optimizer.names:
            raise nothing_to_train("the Q network")

    def forward(self, obs: PyTorchObs, deterministic: bool = True) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param deterministic: not used; exploration is part of the algorithm, not of the network
        :return: (batch,) greedy actions
        """
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> mx.array:
        return self._network()._predict(observation, deterministic=deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }

    def set_training_mode(self, mode: bool) -> None:
        """
        Set training or evaluation mode of the network; the target network is always in evaluation mode.

        :param mode: True for training
        """
        self._network().set_training_mode(mode)
        # A module's `__setattr__` takes longer than the rest, and every update asks.
        object.__setattr__(self, "_training", mode)


class DQNPolicy(ValuePolicy):
    """
    A Q network and its target network.

    :param observation_space: space of one observation
    :param action_space: a Discrete space
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers; two of 64 by default, none after a NatureCNN
    :param activation_fn: class of the activations
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    """

    network_name = "q_net"
    network_class = QNetwork
    q_net: QNetwork
    q_net_target: QNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
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
        )

    def _make_network(self) -> GivenExtractorPolicy:
        # SB3's name of the method, which subclasses override.
        return self.make_q_net()

    def make_q_net(self) -> QNetwork:
        """:return: a new network with its own features extractor"""
        network = super()._make_network()
        assert isinstance(network, QNetwork)
        return network


MlpPolicy = DQNPolicy


class CnnPolicy(DQNPolicy):
    """:class:`DQNPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(DQNPolicy):
    """:class:`DQNPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor


@blueprint.register
def _dqn_blueprint(policy: DQNPolicy) -> Blueprint:
    q_net = policy.q_net
    check_unchanged(policy, DQNPolicy, ("__call__", "forward", "_predict", "obs_to_tensor"))
    check_unchanged(q_net, QNetwork, ("__call__", "forward", "_predict", "extract_features"))
    keys, codes, (features,) = observed(q_net, q_net.features_extractor)
    # DQN draws random actions before it calls the policy.
    return Blueprint(
        tuple(mlp_layers(q_net.q_net)), "epsilon_greedy", keys=keys, codes=codes, features=features
    )
