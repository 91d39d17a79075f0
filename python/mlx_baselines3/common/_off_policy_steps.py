"""The part of the off-policy algorithms that draws batches and takes gradient steps on them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.buffers.batches import replay_arrays, replay_batches
from mlx_baselines3.common.distributions.base import is_users_own
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.packed_optimizer import Arrays, ParameterOptimizer
from mlx_baselines3.common.training.native_off_policy import NativeActorCriticUpdate
from mlx_baselines3.common.training.native_on_policy import NativeChoice
from mlx_baselines3.common.training.off_policy_update import OffPolicyUpdate, StepFunction


class OffPolicySteps(BaseAlgorithm):
    """The part of :class:`OffPolicyAlgorithm` that learns; it has no own arguments."""

    replay_buffer: ReplayBuffer
    # Of algorithms with an actor and critics.
    actor: Any
    critic: Any
    _gradient_step: StepFunction
    _native_choice: NativeChoice
    _update_step: tuple[OffPolicyUpdate, Hashable] | None

    def _batches(self, gradient_steps: int, batch_size: int) -> Iterator[Arrays]:
        """
        Draw the batches of one update.

        :param gradient_steps: how many
        :param batch_size: transitions in each
        :return: for each gradient step ``observations``, ``actions``, ``next_observations``, ``dones``,
            ``rewards`` and, with n-step returns, ``discounts``; all with a leading axis of ``batch_size``
        """
        return replay_batches(self.replay_buffer, gradient_steps, batch_size, self._vec_normalize_env)

    def _batch_arrays(self, gradient_steps: int, batch_size: int) -> Iterator[dict[str, Any]]:
        """
        :meth:`_batches` for gradient steps in Rust.

        :param gradient_steps: how many
        :param batch_size: transitions in each
        :return: the same fields as NumPy arrays, with the axes (some gradient steps, ``batch_size``) in front
        """
        return replay_arrays(self.replay_buffer, gradient_steps, batch_size, self._vec_normalize_env)

    def _trained(self) -> tuple[dict[str, Any], dict[str, str], dict[str, ParameterOptimizer]]:
        """:return: of an actor and critics: networks and slow copies, as ``update_networks`` gives them, and
        optimizers"""
        networks, targets = self.policy.update_networks()
        return networks, targets, {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def _update(self) -> OffPolicyUpdate:
        """:return: the compiled gradient steps of an actor and critics"""
        networks, targets, optimizers = self._trained()
        return self._compiled_update(networks, optimizers, self._gradient_step, targets)

    def _native_actor_critic(self, base: type["OffPolicySteps"]) -> NativeActorCriticUpdate | None:
        """
        :param base: the algorithm whose gradient step Rust knows
        :return: the gradient steps of an actor and critics in Rust; None if MLX is to compute them
        """
        networks, _, optimizers = self._trained()

        def make() -> NativeActorCriticUpdate:
            self._check_objective(base)
            return NativeActorCriticUpdate(networks, optimizers, blueprint(self.policy))

        return self._native_choice.get(self, (*networks.values(), *optimizers.values()), make)

    def _take_steps(
        self,
        base: type["OffPolicySteps"],
        batch_size: int,
        noise: mx.array,
        settings: Mapping[str, float],
        flags: Sequence[tuple[bool, bool]],
    ) -> Mapping[str, np.ndarray]:
        """
        Take gradient steps of an actor and critics, in Rust where that can compute them.

        :param base: the algorithm whose gradient step Rust knows
        :param batch_size: transitions of each
        :param noise: (gradient steps, ...) standard normals, ``noise`` of the batches
        :param settings: numbers of the losses
        :param flags: for each step whether the actor learns and whether slow copies follow
        :return: the metrics
        """
        native = self._native_actor_critic(base)
        if native is not None:
            return native.run(self._batch_arrays(len(flags), batch_size), noise, settings, flags)
        batches = zip(self._batches(len(flags), batch_size), noise, strict=True)
        noisy = ({**batch, "noise": part} for batch, part in batches)
        return self._update().run(noisy, settings, [follows for _, follows in flags])

    def _check_objective(self, base: type["OffPolicySteps"]) -> None:
        """
        :param base: the algorithm whose gradient step Rust knows
        :raises NotNative: this one has another
        """
        check_unchanged(self, base, ("_gradient_step", "_target", "_batches", "_update"))

    def _compiled_update(
        self,
        networks: Mapping[str, Any],
        optimizers: Mapping[str, ParameterOptimizer],
        step: StepFunction,
        targets: Mapping[str, str] | None = None,
        static: Hashable = None,
    ) -> OffPolicyUpdate:
        """
        The compiled update; made anew when a network, an optimizer or ``static`` is another one.

        :param networks: see :class:`OffPolicyUpdate`
        :param optimizers: see :class:`OffPolicyUpdate`
        :param step: see :class:`OffPolicyUpdate`
        :param targets: see :class:`OffPolicyUpdate`
        :param static: whatever else the step depends on besides its arguments
        :return: the update
        """
        self._compile_notice.announce()
        if self._update_step is not None:
            update, known = self._update_step
            if known == static and update.is_for(networks, optimizers):
                return update
        dist = getattr(getattr(self, "actor", None), "action_dist", None)
        compiled = dist is None or not is_users_own(dist)
        update = OffPolicyUpdate(networks, optimizers, step, targets, compiled)
        self._update_step = (update, static)
        return update
