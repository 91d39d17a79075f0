"""Q networks of SAC, TD3 and DDPG, and the base class of their policies."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from gymnasium import spaces

from mlx_baselines3.common._types import PyTorchObs, Schedule
from mlx_baselines3.common.nn.fused_mlp import Net, fused
from mlx_baselines3.common.nn.layers import Sequential, named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer, nothing_to_train
from mlx_baselines3.common.nn.streams import parallel_stream
from mlx_baselines3.common.policies.base import BaseModel, BasePolicy
from mlx_baselines3.common.policies.given_extractor import GivenExtractorPolicy
from mlx_baselines3.common.preprocessing import get_action_dim
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    create_mlp,
    get_actor_critic_arch,
)

__all__ = ["ContinuousActor", "ContinuousCritic", "ContinuousPolicy"]


class ContinuousCritic(BaseModel):
    """
    One or more networks Q(s, a) for continuous actions, called ``qf0``, ``qf1``, …

    The minimum of several networks reduces overestimation (clipped double Q-learning,
    https://arxiv.org/abs/1802.09477).

    :param observation_space: space of one observation
    :param action_space: a Box
    :param net_arch: units of the hidden layers
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param activation_fn: class of the activations
    :param normalize_images: divide uint8 images by 255
    :param n_critics: number of networks
    :param share_features_extractor: the extractor is the actor's, and only the actor's loss trains it
    :param output_dim: numbers that each network gives
    :param pre_linear_modules: classes of modules before each linear layer
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
        output_dim: int = 1,
        pre_linear_modules: list[Any] | None = None,
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
            layers = create_mlp(
                input_dim, output_dim, net_arch, activation_fn, pre_linear_modules=pre_linear_modules
            )
            setattr(self, f"qf{i}", Sequential(*layers))

    def _optimizer_of(self, optimizer: optim.Optimizer) -> ParameterOptimizer:
        # Imported here because the class below is used by this one.
        kind = BorrowerOptimizer if self.share_features_extractor else ParameterOptimizer
        return kind.around(self, optimizer)

    @property
    def q_networks(self) -> list[Sequential]:
        """:return: the networks in order"""
        return [getattr(self, f"qf{i}") for i in range(self.n_critics)]

    def forward(
        self, obs: PyTorchObs, actions: mx.array, features: mx.array | None = None
    ) -> tuple[mx.array, ...]:
        """
        :param obs: (batch, ...) observations
        :param actions: (batch, action_dim) actions in [-1, 1]
        :param features: (batch, features_dim) features of ``obs``, if already computed
        :return: (batch, output_dim) from each network
        """
        if features is None:
            features = self.extract_features(obs, self.features_extractor)
        if self.share_features_extractor:
            features = mx.stop_gradient(features)
        qvalue_input = mx.concatenate([features, actions], axis=1)
        nets = self.q_networks
        if all(type(net) is Sequential for net in nets):
            together = fused([Net([*net.layers()], ()) for net in nets], qvalue_input)
            if together is not None:
                return tuple(value for (value,) in together)
        values = []
        for index, q_net in enumerate(self.q_networks):
            with parallel_stream(index):
                values.append(q_net(qvalue_input))
        return tuple(values)

    def q1_forward(self, obs: PyTorchObs, actions: mx.array, features: mx.array | None = None) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param actions: (batch, action_dim) actions in [-1, 1]
        :param features: (batch, features_dim) features of ``obs``, if already computed
        :return: (batch, 1) of the first network only; no gradient reaches the features
        """
        if features is None:
            features = self.extract_features(obs, self.features_extractor)
        return self.qf0(mx.concatenate([mx.stop_gradient(features), actions], axis=1))


class ContinuousActor(GivenExtractorPolicy):
    """
    Base class of the actors of SAC and TD3: a given features extractor, a final tanh, and separate files.
    Arguments as in the actors.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module],
        normalize_images: bool,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor,
            features_dim,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.net_arch = net_arch
        self.activation_fn = activation_fn

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
        }


class BorrowerOptimizer(ParameterOptimizer):
    """An optimizer of critics that borrow the actor's extractor. Arguments as in its base."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Replace the state. After an error nothing has changed.

        :param state_dict: the result of :meth:`state_dict`, or a torch optimizer's. SB3's TD3 lists the
            extractor's arrays before the critics' own, but without a state
        :raises ValueError: if the names or shapes do not match this optimizer
        """
        if groups := state_dict.get("param_groups"):
            numbers = groups[0]["params"]
            group = {**groups[0], "params": numbers[len(numbers) - len(self.known_names) :]}
            state_dict = {**state_dict, "param_groups": [group]}
        super().load_state_dict(state_dict)


class ContinuousPolicy(BasePolicy):
    """
    Base class of the policies of SAC, TD3 and DDPG: an actor, critics, and their target networks.

    :param observation_space: space of one observation
    :param action_space: a Box
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers, one list for both or ``dict(pi=[…], qf=[…])``
    :param activation_fn: class of the activations
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate
    :param n_critics: number of critics
    :param share_features_extractor: one extractor for actor and critics, trained by the actor's loss alone
    :param actor_kwargs: arguments of the actor that critics do not have
    :param critic_kwargs: arguments of the critics that the actor does not have
    """

    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    actor_class: ClassVar[type[ContinuousActor]]
    critic_class: ClassVar[type[ContinuousCritic]] = ContinuousCritic
    actor: Any
    critic: ContinuousCritic
    critic_target: ContinuousCritic

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None,
        activation_fn: type[nn.Module],
        features_extractor_class: type[BaseFeaturesExtractor] | None,
        features_extractor_kwargs: dict[str, Any] | None,
        normalize_images: bool,
        optimizer_class: type[optim.Optimizer],
        optimizer_kwargs: dict[str, Any] | None,
        n_critics: int,
        share_features_extractor: bool,
        actor_kwargs: dict[str, Any] | None = None,
        critic_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        self.net_arch = self._default_net_arch() if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.share_features_extractor = share_features_extractor
        actor_arch, critic_arch = get_actor_critic_arch(self.net_arch)
        self.net_args = {
            "observation_space": observation_space,
            "action_space": action_space,
            "net_arch": actor_arch,
            "activation_fn": activation_fn,
            "normalize_images": normalize_images,
        }
        self.actor_kwargs = {**self.net_args, **(actor_kwargs or {})}
        self.critic_kwargs = {
            **self.net_args,
            "n_critics": n_critics,
            "net_arch": critic_arch,
            "share_features_extractor": share_features_extractor,
            **(critic_kwargs or {}),
        }
        self._build(lr_schedule)
        mx.eval(named_parameters(self))

    def _default_net_arch(self) -> list[int]:
        return [256, 256]

    def _build(self, lr_schedule: Schedule) -> None:
        """
        Create the networks and their optimizers.

        :param lr_schedule: ``lr_schedule(1)`` is the initial learning rate
        """
        raise NotImplementedError(f"{type(self).__name__} does not define its networks.")

    def settle_optimizers(self) -> None:
        """Update the optimizers for parameters frozen, thawed or replaced since the last update."""
        if (
            self.share_features_extractor
            and self.critic.features_extractor is not self.actor.features_extractor
        ):
            self._share_extractor("critic", lender="actor")
        self._make_optimizers(lambda _: 0.0, only_missing=True)
        self.actor.optimizer.follow(self.actor)
        self.critic.optimizer.follow(self.critic)
        if not self.critic.optimizer.names:
            raise nothing_to_train("the critics")

    def _make_optimizers(self, lr_schedule: Schedule, only_missing: bool = False) -> None:
        critics = BorrowerOptimizer if self.share_features_extractor else ParameterOptimizer
        for network, kind in ((self.actor, ParameterOptimizer), (self.critic, critics)):
            if only_missing and isinstance(getattr(network, "optimizer", None), ParameterOptimizer):
                continue
            network.optimizer = kind(network, self.optimizer_class, lr_schedule(1), self.optimizer_kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """
        :param features_extractor: the extractor to use; a new one is created by default
        :return: a new actor
        """
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        actor = self.actor_class(**kwargs).to(self.device)
        actor.features_extractor_kwargs = self.features_extractor_kwargs
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """
        :param features_extractor: the extractor to use; a new one is created by default
        :return: new critics
        """
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return self.critic_class(**kwargs).to(self.device)

    def _share_extractor(self, borrower: str, lender: str) -> None:
        """
        Let a network use another one's extractor, whose parameters remain the owner's.

        :param borrower: name of the network without an extractor
        :param lender: name of the network that owns it
        """
        extractor = getattr(self, lender).features_extractor
        getattr(self, borrower).borrow("features_extractor", extractor)
        self._parameter_aliases[f"{borrower}.features_extractor"] = f"{lender}.features_extractor"

    def _copy_network(self, source: str, target: str) -> None:
        """
        Copy the parameters of a network to its target network, which stays in evaluation mode.

        :param source: name of the network
        :param target: name of the target network
        """
        start = f"{source}."
        state = {
            # Copies: shared arrays could be changed in place through either network.
            f"{target}.{name.removeprefix(start)}": mx.array(array)
            for name, array in self.state_dict().items()
            if name.startswith(start)
        }
        set_named_parameters(self, {self._own_name(name): array for name, array in state.items()})
        getattr(self, target).set_training_mode(False)

    def shared_features(self, obs: PyTorchObs, actor: BasePolicy) -> dict[str, mx.array]:
        """
        Extract the features shared by actor and critics once.

        :param obs: (batch, ...) observations
        :param actor: the actor or its target network
        :return: ``{"features": …}`` to call both with, or an empty dict if each has its own extractor
        """
        if not self.share_features_extractor:
            return {}
        return {"features": actor.extract_features(obs, actor.features_extractor)}

    def update_networks(self) -> tuple[dict[str, nn.Module], dict[str, str]]:
        """:return: name -> network that an update reads or changes; and target network -> its original"""
        networks = {"actor": self.actor, "critic": self.critic, "critic_target": self.critic_target}
        return networks, {"critic_target": "critic"}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "n_critics": self.critic_kwargs["n_critics"],
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "share_features_extractor": self.share_features_extractor,
        }

    def set_training_mode(self, mode: bool) -> None:
        """
        Set training or evaluation mode of actor and critics; target networks are always in evaluation mode.

        :param mode: True for training
        """
        self.actor.set_training_mode(mode)
        self.critic.set_training_mode(mode)
        # A module's `__setattr__` takes longer than the rest, and every update asks.
        object.__setattr__(self, "_training", mode)
