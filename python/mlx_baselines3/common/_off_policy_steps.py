"""The part of the off-policy algorithms that draws batches and takes gradient steps on them."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from mlx_baselines3.common._off_policy_collection import OffPolicyCollection
from mlx_baselines3.common._replay_batches import replay_arrays, replay_batches
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native_actor import blueprint, check_unchanged
from mlx_baselines3.common.native_off_policy_update import NativeActorCriticUpdate
from mlx_baselines3.common.native_update import NativeChoice
from mlx_baselines3.common.off_policy_update import OffPolicyUpdate, StepFunction
from mlx_baselines3.common.parameter_optimizer import Arrays, ParameterOptimizer


class OffPolicySteps(OffPolicyCollection):
    """The part of :class:`OffPolicyAlgorithm` that learns; it has no own arguments."""

    replay_buffer: ReplayBuffer
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

    def _native_actor_critic(
        self,
        base: type["OffPolicySteps"],
        networks: Mapping[str, Any],
        optimizers: Mapping[str, ParameterOptimizer],
    ) -> NativeActorCriticUpdate | None:
        """
        The gradient steps in Rust.

        :param base: the algorithm whose gradient step Rust knows
        :param networks: see :class:`NativeActorCriticUpdate`
        :param optimizers: see :class:`NativeActorCriticUpdate`
        :return: None if MLX is to compute
        """

        def make() -> NativeActorCriticUpdate:
            self._check_objective(base)
            return NativeActorCriticUpdate(networks, optimizers, blueprint(self.policy))

        return self._native_choice.get(self, (*networks.values(), *optimizers.values()), make)

    def _check_objective(self, base: type["OffPolicySteps"]) -> None:
        """
        :param base: the algorithm whose gradient step Rust knows
        :raises NotMirrored: this one has another
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
        update = OffPolicyUpdate(networks, optimizers, step, targets)
        self._update_step = (update, static)
        return update
