"""The gradient steps of DQN, TD3, DDPG and SAC in Rust; see :mod:`~mlx_baselines3.common.native_update`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native
from mlx_baselines3.common._blueprint import Blueprint, NotMirrored, check_parts, check_unchanged, perceptron
from mlx_baselines3.common._native_vectors import SlowCopy, TrainedVector, flat, going_on
from mlx_baselines3.common.critics import ContinuousCritic
from mlx_baselines3.common.mlx_interop import to_numpy
from mlx_baselines3.common.off_policy_update import off_policy_error
from mlx_baselines3.common.parameter_optimizer import ParameterOptimizer
from mlx_baselines3.common.torch_layers import FlattenExtractor

__all__ = ["NativeActorCriticUpdate", "NativeQUpdate"]

_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "discounts")
_METRICS = ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss")
_NONE = np.zeros(0, np.float32)

ArrayBatches = Mapping[str, np.ndarray]
Metrics = dict[str, np.ndarray]


def _fields(batches: ArrayBatches, gamma: float) -> list[np.ndarray]:
    """What Rust takes of the batches of some gradient steps, one after the other."""
    # One discount for each step, or the n-step returns' own for each row.
    discounts = np.full(len(batches["rewards"]), gamma, np.float32)
    return [flat({"discounts": discounts, **batches}[name]) for name in _FIELDS]


def _store(vectors: Mapping[str, SlowCopy], steps: Sequence[int], metrics: Metrics) -> None:
    """
    Put the outcome of a ``train()`` into the networks.

    :param vectors: name of a network -> its vector; those that are trained come first
    :param steps: steps that the optimizers have made in their lives
    :param metrics: name -> numbers
    :raises FloatingPointError: if a number is nan or infinite; nothing has changed then
    """
    wrong = [f"the parameters of {name}" for name, vector in vectors.items() if vector.what_is_not_finite()]
    wrong += [f"the metric {name}" for name, values in metrics.items() if not np.isfinite(values).all()]
    if wrong:
        raise off_policy_error(wrong)
    made = iter(steps)
    for vector in vectors.values():
        if isinstance(vector, TrainedVector):
            vector.store_all(next(made))
        else:
            vector.store()


class NativeQUpdate:
    """
    The gradient steps of DQN.

    :param q_net: the Q network
    :param q_net_target: its slow copy
    :param optimizer: its optimizer
    :param plan: how the Q network computes
    :raises NotMirrored: there is no native form of them
    """

    def __init__(self, q_net: Module, q_net_target: Module, optimizer: ParameterOptimizer, plan: Blueprint):
        self._vector = TrainedVector(q_net, optimizer)
        self._target = SlowCopy(q_net_target, optimizer)
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
        self._vector.load()
        self._target.load()
        trained, steps = self._vector.argument(), 0
        losses: list[float] = []
        for some in batches:
            fields, count = _fields(some, settings["gamma"]), len(some["rewards"])
            new, steps = self._core.run(
                fields, count, settings["max_grad_norm"], self._target.values, trained
            )
            trained = going_on(trained, steps)
            losses += new
        metrics = {"loss": np.array(losses)}
        _store({"q_net": self._vector}, [steps], metrics)
        return metrics


def _critic_plans(critic: Any, vector: TrainedVector) -> list[list[Any]]:
    if not isinstance(critic, ContinuousCritic):
        raise NotMirrored(f"the critic is a {type(critic).__name__}")
    methods = ("__call__", "forward", "q1_forward", "q_networks", "extract_features")
    check_unchanged(critic, ContinuousCritic, methods)
    check_parts((critic.features_extractor, FlattenExtractor))
    return [vector.layer_plans(perceptron(net.layers())) for net in critic.q_networks]


class NativeActorCriticUpdate:
    """
    The gradient steps of TD3, DDPG and SAC.

    :param networks: ``actor``, ``critic``, ``critic_target``, and where there are such ``actor_target`` and
        ``ent_coef``
    :param optimizers: those of ``actor``, ``critic`` and ``ent_coef``
    :param plan: how the actor computes
    :raises NotMirrored: there is no native form of them
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        plan: Blueprint,
    ):
        self._trained = {name: TrainedVector(networks[name], optimizers[name]) for name in optimizers}
        self._copies = {
            f"{name}_target": SlowCopy(networks[f"{name}_target"], optimizers[name])
            for name in optimizers
            if f"{name}_target" in networks
        }
        self._squashed = plan.head == "squashed_gaussian"
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
        noise: mx.array,
        settings: Mapping[str, float],
        flags: Sequence[tuple[bool, bool]],
    ) -> Metrics:
        """
        Take one gradient step for each batch.

        :param batches: fields of the buffer's samples with the axes (steps, batch) in front
        :param noise: standard normals: (steps, 2, batch, action_dim) for what a squashed actor draws at the
            observations and at the next ones, (steps, batch, action_dim) to smooth a deterministic target
        :param settings: those of the MLX step
        :param flags: for each step whether the actor learns and whether slow copies follow
        :return: name -> (steps,) float64; the actor's loss only of the steps where it learned
        :raises FloatingPointError: if the outcome is nan or infinite; nothing has changed then
        :raises ValueError: the batches do not fit the networks; nothing has changed then
        """
        # MLX draws while the vectors are loaded.
        mx.async_eval(noise)  # type: ignore[no-untyped-call]
        for vector in (*self._trained.values(), *self._copies.values()):
            vector.load()
        arguments = [vector.argument() for vector in self._trained.values()]
        keys = ("tau", "target_policy_noise", "target_noise_clip", "ent_coef", "target_entropy")
        numbers = tuple(settings.get(key, 0.0) for key in keys)
        targets = [
            self._copies[f"{n}_target"].values if f"{n}_target" in self._copies else _NONE
            for n in ("actor", "critic")
        ]
        drawn = to_numpy(noise)
        now, later = drawn.swapaxes(0, 1) if self._squashed else (drawn[:, :0], drawn)
        rows: list[Any] = []
        steps: list[int] = []
        for some in batches:
            at = slice(len(rows), len(rows) + len(some["rewards"]))
            fields = [*_fields(some, settings["gamma"]), flat(now[at]), flat(later[at])]
            new, steps = self._core.run(fields, flags[at], numbers, targets, arguments)
            arguments = [going_on(old, made) for old, made in zip(arguments, steps, strict=True)]
            rows += new
        metrics = self._metrics(np.array(rows), np.array([learned for learned, _ in flags]))
        moved = self._copies if any(followed for _, followed in flags) else {}
        _store({**self._trained, **moved}, steps, metrics)
        return metrics

    def _metrics(self, rows: np.ndarray, learned: np.ndarray) -> Metrics:
        critic_loss, actor_loss, ent_coef, ent_coef_loss = rows.T
        metrics = {"critic_loss": critic_loss}
        if learned.any():
            metrics["actor_loss"] = actor_loss[learned]
        if "ent_coef" in self._trained:
            metrics["ent_coef_loss"] = ent_coef_loss
        return {**metrics, "ent_coef": ent_coef} if self._squashed else metrics
