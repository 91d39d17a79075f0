"""Policies of MaskablePPO: a distribution some of whose choices can be forbidden, and a value function."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import PyTorchObs, Schedule
from mlx_baselines3.common.distributions import Distribution
from mlx_baselines3.common.native.actor import Blueprint, blueprint, predict_natively
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policies.actor_critic import actor_critic_blueprint
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
)
from mlx_baselines3.contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableCategoricalDistribution,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
    make_masked_proba_distribution,
)
from mlx_baselines3.contrib.common.maskable.utils import check_masks, mask_groups

__all__ = [
    "MaskableActorCriticCnnPolicy",
    "MaskableActorCriticPolicy",
    "MaskableMultiInputActorCriticPolicy",
]

_HEADS: dict[type[Distribution], str] = {
    MaskableCategoricalDistribution: "categorical",
    MaskableMultiCategoricalDistribution: "multi_categorical",
    MaskableBernoulliDistribution: "multi_categorical",
}
# Methods that a subclass may override, so that the layers alone do not determine actions and values.
_DECISIVE = (
    "__call__", "forward", "_predict", "evaluate_actions", "get_distribution", "predict_values",
    "extract_features", "obs_to_tensor", "_latents", "_get_action_dist_from_latent",
)  # fmt: skip
# Arguments of ActorCriticPolicy for continuous actions.
_OF_CONTINUOUS = ("use_sde", "log_std_init", "squash_output", "full_std", "use_expln")


class MaskableActorCriticPolicy(ActorCriticPolicy):
    """
    Policy and value function of MaskablePPO. Masks are ``(batch, choices)``: True where a choice is allowed,
    component after component of the action, for a MultiBinary one first 0 and then 1.

    :param observation_space: space of one observation
    :param action_space: Discrete, MultiDiscrete or MultiBinary
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers, one list for both or ``dict(pi=[…], vf=[…])``; two layers
        of 64 each by default, none after a NatureCNN
    :param activation_fn: class of the activations
    :param ortho_init: orthogonal initial weights
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param share_features_extractor: one extractor for policy and value instead of two
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate; Adam's ``eps`` is 1e-5 by default
    :raises NotImplementedError: the action space is of another kind
    """

    action_dist: MaskableDistribution

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            ortho_init,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def _make_distribution(self) -> MaskableDistribution:
        distribution = make_masked_proba_distribution(self.action_space)
        self.mask_groups = mask_groups(self.action_space)
        return distribution

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        return {name: value for name, value in parameters.items() if name not in _OF_CONTINUOUS}

    def _masked(self, distribution: Distribution, masks: Any, n_rows: int) -> Any:
        """
        :param distribution: one whose parameters are set
        :param masks: which choices are allowed; None allows all
        :param n_rows: rows of the distribution
        :return: the distribution with the masks applied
        :raises ValueError: masks of NumPy that allow nothing or do not fit
        """
        if masks is not None and not isinstance(masks, mx.array):
            masks = check_masks(masks, self.mask_groups, n_rows)
        assert isinstance(distribution, MaskableDistribution)
        distribution.apply_masking(masks)
        return distribution

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: np.ndarray | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """
        :param obs: (batch, ...) observations
        :param deterministic: return the most likely actions instead of samples
        :param action_masks: which choices are allowed; None allows all
        :return: (batch, ...) actions, (batch, 1) values, (batch,) log likelihood of the actions
        :raises ValueError: a mask allows nothing or does not fit
        """
        latent_pi, latent_vf = self._latents(obs)
        distribution = self._get_action_dist_from_latent(latent_pi)
        distribution = self._masked(distribution, action_masks, len(latent_pi))
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        actions = actions.reshape((-1, *(self.action_space.shape or ())))
        return actions, self.value_net(latent_vf), log_prob

    def get_distribution(
        self, obs: PyTorchObs, action_masks: np.ndarray | None = None
    ) -> MaskableDistribution:
        """
        :param obs: (batch, ...) observations
        :param action_masks: which choices are allowed; None allows all
        :return: the distribution of the actions
        :raises ValueError: a mask allows nothing or does not fit
        """
        distribution = super().get_distribution(obs)
        n_rows = len(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs)
        masked: MaskableDistribution = self._masked(distribution, action_masks, n_rows)
        return masked

    def evaluate_actions(
        self, obs: PyTorchObs, actions: mx.array, action_masks: Any = None
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """
        :param obs: (batch, ...) observations
        :param actions: (batch, ...) actions
        :param action_masks: which choices were allowed; None allows all. MLX arrays are not checked
        :return: (batch, 1) values, (batch,) log likelihood of the actions, and (batch,) entropy
        :raises ValueError: a mask allows nothing or does not fit
        """
        distribution, values = self._distribution_and_values(obs)
        distribution = self._masked(distribution, action_masks, len(values))
        return values, distribution.log_prob(actions), distribution.entropy()

    def _predict(
        self, observation: PyTorchObs, deterministic: bool = False, action_masks: np.ndarray | None = None
    ) -> mx.array:
        distribution = self.get_distribution(observation, action_masks)
        return distribution.get_actions(deterministic=deterministic)

    def _choose_natively(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> tuple[np.ndarray, bool] | None:
        if "action_masks" not in extras:
            return super()._choose_natively(observation, deterministic, **extras)

        def masks_of(n_rows: int) -> np.ndarray:
            return check_masks(extras["action_masks"], self.mask_groups, n_rows)

        return predict_natively(self, observation, deterministic, masks_of)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions for one observation or a batch.

        :param observation: one observation or a batch, a dictionary of them for a Dict space; images may
            be channel-first or channel-last
        :param state: returned unchanged (used by recurrent policies)
        :param episode_start: not used (used by recurrent policies)
        :param deterministic: return the most likely actions instead of samples
        :param action_masks: which choices are allowed, a mask for each observation; None allows all
        :return: one action or a batch of them, inside the action space; and ``state``
        :raises ValueError: if the observation is a tuple (the result of a Gymnasium ``reset``) or has
            a shape that does not fit the observation space, or a mask allows nothing or does not fit
        """
        extras = {} if action_masks is None else {"action_masks": action_masks}
        return self._act_on(observation, deterministic, **extras), state


class MaskableActorCriticCnnPolicy(MaskableActorCriticPolicy):
    """:class:`MaskableActorCriticPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class MaskableMultiInputActorCriticPolicy(MaskableActorCriticPolicy):
    """:class:`MaskableActorCriticPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor


@blueprint.register
def _maskable_blueprint(policy: MaskableActorCriticPolicy) -> Blueprint:
    return actor_critic_blueprint(policy, _HEADS, MaskableActorCriticPolicy, _DECISIVE)
