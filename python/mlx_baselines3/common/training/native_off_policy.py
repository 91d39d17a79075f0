"""The gradient steps of DQN, TD3, DDPG and SAC in Rust; see ``native_on_policy``."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native
from mlx_baselines3.common.native.blueprint import Blueprint, observed_keys, perceptron, side_by_side
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.native.vectors import ParameterVector, TrainedVector, flat
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.training.not_finite import check_finite

__all__ = ["NativeActorCriticUpdate", "NativeQUpdate"]

ArrayBatches = Mapping[str, np.ndarray]
Metrics = dict[str, np.ndarray]


def _transitions(batches: ArrayBatches, gamma: float, keys: Sequence[str]) -> "_native.TransitionArrays":
    """The batches of some gradient steps, one after the other."""
    # One discount for each step, or the n-step returns' own for each row.
    discounts = batches.get("discounts", np.full(len(batches["rewards"]), gamma, np.float32))
    return {
        "observations": flat(side_by_side(batches["observations"], keys, batch_axes=2)),
        "next_observations": flat(side_by_side(batches["next_observations"], keys, batch_axes=2)),
        "actions": flat(batches["actions"]),
        "rewards": flat(batches["rewards"]),
        "dones": flat(batches["dones"]),
        "discounts": flat(discounts),
    }


def _store(vectors: Mapping[str, ParameterVector], metrics: Metrics) -> None:
    """
    Put the outcome of a ``train()`` into the networks.

    :param vectors: name of a network -> its vector
    :param metrics: name -> numbers
    :raises FloatingPointError: if a number is nan or infinite; nothing has changed then
    """
    found = ((name, vector.nonfinite_names(), vector.places) for name, vector in vectors.items())
    check_finite(metrics, {name: (wrong, len(all)) for name, wrong, all in found if wrong is not None})
    with interrupts_deferred():
        for vector in vectors.values():
            vector.store()


def _target_vector(network: Module, original: Module, optimizer: ParameterOptimizer) -> ParameterVector:
    """
    :param network: a target network
    :param original: the network that it follows
    :param optimizer: that of the original
    :return: its parameters
    :raises NotNative: it computes in another way than the original
    """
    if type(network) is not type(original):
        raise NotNative(f"a {type(network).__name__} follows a {type(original).__name__}")
    check_unchanged(network, type(original), ("__call__", "forward", "extract_features"))
    return ParameterVector(network, optimizer)


class NativeQUpdate:
    """
    The gradient steps of DQN.

    :param q_net: the Q network
    :param q_net_target: its target network
    :param optimizer: its optimizer
    :param plan: how the Q network computes
    :raises NotNative: there is no native form of them
    """

    def __init__(self, q_net: Module, q_net_target: Module, optimizer: ParameterOptimizer, plan: Blueprint):
        self._vector = TrainedVector(q_net, optimizer)
        self._target = _target_vector(q_net_target, q_net, optimizer)
        self._keys = plan.keys
        self._core = _native.QUpdate(self._vector.layer_plans(plan.layers), optimizer.size)

    def run(self, batches: Iterable[ArrayBatches], settings: Mapping[str, float]) -> Metrics:
        """
        Take one gradient step for each batch.

        :param batches: fields of the buffer's samples with the axes (steps, batch) in front
        :param settings: those of the MLX step
        :return: name -> (steps,) float64
        :raises FloatingPointError: if the outcome is nan or infinite; nothing has changed then
        :raises ValueError: the batches do not fit the network; nothing has changed then
        """
        losses: list[np.ndarray] = []
        with interrupts_allowed():
            self._vector.load()
            self._target.load()
            for batch in batches:
                transitions = _transitions(batch, settings["gamma"], self._keys)
                count, max_grad_norm = len(batch["rewards"]), settings["max_grad_norm"]
                trained, target = self._vector.as_native(), self._target.values
                done = self._core.run(transitions, count, max_grad_norm, target, trained)
                self._vector.record_steps(done.optimizer_steps)
                losses.append(done.loss)
        metrics = {"loss": np.concatenate(losses)}
        _store({"q_net": self._vector}, metrics)
        return metrics


def _critic_plans(critic: Any, vector: TrainedVector) -> "list[list[_native.TrainableLayer]]":
    if not isinstance(critic, ContinuousCritic):
        raise NotNative(f"the critic is a {type(critic).__name__}")
    methods = ("__call__", "forward", "q1_forward", "q_networks", "extract_features")
    check_unchanged(critic, ContinuousCritic, methods)
    observed_keys(critic.observation_space, critic.features_extractor)
    return [vector.layer_plans(perceptron(net)) for net in critic.q_networks]


class NativeActorCriticUpdate:
    """
    The gradient steps of TD3, DDPG and SAC.

    :param networks: ``actor``, ``critic``, ``critic_target``, and where there are such ``actor_target`` and
        ``ent_coef``
    :param optimizers: those of ``actor``, ``critic`` and ``ent_coef``
    :param plan: how the actor computes
    :raises NotNative: there is no native form of them
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        plan: Blueprint,
    ):
        self._trained = {name: TrainedVector(networks[name], optimizers[name]) for name in optimizers}
        self._targets = {
            f"{name}_target": _target_vector(networks[f"{name}_target"], networks[name], optimizers[name])
            for name in optimizers
            if f"{name}_target" in networks
        }
        self._squashed = plan.head == "squashed_gaussian"
        self._keys = plan.keys
        actor, critic = self._trained["actor"], self._trained["critic"]
        self._core = _native.ActorCriticUpdate(
            actor.layer_plans(plan.layers),
            _critic_plans(networks["critic"], critic),
            self._squashed,
            actor_size=optimizers["actor"].size,
            critic_size=optimizers["critic"].size,
        )

    def run(
        self,
        batches: Iterable[ArrayBatches],
        settings: Mapping[str, float],
        noise: mx.array,
        flags: Sequence[tuple[bool, bool]],
    ) -> Metrics:
        """
        Take one gradient step for each batch.

        :param batches: fields of the buffer's samples with the axes (steps, batch) in front
        :param settings: those of the MLX step
        :param noise: standard normals: (steps, 2, batch, action_dim) for what a squashed actor draws at the
            observations and at the next ones, (steps, batch, action_dim) to smooth a deterministic target
        :param flags: for each step whether the actor and whether the target networks are updated
        :return: name -> (steps,) float64; the actor's loss only of the steps where it learned
        :raises FloatingPointError: if the outcome is nan or infinite; nothing has changed then
        :raises ValueError: the batches do not fit the networks; nothing has changed then
        """
        with interrupts_allowed():
            done = self._compute(batches, settings, noise, flags)
        metrics = self._metrics(done, np.array([updated for updated, _ in flags]))
        moved = self._targets if any(updated for _, updated in flags) else {}
        _store({**self._trained, **moved}, metrics)
        return metrics

    def _compute(
        self,
        batches: Iterable[ArrayBatches],
        settings: Mapping[str, float],
        noise: mx.array,
        flags: Sequence[tuple[bool, bool]],
    ) -> "list[_native.ActorCriticResult]":
        """The steps of :meth:`run` on the vectors, which the networks do not see yet."""
        # MLX draws while the vectors are loaded.
        mx.async_eval(noise)  # type: ignore[no-untyped-call]
        for vector in (*self._trained.values(), *self._targets.values()):
            vector.load()
        # Rust writes to them: none may be another model's.
        none = np.zeros(0, np.float32)
        actor_target = self._targets["actor_target"].values if "actor_target" in self._targets else none
        targets: _native.TargetParameters = {
            "actor": actor_target,
            "critic": self._targets["critic_target"].values,
        }
        drawn = to_numpy(noise)
        now, later = drawn.swapaxes(0, 1) if self._squashed else (drawn[:, :0], drawn)
        steps: list[_native.StepFlags] = [
            {"update_actor": actor, "update_targets": target} for actor, target in flags
        ]
        objective, done, start = self._objective(settings), [], 0
        for batch in batches:
            at = slice(start, start + len(batch["rewards"]))
            fields: _native.ActorCriticBatches = {
                "transitions": _transitions(batch, settings["gamma"], self._keys),
                "noise": flat(now[at]),
                "next_noise": flat(later[at]),
            }
            new = self._core.run(fields, steps[at], objective, targets, self._as_native())
            for name, vector in self._trained.items():
                vector.record_steps(new.optimizer_steps[name])
            done.append(new)
            start = at.stop
        return done

    def _as_native(self) -> "_native.ActorCriticTrained":
        ent_coef = self._trained.get("ent_coef")
        return {
            "actor": self._trained["actor"].as_native(),
            "critic": self._trained["critic"].as_native(),
            "ent_coef": None if ent_coef is None else ent_coef.as_native(),
        }

    def _objective(self, settings: Mapping[str, float]) -> "_native.ActorCriticSettings":
        """The settings as Rust takes them, those of the other kind of actor as zeros."""
        return {
            "tau": settings["tau"],
            "target_policy_noise": 0.0 if self._squashed else settings["target_policy_noise"],
            "target_noise_clip": 0.0 if self._squashed else settings["target_noise_clip"],
            # A setting where it is not learned.
            "ent_coef": settings["ent_coef"] if self._squashed and "ent_coef" not in self._trained else 0.0,
            "target_entropy": settings["target_entropy"] if self._squashed else 0.0,
        }

    def _metrics(self, done: "list[_native.ActorCriticResult]", updated: np.ndarray) -> Metrics:
        metrics = {"critic_loss": np.concatenate([part.critic_loss for part in done])}
        if updated.any():
            metrics["actor_loss"] = np.concatenate([part.actor_loss for part in done])[updated]
        if "ent_coef" in self._trained:
            metrics["ent_coef_loss"] = np.concatenate([part.ent_coef_loss for part in done])
        if self._squashed:
            metrics["ent_coef"] = np.concatenate([part.ent_coef for part in done])
        return metrics
