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

_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "discounts")

_SLOW = ("actor_target", "critic_target")

ArrayBatches = Mapping[str, np.ndarray]
Metrics = dict[str, np.ndarray]


def _fields(batches: ArrayBatches, gamma: float, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """What Rust takes of the batches of some gradient steps, one after the other."""
    # One discount for each step, or the n-step returns' own for each row.
    discounts = np.full(len(batches["rewards"]), gamma, np.float32)
    seen = {name: side_by_side(batches[name], keys, batch_axes=2) for name in _FIELDS[:2]}
    return {name: flat({"discounts": discounts, **batches, **seen}[name]) for name in _FIELDS}


def _store(vectors: Mapping[str, ParameterVector], metrics: Metrics) -> None:
    """
    Put the outcome of a ``train()`` into the networks.

    :param vectors: name of a network -> its vector
    :param metrics: name -> numbers
    :raises FloatingPointError: if a number is nan or infinite; nothing has changed then
    """
    found = ((name, vector.what_is_not_finite(), vector.places) for name, vector in vectors.items())
    check_finite(metrics, {name: (wrong, len(all)) for name, wrong, all in found if wrong is not None})
    with interrupts_deferred():
        for vector in vectors.values():
            vector.store()


def _slow_copy(network: Module, original: Module, optimizer: ParameterOptimizer) -> ParameterVector:
    """
    :param network: a slow copy
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
    :param q_net_target: its slow copy
    :param optimizer: its optimizer
    :param plan: how the Q network computes
    :raises NotNative: there is no native form of them
    """

    def __init__(self, q_net: Module, q_net_target: Module, optimizer: ParameterOptimizer, plan: Blueprint):
        self._vector = TrainedVector(q_net, optimizer)
        self._target = _slow_copy(q_net_target, q_net, optimizer)
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
        losses: list[float] = []
        with interrupts_allowed():
            self._vector.load()
            self._target.load()
            for some in batches:
                fields, count = _fields(some, settings["gamma"], self._keys), len(some["rewards"])
                trained, target = self._vector.argument(), self._target.values
                new, steps = self._core.run(fields, count, settings["max_grad_norm"], target, trained)
                self._vector.went_on(steps)
                losses += new
        metrics = {"loss": np.array(losses)}
        _store({"q_net": self._vector}, metrics)
        return metrics


def _critic_plans(critic: Any, vector: TrainedVector) -> list[list[Any]]:
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
        self._copies = {
            f"{name}_target": _slow_copy(networks[f"{name}_target"], networks[name], optimizers[name])
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
            (optimizers["actor"].size, optimizers["critic"].size),
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
        :param flags: for each step whether the actor learns and whether slow copies follow
        :return: name -> (steps,) float64; the actor's loss only of the steps where it learned
        :raises FloatingPointError: if the outcome is nan or infinite; nothing has changed then
        :raises ValueError: the batches do not fit the networks; nothing has changed then
        """
        with interrupts_allowed():
            rows = self._compute(batches, settings, noise, flags)
        metrics = self._metrics(np.array(rows), np.array([learned for learned, _ in flags]))
        moved = self._copies if any(followed for _, followed in flags) else {}
        _store({**self._trained, **moved}, metrics)
        return metrics

    def _compute(
        self,
        batches: Iterable[ArrayBatches],
        settings: Mapping[str, float],
        noise: mx.array,
        flags: Sequence[tuple[bool, bool]],
    ) -> list[Any]:
        """The steps of :meth:`run` on the vectors, which the networks do not see yet."""
        # MLX draws while the vectors are loaded.
        mx.async_eval(noise)  # type: ignore[no-untyped-call]
        for vector in (*self._trained.values(), *self._copies.values()):
            vector.load()
        # Rust writes to them: none may be another model's.
        none = np.zeros(0, np.float32)
        slow = [self._copies[name].values if name in self._copies else none for name in _SLOW]
        drawn = to_numpy(noise)
        now, later = drawn.swapaxes(0, 1) if self._squashed else (drawn[:, :0], drawn)
        numbers = self._numbers(settings)
        rows: list[Any] = []
        for some in batches:
            at = slice(len(rows), len(rows) + len(some["rewards"]))
            fields = {
                "transitions": _fields(some, settings["gamma"], self._keys),
                "noise": flat(now[at]),
                "next_noise": flat(later[at]),
            }
            trained = [vector.argument() for vector in self._trained.values()]
            new, steps = self._core.run(fields, flags[at], numbers, slow, trained)
            for vector, made in zip(self._trained.values(), steps, strict=True):
                vector.went_on(made)
            rows += new
        return rows

    def _numbers(self, settings: Mapping[str, float]) -> dict[str, Any]:
        """The settings as Rust takes them, those of the other kind of actor as zeros."""
        numbers = {"tau": settings["tau"], "smoothing": (0.0, 0.0), "ent_coef": 0.0, "target_entropy": 0.0}
        if not self._squashed:
            return {**numbers, "smoothing": (settings["target_policy_noise"], settings["target_noise_clip"])}
        numbers["target_entropy"] = settings["target_entropy"]
        # The weight of the entropy is a setting where it is not learned.
        return numbers if "ent_coef" in self._trained else {**numbers, "ent_coef": settings["ent_coef"]}

    def _metrics(self, rows: np.ndarray, learned: np.ndarray) -> Metrics:
        critic_loss, actor_loss, ent_coef, ent_coef_loss = rows.T
        metrics = {"critic_loss": critic_loss}
        if learned.any():
            metrics["actor_loss"] = actor_loss[learned]
        if "ent_coef" in self._trained:
            metrics["ent_coef_loss"] = ent_coef_loss
        return {**metrics, "ent_coef": ent_coef} if self._squashed else metrics
