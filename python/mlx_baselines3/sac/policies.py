"""The networks of Soft Actor-Critic."""

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from gymnasium import spaces

from mlx_baselines3.common.distributions import (
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from mlx_baselines3.common.distributions.base import TanhBijector, takes_noise
from mlx_baselines3.common.native.actor import DRAWING, Blueprint, Layer, blueprint, mlp_layers, observed
from mlx_baselines3.common.native.eligibility import NotNative, check_parts, check_unchanged
from mlx_baselines3.common.native.layers import sequence
from mlx_baselines3.common.nn.fused_mlp import Net, fused
from mlx_baselines3.common.nn.layers import Linear, Module, Sequential
from mlx_baselines3.common.policies import BasePolicy, ContinuousCritic
from mlx_baselines3.common.policies.critics import ContinuousActor, ContinuousPolicy
from mlx_baselines3.common.policies.evaluated import evaluate
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
    "LOG_STD_MAX",
    "LOG_STD_MIN",
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
    "SACPolicy",
    "Schedule",
    "SquashedDiagGaussianDistribution",
    "StateDependentNoiseDistribution",
    "create_mlp",
    "get_action_dim",
    "get_actor_critic_arch",
]

# Bounds of the log standard deviation, as in the authors' code.
LOG_STD_MAX = 2
LOG_STD_MIN = -20


class HardTanh(Module):
    """
    The clipped identity.

    :param limit: largest absolute value of the output
    """

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, x: mx.array) -> mx.array:
        """
        :param x: any shape
        :return: ``x`` clipped to [-limit, limit]
        """
        return mx.clip(x, -self.limit, self.limit)


class Actor(ContinuousActor):
    """
    A Gaussian squashed by tanh whose mean and standard deviation are computed from the observation.

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
    """

    action_space: spaces.Box
    action_dist: SquashedDiagGaussianDistribution | StateDependentNoiseDistribution

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
        self.use_sde = use_sde
        self.sde_features_extractor = None
        self.log_std_init = log_std_init
        self.use_expln = use_expln
        self.full_std = full_std
        self.clip_mean = clip_mean
        self.latent_pi = Sequential(*create_mlp(features_dim, -1, net_arch, activation_fn))
        self._build_heads(net_arch[-1] if net_arch else features_dim, get_action_dim(action_space))

    def _build_heads(self, latent_dim: int, action_dim: int) -> None:
        if not self.use_sde:
            self.action_dist = SquashedDiagGaussianDistribution(action_dim)
            self.mu: nn.Module = Linear(latent_dim, action_dim)
            self.log_std: Any = Linear(latent_dim, action_dim)
            return
        self.action_dist = StateDependentNoiseDistribution(
            action_dim,
            full_std=self.full_std,
            use_expln=self.use_expln,
            learn_features=True,
            squash_output=True,
        )
        self.mu, self.log_std = self.action_dist.proba_distribution_net(
            latent_dim, latent_sde_dim=latent_dim, log_std_init=self.log_std_init
        )
        if self.clip_mean > 0.0:
            self.mu = Sequential(self.mu, HardTanh(self.clip_mean))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "use_sde": self.use_sde,
            "log_std_init": self.log_std_init,
            "full_std": self.full_std,
            "use_expln": self.use_expln,
            "clip_mean": self.clip_mean,
        }

    def _sde(self, method: str) -> StateDependentNoiseDistribution:
        assert isinstance(self.action_dist, StateDependentNoiseDistribution), (
            f"{method}() is only available when using gSDE (use_sde=True)."
        )
        return self.action_dist

    def get_std(self) -> mx.array:
        """
        :return: (latent_dim, action_dim) standard deviations of gSDE's exploration matrix
        :raises AssertionError: without gSDE
        """
        return self._sde("get_std").get_std(self.log_std)

    def reset_noise(self, batch_size: int = 1) -> None:
        """
        Draw new exploration matrices (gSDE).

        :param batch_size: number of parallel environments, one matrix each
        :raises AssertionError: without gSDE
        """
        distribution = self._sde("reset_noise")
        distribution.sample_weights(self.log_std, batch_size=batch_size)
        evaluate(distribution)

    def get_action_dist_params(
        self, obs: PyTorchObs, features: mx.array | None = None
    ) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
        """
        :param obs: (batch, ...) observations
        :param features: (batch, features_dim) features of ``obs``, if already computed
        :return: (batch, action_dim) means, log standard deviations, and with gSDE ``latent_sde``, the
            features that the noise depends on
        """
        if features is None:
            features = self.extract_features(obs, self.features_extractor)
        if not self.use_sde and type(self.latent_pi) is Sequential:
            net = Net([*self.latent_pi.layers()], (self.mu, self.log_std))
            if (heads := fused([net], features)) is not None:
                ((mean_actions, log_std),) = heads
                return mean_actions, mx.clip(log_std, LOG_STD_MIN, LOG_STD_MAX), {}
        latent_pi = self.latent_pi(features)
        mean_actions = self.mu(latent_pi)
        if self.use_sde:
            return mean_actions, self.log_std, {"latent_sde": latent_pi}
        return mean_actions, mx.clip(self.log_std(latent_pi), LOG_STD_MIN, LOG_STD_MAX), {}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param deterministic: return the squashed means instead of samples
        :return: (batch, action_dim) actions in [-1, 1]
        """
        mean_actions, log_std, kwargs = self.get_action_dist_params(obs)
        return self.action_dist.actions_from_params(
            mean_actions, log_std, deterministic=deterministic, **kwargs
        )

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """
        :param batch_size: number of observations
        :return: shape of the ``noise`` of :meth:`action_log_prob`: (batch, action_dim), or with gSDE that
            of one exploration matrix, (latent_dim, action_dim)
        """
        if isinstance(self.action_dist, StateDependentNoiseDistribution):
            return (int(self.log_std.shape[0]), self.action_dist.action_dim)
        return (batch_size, self.action_dist.action_dim)

    def action_log_prob(
        self, obs: PyTorchObs, noise: mx.array | None = None, features: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """
        Reparametrised random actions, so that gradients flow through them.

        :param obs: (batch, ...) observations
        :param noise: standard normals of shape :meth:`noise_shape`; by default they are drawn from MLX's
            generator (with gSDE: the exploration matrix of the last :meth:`reset_noise` is used)
        :param features: (batch, features_dim) features of ``obs``, if already computed
        :return: (batch, action_dim) actions in [-1, 1] and their (batch,) log likelihood
        """
        mean_actions, log_std, kwargs = self.get_action_dist_params(obs, features)
        # A distribution keeps its arrays. Those of a traced step must not outlive the trace, hence the copy.
        distribution = copy.copy(self.action_dist)
        if isinstance(distribution, StateDependentNoiseDistribution):
            if noise is not None:
                if takes_noise(distribution, "sample_weights"):
                    distribution.sample_weights(log_std, noise=noise[None])
                else:
                    distribution.sample_weights(log_std)
        elif noise is not None and takes_noise(distribution, "sample", "log_prob_from_params"):
            return distribution.log_prob_from_params(mean_actions, log_std, noise=noise)
        return distribution.log_prob_from_params(mean_actions, log_std, **kwargs)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        return self(observation, deterministic)


class SACPolicy(ContinuousPolicy):
    """
    Actor and critics of SAC.

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
    :param n_critics: number of critics
    :param share_features_extractor: one extractor for actor and critics, trained by the actor's loss alone
    """

    actor_class = Actor
    actor: Actor

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
            actor_kwargs={
                "use_sde": use_sde,
                "log_std_init": log_std_init,
                "use_expln": use_expln,
                "clip_mean": clip_mean,
            },
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.critic = self.make_critic(
            self.actor.features_extractor if self.share_features_extractor else None
        )
        if self.share_features_extractor:
            self._share_extractor("critic", lender="actor")
        # The target critics have a separate extractor even if the critics share the actor's.
        self.critic_target = self.make_critic()
        self._copy_network("critic", "critic_target")
        self._make_optimizers(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        sde = ("use_sde", "log_std_init", "use_expln", "clip_mean")
        return {
            **super()._get_constructor_parameters(),
            **{name: self.actor_kwargs[name] for name in sde},
        }

    def reset_noise(self, batch_size: int = 1) -> None:
        """
        Draw new exploration matrices (gSDE).

        :param batch_size: number of parallel environments, one matrix each
        """
        self.actor.reset_noise(batch_size=batch_size)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :param deterministic: return the most likely actions instead of samples
        :return: (batch, action_dim) actions in [-1, 1]
        """
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> mx.array:
        return self.actor(observation, deterministic)


MlpPolicy = SACPolicy


class CnnPolicy(SACPolicy):
    """:class:`SACPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(SACPolicy):
    """:class:`SACPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor


@blueprint.register
def _sac_blueprint(policy: SACPolicy) -> Blueprint:
    actor = policy.actor
    check_unchanged(policy, SACPolicy, ("__call__", "forward", "_predict", "obs_to_tensor"))
    methods = ("__call__", "forward", "_predict", "get_action_dist_params", "extract_features")
    check_unchanged(actor, Actor, methods)
    if actor.use_sde:
        return _state_dependent(policy)
    check_parts(
        (actor.action_dist, SquashedDiagGaussianDistribution),
        (actor.mu, nn.Linear),
        (actor.log_std, nn.Linear),
    )
    check_unchanged(actor.action_dist, SquashedDiagGaussianDistribution, DRAWING)
    keys, codes, (features,) = observed(actor, actor.features_extractor)
    layers = (*mlp_layers(actor.latent_pi), Layer((actor.mu, actor.log_std)))
    return Blueprint(layers, "squashed_gaussian", keys=keys, codes=codes, features=features)


def _state_dependent(policy: SACPolicy) -> Blueprint:
    actor = policy.actor
    dist: Any = actor.action_dist
    check_unchanged(policy, SACPolicy, ("reset_noise",))
    check_unchanged(actor, Actor, ("reset_noise", "get_std"))
    check_parts((dist, StateDependentNoiseDistribution), (dist.bijector, TanhBijector))
    if (dist.epsilon, dist.bijector.epsilon) != (1e-6, 1e-6) or not dist.learn_features:
        raise NotNative("the noise has other settings than SAC gives it")
    methods = ("get_noise", "get_std", "log_prob", "log_prob_from_params", "sample_weights")
    check_unchanged(dist, StateDependentNoiseDistribution, (*DRAWING, *methods))
    check_unchanged(dist.bijector, TanhBijector, ("forward", "inverse", "log_prob_correction"))
    mean, *clip = sequence(actor.mu) if isinstance(actor.mu, Sequential) else [actor.mu]
    check_parts((mean, nn.Linear), *((part, HardTanh) for part in clip))
    if len(clip) > 1:
        raise NotNative("the means are clipped twice")
    for part in clip:
        check_unchanged(part, HardTanh, ("forward",))
    head = Layer((mean,), "hard_tanh", float(clip[0].limit)) if clip else Layer((mean,))
    keys, codes, (features,) = observed(actor, actor.features_extractor)
    return Blueprint(
        (*mlp_layers(actor.latent_pi), head),
        "squashed_state_dependent",
        log_std_owner=actor,
        noise=dist,
        draws_noise=False,
        keys=keys,
        codes=codes,
        features=features,
    )
