"""Policies of the on-policy algorithms: an action distribution and a value function."""

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from gymnasium import spaces

from mlx_baselines3.common._types import PyTorchObs, Schedule
from mlx_baselines3.common.cuda.nvrtc import usable
from mlx_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
    make_proba_distribution,
)
from mlx_baselines3.common.native.actor import DRAWING, Blueprint, Layer, blueprint, mlp_layers, observed
from mlx_baselines3.common.native.eligibility import NotNative, check_parts, check_unchanged
from mlx_baselines3.common.nn.fused_mlp import Net, fused
from mlx_baselines3.common.nn.layers import Linear, Sequential, call, named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.policies.evaluated import evaluate
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
)

_HEADS: dict[type[Distribution], str] = {
    CategoricalDistribution: "categorical",
    MultiCategoricalDistribution: "multi_categorical",
    BernoulliDistribution: "bernoulli",
    DiagGaussianDistribution: "gaussian",
    StateDependentNoiseDistribution: "state_dependent",
}
# Methods that a subclass may override, so that the layers alone do not determine actions and values.
_DECISIVE = (
    "__call__", "forward", "_predict", "evaluate_actions", "get_distribution", "predict_values",
    "extract_features", "obs_to_tensor", "_latents", "_get_action_dist_from_latent",
    "reset_noise",
)  # fmt: skip


class ActorCriticPolicy(BasePolicy):
    """
    Policy and value function of PPO and A2C.

    :param observation_space: space of one observation
    :param action_space: space of one action
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers, one list for both or ``dict(pi=[…], vf=[…])``; two layers
        of 64 each by default, none after a NatureCNN
    :param activation_fn: class of the activations
    :param ortho_init: orthogonal initial weights
    :param use_sde: state-dependent exploration
    :param log_std_init: initial log standard deviation of continuous actions
    :param full_std: with gSDE, one standard deviation per (feature, action) instead of per feature
    :param use_expln: with gSDE, ``expln`` instead of ``exp`` for the standard deviation
    :param squash_output: with gSDE, squash the actions with tanh
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param share_features_extractor: one extractor for policy and value instead of two
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate; Adam's ``eps`` is 1e-5 by default
    """

    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5} if optimizer_class is optim.Adam else {}
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=squash_output,
            normalize_images=normalize_images,
        )
        assert not (squash_output and not use_sde), (
            "squash_output=True is only available with gSDE (use_sde=True)."
        )
        self.net_arch = self._resolve_net_arch(net_arch)
        self.activation_fn = activation_fn
        self.ortho_init = ortho_init
        self.use_sde = use_sde
        self.log_std_init = log_std_init
        self.share_features_extractor = share_features_extractor
        self._make_features_extractors()
        self.dist_kwargs = (
            {
                "full_std": full_std,
                "squash_output": squash_output,
                "use_expln": use_expln,
                "learn_features": False,
            }
            if use_sde
            else None
        )
        self.action_dist = self._make_distribution()
        self._build(lr_schedule)

    def _make_distribution(self) -> Distribution:
        return make_proba_distribution(self.action_space, self.use_sde, self.dist_kwargs)

    def _resolve_net_arch(self, net_arch: Any) -> list[int] | dict[str, list[int]]:
        if isinstance(net_arch, list) and net_arch and isinstance(net_arch[0], dict):
            warnings.warn(
                "Shared layers in the mlp_extractor are gone since SB3 1.8: pass a dictionary "
                "(net_arch=dict(pi=..., vf=...)), not a list of one (net_arch=[dict(pi=..., vf=...)]).",
                stacklevel=4,
            )
            net_arch = net_arch[0]
        if net_arch is None:
            net_arch = [] if self.features_extractor_class is NatureCNN else {"pi": [64, 64], "vf": [64, 64]}
        return net_arch

    def _make_features_extractors(self) -> None:
        self.features_extractor = self.make_features_extractor()
        self.features_dim = self.features_extractor.features_dim
        self.set_alias("pi_features_extractor", self.features_extractor)
        self._parameter_aliases["pi_features_extractor"] = "features_extractor"
        if self.share_features_extractor:
            self.set_alias("vf_features_extractor", self.features_extractor)
            self._parameter_aliases["vf_features_extractor"] = "features_extractor"
        else:
            self.vf_features_extractor = self.make_features_extractor()

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        if key == "features_extractor" and "pi_features_extractor" in vars(self):
            # Aliases of a replaced extractor refer to the new one.
            for alias in ("pi_features_extractor", "vf_features_extractor"):
                if alias in vars(self):
                    self.set_alias(alias, value)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        sde_kwargs = self.dist_kwargs or {}
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "use_sde": self.use_sde,
            "log_std_init": self.log_std_init,
            "squash_output": sde_kwargs.get("squash_output", False),
            "full_std": sde_kwargs.get("full_std", True),
            "use_expln": sde_kwargs.get("use_expln", False),
            "lr_schedule": self._dummy_schedule,
            "ortho_init": self.ortho_init,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "share_features_extractor": self.share_features_extractor,
        }

    def reset_noise(self, n_envs: int = 1) -> None:
        """
        Draw new exploration matrices (gSDE).

        :param n_envs: number of parallel environments, one matrix each
        """
        assert isinstance(self.action_dist, StateDependentNoiseDistribution), (
            "reset_noise() is only available with gSDE (use_sde=True)."
        )
        self.action_dist.sample_weights(self.log_std, batch_size=n_envs)
        evaluate(self.action_dist)

    def _build_mlp_extractor(self) -> None:
        """Create ``self.mlp_extractor``; subclasses may override it with a custom network."""
        self.mlp_extractor = MlpExtractor(self.features_dim, self.net_arch, self.activation_fn, self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        """
        Create the networks and the optimizer.

        :param lr_schedule: ``lr_schedule(1)`` is the initial learning rate
        """
        self._build_mlp_extractor()
        latent_dim_pi = self.mlp_extractor.latent_dim_pi
        if isinstance(self.action_dist, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
            self.action_net, self.log_std = self.action_dist.proba_distribution_net(
                latent_dim_pi, log_std_init=self.log_std_init
            )
        else:
            self.action_net = self.action_dist.proba_distribution_net(latent_dim_pi)
        self.value_net = Linear(self.mlp_extractor.latent_dim_vf, 1)
        if self.ortho_init:
            self._init_orthogonal()
        mx.eval(named_parameters(self))
        self.optimizer = ParameterOptimizer(self, self.optimizer_class, lr_schedule(1), self.optimizer_kwargs)

    def _init_orthogonal(self) -> None:
        gains = [
            (self.features_extractor, math.sqrt(2)),
            (self.mlp_extractor, math.sqrt(2)),
            (self.action_net, 0.01),
            (self.value_net, 1.0),
        ]
        if not self.share_features_extractor:
            gains.append((self.vf_features_extractor, math.sqrt(2)))
        for network, gain in gains:
            for module in network.modules():
                self.init_weights(module, gain=gain)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[mx.array, mx.array, mx.array]:
        """
        :param obs: (batch, ...) observations
        :param deterministic: return the most likely actions instead of samples
        :return: (batch, ...) actions, (batch, 1) values, (batch,) log likelihood of the actions
        """
        latent_pi, latent_vf = self._latents(obs)
        distribution = self._get_action_dist_from_latent(latent_pi)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        actions = actions.reshape((-1, *(self.action_space.shape or ())))
        return actions, self.value_net(latent_vf), log_prob

    def _latents(self, obs: PyTorchObs) -> tuple[mx.array, mx.array]:
        features = self.extract_features(obs)
        if self.share_features_extractor:
            return call(self.mlp_extractor, features)
        pi_features, vf_features = features
        return self.mlp_extractor.forward_actor(pi_features), self.mlp_extractor.forward_critic(vf_features)

    def extract_features(  # type: ignore[override]  # as in SB3, the pair is this class's own answer
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None
    ) -> mx.array | tuple[mx.array, mx.array]:
        """
        :param obs: (batch, ...) observations
        :param features_extractor: the module to use (default: the policy's); only if it is shared
        :return: (batch, features_dim), or two of them (policy, value) if the extractor is not shared
        """
        if self.share_features_extractor:
            return super().extract_features(obs, features_extractor or self.features_extractor)
        if features_extractor is not None:
            warnings.warn(
                "The given features_extractor is ignored, because policy and value do not share one.",
                UserWarning,
                stacklevel=2,
            )
        return (
            super().extract_features(obs, self.pi_features_extractor),
            super().extract_features(obs, self.vf_features_extractor),
        )

    def _get_action_dist_from_latent(self, latent_pi: mx.array) -> Distribution:
        """
        :param latent_pi: (batch, latent_dim_pi) features of the policy
        :return: the distribution of the actions
        """
        parameters = [self.action_net(latent_pi)]
        if isinstance(self.action_dist, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
            parameters.append(self.log_std)
        if isinstance(self.action_dist, StateDependentNoiseDistribution):
            parameters.append(latent_pi)
        return self.action_dist.proba_distribution(*parameters)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        return self.get_distribution(observation).get_actions(deterministic=deterministic)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: mx.array
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """
        :param obs: (batch, ...) observations
        :param actions: (batch, ...) actions
        :return: (batch, 1) values, (batch,) log likelihood of the actions, and (batch,) entropy of the
            distribution or None if there is no closed form
        """
        distribution, values = self._distribution_and_values(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def _distribution_and_values(self, obs: PyTorchObs) -> tuple[Distribution, mx.array]:
        if (found := self._evaluate_fused(obs)) is not None:
            return found
        latent_pi, latent_vf = self._latents(obs)
        return self._get_action_dist_from_latent(latent_pi), self.value_net(latent_vf)

    def _evaluate_fused(self, obs: PyTorchObs) -> tuple[Distribution, mx.array] | None:
        """Distribution and values by this package's kernels for NVIDIA GPUs; None where MLX computes."""
        mlp, kind = self.mlp_extractor, type(self)
        own = ("_latents", "_get_action_dist_from_latent", "extract_features")
        if (
            not usable()
            or type(mlp) is not MlpExtractor
            or not self.share_features_extractor
            or {type(mlp.policy_net), type(mlp.value_net)} != {Sequential}
            or isinstance(self.action_dist, StateDependentNoiseDistribution)
            or any(getattr(kind, name) is not getattr(ActorCriticPolicy, name) for name in own)
        ):
            return None
        features = self.extract_features(obs)
        assert isinstance(features, mx.array)
        heads = (mlp.policy_net, self.action_net), (mlp.value_net, self.value_net)
        together = fused([Net([*net.layers()], (head,)) for net, head in heads], features)
        if together is None:
            return None
        (parameters,), (values,) = together
        gaussian = isinstance(self.action_dist, DiagGaussianDistribution)
        rest = (self.log_std,) if gaussian else ()
        return self.action_dist.proba_distribution(parameters, *rest), values

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """
        :param obs: (batch, ...) observations
        :return: the distribution of the actions
        """
        features = super().extract_features(obs, self.pi_features_extractor)
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(features))

    def predict_values(self, obs: PyTorchObs) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :return: (batch, 1) values
        """
        features = super().extract_features(obs, self.vf_features_extractor)
        return self.value_net(self.mlp_extractor.forward_critic(features))


class ActorCriticCnnPolicy(ActorCriticPolicy):
    """:class:`ActorCriticPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MultiInputActorCriticPolicy(ActorCriticPolicy):
    """:class:`ActorCriticPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor


@blueprint.register
def _actor_critic_blueprint(policy: ActorCriticPolicy) -> Blueprint:
    return actor_critic_blueprint(policy, _HEADS, ActorCriticPolicy, _DECISIVE)


def actor_critic_blueprint(
    policy: ActorCriticPolicy,
    heads: Mapping[type[Distribution], str],
    base: type[ActorCriticPolicy],
    decisive: Collection[str],
) -> Blueprint:
    """
    :param policy: a policy with the networks of :class:`ActorCriticPolicy`
    :param heads: class of a distribution -> name of the head that acts natively
    :param base: the class of this package whose methods act as the layers say
    :param decisive: the methods that nobody may have overridden
    :return: how it computes actions and values
    :raises NotNative: only MLX can
    """
    dist = policy.action_dist
    head = heads.get(type(dist))
    if head is None:
        raise NotNative(f"the actions follow a {type(dist).__name__}")
    noise = dist if isinstance(dist, StateDependentNoiseDistribution) else None
    if noise is not None and noise.bijector is not None:
        head = f"squashed_{head}"
    check_unchanged(policy, base, decisive)
    check_unchanged(dist, type(dist), (*DRAWING, "log_prob"))
    if noise is not None:
        check_unchanged(dist, type(dist), ("get_std",))
        epsilons = [part.epsilon for part in (noise, noise.bijector) if part is not None]
        if any(epsilon != 1e-6 for epsilon in epsilons):
            raise NotNative(f"the epsilons of the noise are {epsilons}")
    mlp = policy.mlp_extractor
    extractors = (policy.pi_features_extractor, policy.vf_features_extractor)
    check_parts(
        (mlp, MlpExtractor),
        (policy.action_net, nn.Linear),
        (policy.value_net, nn.Linear),
    )
    check_unchanged(mlp, MlpExtractor, ("__call__", "forward", "forward_actor", "forward_critic"))
    keys, codes, (features, critic_features) = observed(policy, *extractors)
    return Blueprint(
        layers=(*mlp_layers(mlp.policy_net), Layer((policy.action_net,))),
        head=head,
        options=tuple(dist.action_dims) if head == "multi_categorical" else (),  # type: ignore[attr-defined]
        log_std_owner=policy if noise or head == "gaussian" else None,
        critic=(*mlp_layers(mlp.value_net), Layer((policy.value_net,))),
        noise=noise,
        keys=keys,
        codes=codes,
        features=features,
        critic_features=critic_features,
    )
