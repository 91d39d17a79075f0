"""Native gradient updates. For small networks, MLX's per-op dispatch on a CPU costs more than the arithmetic;
for images, its convolutions use a fraction of what the CPU can compute.

The networks, their optimizers and their files stay MLX's. An update copies the numbers into vectors, lets
Rust make the steps of one ``train()``, and copies them back. Losses, draws and metrics are those of the MLX
steps, which compute everything that has no native form: GPUs, gSDE, and whatever of a user's own decides
about a step.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.native.blueprint import Blueprint
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.native.vectors import TrainedVector, flat, state_noise
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.training.not_finite import check_finite

__all__ = ["HEADS", "NativeOnPolicyUpdate", "objective_of"]

# The native distribution of each head whose derivatives Rust knows.
HEADS = {
    "categorical": "categorical",
    "multi_categorical": "categorical",
    "bernoulli": "bernoulli",
    "gaussian": "gaussian",
    "state_dependent": "state_dependent",
    "squashed_state_dependent": "squashed_state_dependent",
}


class NativeOnPolicyUpdate:
    """
    The gradient steps of PPO and A2C.

    :param policy: policy and value function
    :param optimizer: its optimizer
    :param plan: how the policy computes actions and values
    :raises NotNative: there is no native form of them
    """

    def __init__(self, policy: Module, optimizer: ParameterOptimizer, plan: Blueprint):
        if plan.head not in HEADS:
            raise NotNative(f"there is no native gradient of a {plan.head} policy")
        dist = policy.action_dist
        check_unchanged(dist, type(dist), ("entropy",))
        if plan.noise is not None and plan.noise.learn_features:
            raise NotNative("the noise trains the features")
        self._vector = TrainedVector(policy, optimizer)
        self._plan = plan
        head = HEADS[plan.head]
        # The features of all arrays at once, or of the actor and of the critic.
        extractors = [plan.features, plan.critic_features][: 1 if plan.shares_features() else 2]
        extractors = [features for features in extractors if features]
        outputs = sum(linear.weight.shape[0] for linear in plan.layers[-1].linears)
        self._core: Any = _native.OnPolicyUpdate(
            self._vector.layer_plans(plan.layers),
            self._vector.layer_plans(plan.critic),
            head,
            list(plan.options) or [outputs],
            state_noise(plan, self._vector) or (self._vector.places["log_std"] if head == "gaussian" else 0),
            optimizer.size,
            [self._vector.branch_plans(features) for features in extractors] if extractors else None,
        )

    @staticmethod
    def suits(batch_size: int) -> bool:
        """
        :param batch_size: rows of a gradient step
        :return: whether this is the faster way: always
        """
        return True

    @staticmethod
    def columns(buffer: Any) -> dict[str, Any]:
        """
        :param buffer: a rollout buffer
        :return: its columns, as :meth:`run` takes them
        """
        columns: dict[str, Any] = buffer.flattened()
        return columns

    def run(
        self,
        rollout: Mapping[str, np.ndarray],
        orders: Iterable[np.ndarray],
        batch_size: int | None,
        settings: Mapping[str, float],
        normalize: bool,
    ) -> list[dict[str, np.ndarray]]:
        """
        Go over a rollout several times.

        :param rollout: the columns of a rollout buffer, flattened
        :param orders: for each pass (rows,) uint32, the rows in their order
        :param batch_size: rows of a gradient step; None takes all at once
        :param settings: those of the MLX step; without ``clip_range`` the objective is A2C's
        :param normalize: normalise the advantages of each minibatch
        :return: for each pass name -> (minibatches,) float64, up to the one that stopped it
        :raises FloatingPointError: if a loss or a parameter is nan or infinite; nothing has changed then
        :raises ValueError: the rollout does not fit the networks; nothing has changed then
        """
        data, objective = self._data(rollout), objective_of(settings, normalize)
        epochs = []
        with interrupts_allowed():
            self._vector.load()
            for order in orders:
                size = batch_size or len(order)
                done = self._core.epoch(*data, order, size, objective, self._vector.as_native())
                self._vector.record_steps(done.optimizer_steps)
                epochs.append(_metrics(done, settings))
                if done.stopped_early:
                    break
        self._check(np.concatenate([epoch["loss"] for epoch in epochs]))
        with interrupts_deferred():
            self._vector.store()
        return epochs

    def _data(self, rollout: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
        """:return: the first arguments of an epoch in Rust"""
        return (self._columns(rollout),)

    def _check(self, losses: np.ndarray) -> None:
        wrong = self._vector.nonfinite_names()
        check_finite({"loss": losses}, {} if wrong is None else {"policy": (wrong, len(self._vector.places))})

    @property
    def has_extractor(self) -> bool:
        """:return: whether the networks see the features of an extractor"""
        return bool(self._plan.features)

    def load(self) -> None:
        """Take over the policy and the optimizer, for :meth:`iterate`."""
        self._vector.load()

    def iterate(
        self,
        actor: NativeActor,
        envs: "_native.EnvBatch",
        current: "_native.CurrentObs",
        plan: "_native.OnPolicyPlan",
        buffer: "_native.RolloutBufferColumns",
    ) -> "tuple[_native.LearnedRollouts | None, FloatingPointError | None]":
        """
        Collect rollouts and learn from them in turn, after :meth:`load` and before :meth:`store`.

        :param actor: acts and values
        :param envs: native environments
        :param current: the present observations and episode starts; they follow the environments
        :param plan: what to do
        :param buffer: the columns of the rollout buffer
        :return: what happened, None if nothing has; and what to raise if an update gave numbers that are nan
            or infinite, which has been undone
        :raises ValueError: the parts do not fit each other; nothing has happened then
        """
        vector = self._vector
        done = actor.learn(envs, current, plan, buffer, self._core, vector.as_learned())
        if done is None:
            return None, None
        wrong = None
        if done.nonfinite_losses:
            try:
                self._check(np.array(done.nonfinite_losses))
            except FloatingPointError as error:
                wrong = error
            vector.take_back()
        vector.record_updates(done.n_moves, done.optimizer_steps)
        return done, wrong

    def store(self) -> None:
        """Give the policy and the optimizer what came of :meth:`iterate`."""
        self._vector.store()

    def show(self, name: str) -> None:
        """
        Give the policy one parameter.

        :param name: its name
        """
        self._vector.show(name)

    @staticmethod
    def epochs_of(
        done: "_native.LearnedRollouts", settings: Mapping[str, float]
    ) -> list[dict[str, np.ndarray]]:
        """
        :param done: what :meth:`iterate` gave
        :param settings: those of the last update
        :return: the metrics of its passes, as :meth:`run` gives them
        """
        metrics, ends = _metrics(done.metrics, settings), np.cumsum(done.epoch_sizes)[:-1]
        parts = {name: np.split(values, ends) for name, values in metrics.items()}
        return [{name: split[i] for name, split in parts.items()} for i in range(len(done.epoch_sizes))]

    def _columns(self, rollout: Mapping[str, np.ndarray]) -> "_native.RolloutArrays":
        return {
            "observations": self._plan.flat_columns(rollout["observations"]),
            "actions": flat(rollout["actions"]),
            "values": flat(rollout["values"]),
            "log_probs": flat(rollout["log_probs"]),
            "advantages": flat(rollout["advantages"]),
            "returns": flat(rollout["returns"]),
            "masks": flat(rollout["action_masks"]) if "action_masks" in rollout else None,
        }


def objective_of(settings: Mapping[str, float], normalize: bool) -> "_native.OnPolicySettings":
    """
    :param settings: those of the MLX step
    :param normalize: normalise the advantages of each minibatch
    :return: the same as ``_native`` takes them
    """
    return {
        "clip_range": settings.get("clip_range"),
        "clip_range_vf": settings.get("clip_range_vf"),
        "ent_coef": settings["ent_coef"],
        "vf_coef": settings["vf_coef"],
        "max_grad_norm": settings["max_grad_norm"],
        "target_kl": settings.get("target_kl"),
        "normalize": bool(normalize),
    }


def _metrics(done: "_native.OnPolicyResult", settings: Mapping[str, float]) -> dict[str, np.ndarray]:
    policy_loss = "policy_gradient_loss" if "clip_range" in settings else "policy_loss"
    return {
        "loss": done.loss,
        "entropy_loss": done.entropy_loss,
        policy_loss: done.policy_loss,
        "value_loss": done.value_loss,
        "approx_kl": done.approx_kl,
        "clip_fraction": done.clip_fraction,
    }
