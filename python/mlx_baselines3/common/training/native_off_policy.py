"""The gradient steps of DQN, TD3, DDPG and SAC in Rust; see ``native_on_policy``."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.native.blueprint import Blueprint
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.native.exploration import NativeCollector
from mlx_baselines3.common.native.extractors import Features, observed
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.native.layers import mlp_layers
from mlx_baselines3.common.native.vectors import ParameterVector, TrainedVector, flat, state_noise
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.nn.structure import Structure
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.training.not_finite import check_finite

__all__ = ["NativeActorCriticUpdate", "NativeQUpdate", "check_critic", "check_follows"]

ArrayBatches = Mapping[str, np.ndarray]
Metrics = dict[str, np.ndarray]


def _transitions(batches: ArrayBatches, gamma: float, plan: Blueprint) -> "_native.TransitionArrays":
    """The batches of some gradient steps, one after the other."""
    # One discount for each step, or the n-step returns' own for each row.
    discounts = batches.get("discounts", np.full(len(batches["rewards"]), gamma, np.float32))
    return {
        "observations": plan.flat_columns(batches["observations"], batch_axes=2),
        "next_observations": plan.flat_columns(batches["next_observations"], batch_axes=2),
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


def check_follows(network: Module, original: Module) -> None:
    """
    :param network: a target network
    :param original: the network that it follows
    :raises NotNative: it computes in another way than the original
    """
    if type(network) is not type(original):
        raise NotNative(f"a {type(network).__name__} follows a {type(original).__name__}")
    check_unchanged(network, type(original), ("__call__", "forward", "extract_features"))


def _target_vector(
    network: Module, original: Module, optimizer: ParameterOptimizer, names: Collection[str] | None = None
) -> ParameterVector:
    """
    :param network: a target network
    :param original: the network that it follows
    :param optimizer: that of the original
    :param names: those of the parameters; all if not given
    :return: its parameters
    :raises NotNative: as :func:`check_follows`
    """
    check_follows(network, original)
    return ParameterVector(network, optimizer, names)


def _check_same(features: Features, others: Features) -> None:
    """
    :param features: the features extractor of a network
    :param others: that of its target network
    :raises NotNative: it computes in another way
    """
    if [branch.shape() for branch in features] != [branch.shape() for branch in others]:
        raise NotNative("the target network has another features extractor")


class _Always:
    """Rust's updates are the faster way for any batch."""

    @staticmethod
    def suits(batch_size: int) -> bool:
        """
        :param batch_size: rows of a gradient step
        :return: whether this is the faster way: always
        """
        return True


class NativeQUpdate(_Always):
    """
    The gradient steps of DQN and QR-DQN.

    :param q_net: the Q network
    :param q_net_target: its target network
    :param optimizer: its optimizer
    :param plan: how the Q network computes
    :param name: what the network is called in messages and metrics
    :param n_quantiles: quantiles of the return that the network gives for each action; 0: its mean
    :raises NotNative: there is no native form of them
    """

    def __init__(
        self,
        q_net: Module,
        q_net_target: Module,
        optimizer: ParameterOptimizer,
        plan: Blueprint,
        name: str = "q_net",
        n_quantiles: int = 0,
    ):
        self._name = name
        self._vector = TrainedVector(q_net, optimizer)
        self._target = _target_vector(q_net_target, q_net, optimizer)
        self._plan = plan
        _check_same(plan.features, *observed(q_net_target, q_net_target.features_extractor).features)
        branches = self._vector.branch_plans(plan.features) if plan.features else None
        self._is_target_moved = False
        layers = self._vector.layer_plans(plan.layers)
        self._core = _native.QUpdate(layers, optimizer.size, branches, n_quantiles)

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
                transitions = _transitions(batch, settings["gamma"], self._plan)
                count, max_grad_norm = len(batch["rewards"]), settings.get("max_grad_norm", math.inf)
                trained, target = self._vector.as_native(), self._target.values
                done = self._core.run(transitions, count, max_grad_norm, target, trained)
                self._vector.record_steps(done.optimizer_steps)
                losses.append(done.loss)
        metrics = {"loss": np.concatenate(losses)}
        _store({self._name: self._vector}, metrics)
        return metrics

    @property
    def has_extractor(self) -> bool:
        """:return: whether the network sees the features of an extractor"""
        return bool(self._plan.features)

    def load(self) -> None:
        """Take over the networks and the optimizer, for :meth:`iterate`."""
        self._vector.load()
        self._target.load()
        self._is_target_moved = False

    def iterate(
        self, collector: NativeCollector, last_obs: np.ndarray, plan: "_native.QPlan"
    ) -> "tuple[_native.LearnedChunk | None, FloatingPointError | None]":
        """
        Collect and learn in turn, after :meth:`load` and before :meth:`store`.

        :param collector: takes the steps
        :param last_obs: (n_envs, obs) observations to begin with
        :param plan: what the iterations are made of
        :return: what happened, None if nothing has; and what to raise if an update gave numbers that are nan
            or infinite, which has been undone
        :raises ValueError: the parts do not fit each other; nothing has happened then
        """
        vector, wrong = self._vector, None
        learned: _native.QLearning = {
            "network": vector.as_learned(),
            "target": self._target.values,
            "update": self._core,
        }
        done = collector.learn(last_obs, plan, learned)
        if done is None:
            return None, None
        if len(done.nonfinite_losses):
            wrong = self._nonfinite(done.nonfinite_losses)
        vector.record_updates(done.n_updates, done.optimizer_steps)
        before, interval = plan["steps_before"], plan["target_interval"]
        self._is_target_moved |= (before + done.n_steps) // interval > before // interval
        return done, wrong

    def store(self) -> None:
        """Give the networks and the optimizer what came of :meth:`iterate`."""
        self._vector.store()
        if self._is_target_moved:
            self._target.store()

    def _nonfinite(self, losses: np.ndarray) -> FloatingPointError | None:
        """What to raise after an update; the parameters are those before it again."""
        vector = self._vector
        try:
            names = vector.nonfinite_names()
            wrong = {} if names is None else {self._name: (names, len(vector.places))}
            check_finite({"loss": losses}, wrong)
        except FloatingPointError as error:
            return error
        finally:
            vector.take_back()
        return None


def check_critic(critic: Any, base: type[ContinuousCritic] = ContinuousCritic) -> None:
    """
    :param critic: the critics of SAC, TD3 or TQC
    :param base: their class
    :raises NotNative: they compute in another way than this package's
    """
    if not isinstance(critic, base):
        raise NotNative(f"the critic is a {type(critic).__name__}")
    methods = ("__call__", "forward", "q1_forward", "q_networks", "extract_features")
    check_unchanged(critic, base, methods)


class _Extractors:
    """
    What actor and critics see of the observations.

    :param networks: those of the update
    :param optimizers: their optimizers
    :param features: the actor's features extractor
    :raises NotNative: the networks do not see what Rust can let them see
    """

    def __init__(
        self, networks: Mapping[str, Any], optimizers: Mapping[str, ParameterOptimizer], features: Features
    ):
        actor, critic, target = networks["actor"], networks["critic"], networks["critic_target"]
        self.of_actor = features
        (self.of_critic,) = observed(critic, critic.features_extractor).features
        # None of their own: what was read of one module is not the same object twice.
        self.is_shared = critic.features_extractor is actor.features_extractor
        if self.is_shared != critic.share_features_extractor:
            raise NotNative("actor and critics have an extractor in common that is not shared")
        if bool(self.of_actor) != bool(self.of_critic):
            raise NotNative("actor and critics have features extractors of different kinds")
        _check_same(self.of_critic, *observed(target, target.features_extractor).features)
        # Parameters that the critics' target network has of its own, although the critics have none.
        self.names: list[str] = []
        if "actor_target" in networks:
            followed = networks["actor_target"].features_extractor
            _check_same(self.of_actor, *observed(networks["actor_target"], followed).features)
            if self.is_shared != (target.features_extractor is followed):
                raise NotNative("the target networks share their extractor in another way")
        elif self.is_shared:
            own = optimizers["critic"].names
            self.names = [name for name in Structure(target).names if name not in own]

    def plans(
        self, actor: TrainedVector, critic: TrainedVector
    ) -> "tuple[list[_native.FeatureBranch], list[_native.FeatureBranch] | None] | None":
        """
        :param actor: the parameters of the actor
        :param critic: those of the critics
        :return: the extractors as ``_native`` takes them
        :raises NotNative: their parameters are not among them
        """
        if not self.of_actor:
            return None
        own = None if self.is_shared else critic.branch_plans(self.of_critic)
        return actor.branch_plans(self.of_actor), own


def _target_vectors(
    networks: Mapping[str, Module], optimizers: Mapping[str, ParameterOptimizer], extractors: _Extractors
) -> dict[str, ParameterVector]:
    """
    :return: name -> parameters of a target network. ``extractor_target`` is what critics that share the
        actor's extractor follow it with, if the actor has no target network: laid out as the actor
    """
    critic, target = networks["critic"], networks["critic_target"]
    own = optimizers["critic"].names if extractors.names else None
    vectors = {"critic_target": _target_vector(target, critic, optimizers["critic"], own)}
    if "actor_target" in networks:
        vectors["actor_target"] = _target_vector(
            networks["actor_target"], networks["actor"], optimizers["actor"]
        )
    if extractors.names:
        vectors["extractor_target"] = ParameterVector(target, optimizers["actor"], extractors.names)
    return vectors


class NativeActorCriticUpdate(_Always):
    """
    The gradient steps of TD3, DDPG, SAC and TQC.

    :param networks: ``actor``, ``critic``, ``critic_target``, and where there are such ``actor_target`` and
        ``ent_coef``
    :param optimizers: those of ``actor``, ``critic`` and ``ent_coef``
    :param plan: how the actor computes
    :param critics: the class whose way to compute the critics have
    :param quantiles: how many quantiles each critic gives, and how many of all together make the targets;
        None: they give values
    :raises NotNative: there is no native form of them
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        plan: Blueprint,
        critics: type[ContinuousCritic] = ContinuousCritic,
        quantiles: tuple[int, int] | None = None,
    ):
        check_critic(networks["critic"], critics)
        self._trained = {name: TrainedVector(networks[name], optimizers[name]) for name in optimizers}
        self._squashed = plan.head in ("squashed_gaussian", "squashed_state_dependent")
        self._plan = plan
        extractors = _Extractors(networks, optimizers, plan.features)
        self._targets = _target_vectors(networks, optimizers, extractors)
        self._have_targets_moved = False
        actor, critic = self._trained["actor"], self._trained["critic"]
        self._extractor = actor.slices_of(plan.features)
        # Parameters of the actor that are the critics', too: their target follows for both.
        self._shared = self._extractor if extractors.is_shared else []
        nets: Any = networks["critic"]
        self._core = _native.ActorCriticUpdate(
            actor.layer_plans(plan.layers),
            [critic.layer_plans(mlp_layers(net)) for net in nets.q_networks],
            self._squashed,
            actor_size=optimizers["actor"].size,
            critic_size=optimizers["critic"].size,
            noise=state_noise(plan, actor),
            branches=extractors.plans(actor, critic),
            quantiles=quantiles,
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
            # MLX draws while the vectors are loaded.
            mx.async_eval(noise)  # type: ignore[no-untyped-call]
            self.load()
            done = self._compute(batches, settings, noise, flags)
        metrics = self._metrics(done, flags)
        moved = self._targets if any(follows for _, follows in flags) else {}
        _store({**self._trained, **moved}, metrics)
        return metrics

    def load(self) -> None:
        """Take over the networks and the optimizers, for :meth:`advance`."""
        for vector in (*self._trained.values(), *self._targets.values()):
            vector.load()
        self._have_targets_moved = False

    def show_deviations(self) -> None:
        """Give the actor the present deviations of gSDE, which others draw exploration matrices with."""
        self._trained["actor"].show("log_std")

    def set_learning_rate(self, rate: float) -> None:
        """
        :param rate: that of the next :meth:`advance`
        """
        for vector in self._trained.values():
            vector.set_learning_rate(rate)

    def load_actor(self, actor: NativeActor) -> None:
        """
        :param actor: the native actor of the policy; it gets the present weights
        """
        values = self._trained["actor"].values
        with actor.lent() as core:
            self._core.load_actor(values, core)
            if self._extractor:
                core.load_extractor(np.concatenate([values[place] for place in self._extractor]))

    def advance(
        self,
        batches: Iterable[ArrayBatches],
        settings: Mapping[str, float],
        noise: mx.array,
        flags: Sequence[tuple[bool, bool]],
    ) -> Metrics:
        """
        :meth:`run` on what :meth:`load` has taken over, which the networks get with :meth:`store`.

        :param batches: as for :meth:`run`, like the others
        :param settings: settings
        :param noise: standard normals
        :param flags: what each step updates
        :return: the metrics
        :raises FloatingPointError: if the outcome is nan or infinite; it has been undone then
        """
        # A single step keeps what it changes as it goes; the targets move once all is known to be finite.
        is_single, follows = len(flags) == 1, any(follows for _, follows in flags)
        kept = [] if is_single else [*self._trained.values(), *self._targets.values()]
        for vector in kept:
            vector.keep()
        try:
            with interrupts_allowed():
                steps = [(actor, target and not is_single) for actor, target in flags]
                done = self._compute(batches, settings, noise, steps, is_single)
            metrics = self._metrics(done, flags)
            self._check(metrics, settings["tau"] if is_single and follows else None, follows)
        except BaseException:
            for vector in kept or [vector for vector in self._trained.values() if vector.has_stepped]:
                vector.take_back()
            raise
        if is_single and follows:
            self._follow(settings["tau"])
        for vector in self._trained.values():
            vector.finish_update()
        self._have_targets_moved |= follows
        return metrics

    def _follow(self, tau: float) -> None:
        for name, target in self._targets.items():
            source = self._trained["critic" if name == "critic_target" else "actor"].values
            # As part of the critics, and with TD3 as part of the actor again.
            for place in self._shared if name != "critic_target" else ():
                _native.polyak_average(source[place], target.values[place], tau)
            if name != "extractor_target":
                _native.polyak_average(source, target.values, tau)

    def _check(self, metrics: Metrics, tau: float | None, follows: bool) -> None:
        """
        :raises FloatingPointError: if a number is nan or infinite
        """
        vectors: dict[str, ParameterVector] = dict(self._trained)
        is_wrong = any(vector.nonfinite_names() is not None for vector in vectors.values())
        # Between finite parameters targets are finite.
        moved = list(self._targets.values()) if follows and tau is not None and is_wrong else []
        for target in moved:
            target.keep()
        if moved and tau is not None:
            self._follow(tau)
        if moved or (follows and tau is None):
            vectors |= self._targets
        found = {name: (vector.nonfinite_names(), len(vector.places)) for name, vector in vectors.items()}
        wrong = {name: (names, count) for name, (names, count) in found.items() if names is not None}
        for target in moved:
            target.take_back()
        check_finite(metrics, wrong)

    def store(self) -> None:
        """Give the networks and the optimizers what came of :meth:`advance`."""
        for vector in self._trained.values():
            vector.store()
        if self._have_targets_moved:
            for target in self._targets.values():
                target.store()

    def _compute(
        self,
        batches: Iterable[ArrayBatches],
        settings: Mapping[str, float],
        noise: mx.array,
        flags: Sequence[tuple[bool, bool]],
        keeps: bool = False,
    ) -> "list[_native.ActorCriticResult]":
        """The steps of :meth:`run` on the vectors, which the networks do not see yet."""
        of_actor = self._targets.get("actor_target", self._targets.get("extractor_target"))
        targets: _native.TargetParameters = {
            # Rust writes to them: none may be another model's.
            "actor": np.zeros(0, np.float32) if of_actor is None else of_actor.values,
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
                "transitions": _transitions(batch, settings["gamma"], self._plan),
                "noise": flat(now[at]),
                "next_noise": flat(later[at]),
            }
            new = self._core.run(fields, steps[at], objective, targets, self._as_native(keeps))
            for name, vector in self._trained.items():
                vector.record_steps(new.optimizer_steps[name])
            done.append(new)
            start = at.stop
        return done

    def _as_native(self, keeps: bool) -> "_native.ActorCriticTrained":
        ent_coef = self._trained.get("ent_coef")
        return {
            "actor": self._trained["actor"].as_native(keeps),
            "critic": self._trained["critic"].as_native(keeps),
            "ent_coef": None if ent_coef is None else ent_coef.as_native(keeps),
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

    def _metrics(
        self, done: "list[_native.ActorCriticResult]", flags: Sequence[tuple[bool, bool]]
    ) -> Metrics:
        updated = np.array([actor for actor, _ in flags])
        metrics = {"critic_loss": np.concatenate([part.critic_loss for part in done])}
        if updated.any():
            metrics["actor_loss"] = np.concatenate([part.actor_loss for part in done])[updated]
        if "ent_coef" in self._trained:
            metrics["ent_coef_loss"] = np.concatenate([part.ent_coef_loss for part in done])
        if self._squashed:
            metrics["ent_coef"] = np.concatenate([part.ent_coef for part in done])
        return metrics
