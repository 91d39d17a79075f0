"""Policies made of MLPs, with or without convolutions before them, run in Rust: a small MLP takes about a
microsecond a step instead of a third of a millisecond through MLX's graph.

A policy class says with :func:`blueprint` which layers lead to its actions. MLX keeps the weights; they
are copied before they are used.
"""

import copy
import math
import operator
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native
from mlx_baselines3.common.native.blueprint import DRAWING, Blueprint, Observations, blueprint, side_by_side
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.extractors import arrays_of, branch_specs, observed
from mlx_baselines3.common.native.interrupts import interrupts_allowed
from mlx_baselines3.common.native.layers import Layer, mlp_layers
from mlx_baselines3.common.native.snapshot import Remembered, Snapshot
from mlx_baselines3.common.nn.interop import to_mlx
from mlx_baselines3.common.nn.threads import computing, random_key, tracing, use_generator, with_fork
from mlx_baselines3.common.preprocessing import maybe_transpose
from mlx_baselines3.common.utils import is_vectorized_observation

__all__ = [
    "DRAWING",
    "Blueprint",
    "Layer",
    "NativeActor",
    "blueprint",
    "is_outdated",
    "mlp_layers",
    "native_actor",
    "native_actor_or_none",
    "observed",
    "predict_natively",
]


# 2**64 divided by the golden ratio.
_GOLDEN = 0x9E3779B97F4A7C15


class NativeActor:
    """
    A policy that acts in Rust, with its own random generator.

    The generator is reseeded whenever the state of MLX's generator has changed: seeding MLX determines the
    actions, as with MLX's own sampling.

    ``has_matrices`` is true if the noise depends on the state (gSDE), ``plan`` is the current blueprint.

    :param plan: the policy's blueprint
    :raises ValueError: the layers do not fit each other
    """

    def __init__(self, plan: Blueprint):
        layers, head, options, *_ = shape = plan.shape()
        specs: list[_native.LayerSpec] = [
            {"inputs": inputs, "outputs": outputs, "activation": activation, "parameter": parameter}
            for inputs, outputs, activation, parameter in layers
        ]
        branches = branch_specs(plan.features, _one_after_the_other()) if plan.features else None
        self._core = _native.Actor(specs, head, options, plan.deviations().tolist(), branches)
        self._shape = shape
        self.plan = plan
        self._arrays: list[mx.array] = []
        # With a features extractor: views of the arrays, their addresses, and copies that keep the memory.
        self._views: list[np.ndarray] = []
        self._places: list[Any] = []
        self._kept: list[mx.array] = []
        # Whether the policy is known to have other weights, and whether :meth:`is_outdated` has compared
        # everything since weights were loaded.
        self._is_outdated = self._is_compared = False
        self._mlx_state: bytes | None = None
        # Of Dict observations, in the order of the network's inputs.
        self.keys = plan.keys
        greedy = ("epsilon_greedy", "greedy_quantiles")
        self._discrete = head in ("categorical", "multi_categorical", *greedy)
        self.has_matrices = plan.noise is not None
        self._draws = head not in ("deterministic", *greedy) and plan.draws_noise
        # The exploration matrices that were taken over last.
        self._taken: tuple[Any, Any] = (None, None)
        self._shared_draws = 0
        self._critic: NativeActor | None = None
        # The actor without its features extractor.
        self._behind: NativeActor | None = None
        # Which of these two have been refreshed since this actor was.
        self._refreshed: list[NativeActor] = []
        # One generator and one workspace: threads take turns.
        self._lock = threading.RLock()
        _actors.add(self)
        self.refresh(plan)

    def fits(self, plan: Blueprint) -> bool:
        """
        :param plan: a blueprint
        :return: whether its weights can be loaded into this actor
        """
        return self.plan is plan or self.plan.has_modules_of(plan) or self._shape == plan.shape()

    def is_current(self, arrays: list[mx.array] | None = None) -> bool:
        """
        :param arrays: the policy's current arrays (default: those of the blueprint)
        :return: whether these are the arrays of the last :meth:`refresh`
        """
        arrays = arrays or self.plan.arrays()
        same = len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))
        return same and not self._is_outdated

    def refresh(self, plan: Blueprint | None = None, arrays: list[mx.array] | None = None) -> None:
        """
        Load the current weights if they have changed. NumPy reads MLX's memory without a copy if possible.

        :param plan: a blueprint that :meth:`fits`; the last one if not given
        :param arrays: the arrays of the blueprint, if known
        """
        with self._lock:
            self.plan = plan = plan or self.plan
            self._refreshed.clear()
            self._is_compared = False
            self._arrays = arrays or plan.arrays()
            if self._has_other_numbers() or self._is_outdated:
                self._load(plan)
                self._is_outdated = False

    def is_outdated(self, same: bool = False) -> bool:
        """
        :param same: the policy has the very same arrays as at the last call
        :return: whether the policy has other weights than these. Of the critic only the array objects are
            compared: this is called after every step that a callback sees
        """
        with self._lock:
            if self._is_outdated:
                return True
            same = same and self._is_compared
            if not same:
                self._arrays = self.plan.arrays()
            # What is compared here counts as seen by the next comparison.
            self._is_outdated = self._has_other_numbers()
            critic = self._critic if not same and self._critic in self._refreshed else None
            other_critic = critic is not None and not critic.is_current()
            self._is_compared = not other_critic
            return self._is_outdated or other_critic

    def _has_other_numbers(self) -> bool:
        """Whether the arrays have other numbers than at the last time."""
        if not self.plan.features:
            return self._core.changed(self._arrays)
        # Comparing millions of numbers would take longer than acting. While the memory is kept, other
        # numbers lie elsewhere. A view alone does not keep it: it refers to the array, to which
        # `weight += 1` gives other memory. A shallow copy does.
        mx.eval(self._arrays)
        views = [np.ascontiguousarray(array) for array in self._arrays]
        places = [view.__array_interface__["data"] for view in views]
        same, self._places, self._views = places == self._places, places, views
        if same:
            return False
        self._kept = [*map(copy.copy, self._arrays)]
        return self._core.changed(views)

    def _load(self, plan: Blueprint) -> None:
        if plan.features:
            parameters = [np.asarray(array).reshape(-1) for array in arrays_of(plan.features)]
            self._core.load_extractor(np.concatenate([*parameters, np.empty(0, np.float32)]))
        for index, layer in enumerate(plan.layers):
            weights = [np.asarray(linear.weight) for linear in layer.linears]
            biases = [
                np.asarray(linear.bias) if "bias" in linear else np.zeros(len(weight), np.float32)
                for linear, weight in zip(layer.linears, weights, strict=True)
            ]
            self._core.load(index, _joined(weights), _joined(biases))
        if plan.log_std is not None:
            self._core.set_numbers(plan.deviations().tolist())

    def _part(self, known: "NativeActor | None", plan_of: Callable[[], Blueprint]) -> "NativeActor":
        """Another network of the policy, loaded once after each :meth:`refresh`."""
        if known is not None and known in self._refreshed:
            return known
        plan = plan_of()
        if known is None or not known.fits(plan):
            known = NativeActor(plan)
        else:
            known.refresh(plan)
        self._is_compared = False
        self._refreshed.append(known)
        return known

    def critic(self) -> "NativeActor":
        """
        The value network, with its weights at the first call after :meth:`refresh`.

        :return: :meth:`outputs` are (batch, 1) values; the inputs are the outputs of :meth:`valued`
        :raises ValueError: if the policy has none
        """
        self._critic = self._part(self._critic, self.plan.of_critic)
        return self._critic

    def valued(self, obs: Observations) -> Observations:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: the inputs of :meth:`critic`: features if actor and critic share an extractor
        """
        if not self.plan.shares_features():
            return obs
        with self._lock:
            return self._core.extract(self._rows(obs))

    def values(self, obs: Observations) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, 1) their values
        :raises ValueError: the policy has no critic
        """
        return self.critic().outputs(self.valued(obs))

    def evaluate(self, obs: Observations) -> "tuple[np.ndarray, NativeActor, Observations]":
        """
        Compute the values of observations. A features extractor shared by actor and critic runs once.

        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, 1) values; an actor for the log-likelihoods of actions, and its inputs
        """
        seen = self.valued(obs)
        values = self.critic().outputs(seen)
        if seen is obs:
            return values, self, obs
        self._behind = self._part(self._behind, self.plan.without_features)
        return values, self._behind, seen

    def _rows(self, obs: Observations) -> "np.ndarray | list[np.ndarray]":
        if self.plan.features:
            return self.plan.columns(obs)
        if self.plan.codes:
            return self.plan.columns(obs)[0]
        array = side_by_side(obs, self.keys) if isinstance(obs, dict) else obs
        rows = np.ascontiguousarray(array, np.float32)
        return rows if rows.ndim == 2 else rows.reshape(len(rows), -1)

    def outputs(self, obs: Observations) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, outputs) the outputs of the network: logits, means or values
        """
        with self._lock:
            return self._core.outputs(self._rows(obs))

    def log_probs(
        self, obs: Observations, actions: np.ndarray, masks: np.ndarray | None = None
    ) -> np.ndarray | None:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :param actions: (batch, ...) an action for each
        :param masks: (batch, choices) 0 where a choice was not allowed; None: all were
        :return: (batch,) their log-likelihoods; None for a head that has none
        """
        with self._lock:
            return self._core.log_probs(
                self._rows(obs),
                np.ascontiguousarray(actions, np.float32).reshape(-1),
                None if masks is None else np.ascontiguousarray(masks, np.float32).reshape(-1),
            )

    def features(self, obs: Observations) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, features) inputs of the last layer
        """
        with self._lock:
            return self._core.features(self._rows(obs))

    def explore(self, n_envs: int, every: int) -> None:
        """
        Draw the exploration matrices of gSDE; without it nothing happens.

        :param n_envs: number of environments; each has its own matrix
        :param every: draw others after this many steps, never if 0 or less
        """
        with self._lock:
            self._core.reset_noise(n_envs, max(every, 0))

    def _take_noise(self) -> None:
        """Take over the exploration matrices of the policy's distribution, if Rust does not draw its own."""
        noise = self.plan.noise
        if noise is None or self.plan.draws_noise:
            return
        drawn = noise.exploration_mat, noise.exploration_matrices
        if not all(map(operator.is_, drawn, self._taken)):
            # They may not be computed yet, for which a forked child has no thread.
            with computing():
                matrices = np.concatenate([np.asarray(array).reshape(-1) for array in drawn])
            self._core.set_matrices(matrices)
            self._taken = drawn

    def share_noise(self) -> None:
        """Copy the exploration matrices to the policy's distribution, where SB3 has them."""
        noise = self.plan.noise
        if noise is None or not self.plan.draws_noise or self._shared_draws == self._core.draws:
            return
        self._shared_draws = self._core.draws
        matrices = self._core.matrices().reshape(-1, noise.latent_sde_dim or 1, noise.action_dim)
        noise.exploration_mat, noise.exploration_matrices = to_mlx(matrices[0]), to_mlx(matrices[1:])

    @property
    def rng_state(self) -> tuple[int, int]:
        """:return: state and increment of the generator, those of NumPy's PCG64"""
        state = self._core.rng_state
        return state["state"], state["inc"]

    @rng_state.setter
    def rng_state(self, state: tuple[int, int]) -> None:
        with self._lock:
            self._core.rng_state = {"state": state[0], "inc": state[1]}
            self._mlx_state = _mlx_random_state()

    @property
    def is_seeded(self) -> bool:
        """:return: whether MLX's generator is where it was when this one was seeded from it"""
        return self._mlx_state == _mlx_random_state()

    def unseed(self) -> None:
        """Seed the generator from MLX's before the next number is drawn."""
        self._mlx_state = None

    def reseed(self) -> None:
        """Seed the generator from MLX's, and advance MLX's."""
        seed = _mlx_key()
        _move_on(seed, 1)
        with self._lock:
            # Not the seed itself: an environment seeded with it would draw the same numbers.
            self._core.seed(2**64 - 1 - seed)
            self._mlx_state = _mlx_random_state()

    def learn(
        self,
        envs: "_native.EnvBatch",
        current: "_native.CurrentObs",
        plan: "_native.OnPolicyPlan",
        buffer: "_native.RolloutBufferColumns",
        update: "_native.OnPolicyUpdate",
        network: "_native.LearnedVector",
    ) -> "_native.LearnedRollouts | None":
        """
        Collect rollouts and learn from them in turn. The generator begins each as :meth:`reseed` lets it.

        :param envs: native environments
        :param current: the present observations and episode starts; they follow the environments
        :param plan: what to do; its ``key`` is found here
        :param buffer: the columns of the rollout buffer
        :param update: takes the gradient steps
        :param network: the parameters, which the weights follow
        :return: what happened; None if nothing has
        :raises ValueError: the parts do not fit each other; nothing has happened then
        :raises RuntimeError: the environments are closed
        """
        # A signal that is seen to in Rust comes back as an error, with what came before it.
        with self.lent() as actor, self.critic().lent() as critic, interrupts_allowed():
            key = _mlx_key()
            parts: _native.RolloutLearning = {
                "actor": actor,
                "critic": critic,
                "update": update,
                "network": network,
            }
            plan = {**plan, "key": key, "key_step": _GOLDEN}
            done = _native.learn_on_policy(envs, current, plan, buffer, parts)
            if done is not None and done.n_rollouts:
                _move_on(key, done.n_rollouts)
                self._mlx_state = _mlx_random_state()
        return done

    def _follow_mlx(self) -> None:
        if self._draws and not self.is_seeded:
            self.reseed()

    def act(
        self, obs: Observations, deterministic: bool = False, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :param deterministic: the most likely actions instead of random ones
        :param masks: (batch, choices) 0 where a choice is not allowed; None: all are
        :return: (batch, action_dim) actions before clipping: int64 or float32
        :raises ValueError: the policy's output is not finite (discrete and binary actions), or the
            observations have another size than the policy was made for
        """
        rows = self._rows(obs)
        with self._lock:
            if not deterministic:
                self._follow_mlx()
                self._take_noise()
            if self._discrete:
                allowed = None if masks is None else np.ascontiguousarray(masks, np.float32).reshape(-1)
                return self._core.choose(rows, deterministic, allowed)
            return self._core.act(rows, deterministic)

    @contextmanager
    def lent(self) -> "Iterator[_native.Actor]":
        """Lend the Rust actor to code that loads other weights; :meth:`refresh` restores the policy's."""
        with self._lock:
            self._arrays, self._places, self._is_compared = [], [], False
            yield self._core

    def collect(
        self,
        envs: "_native.EnvBatch",
        bounds: "_native.ActionBounds",
        current: "_native.CurrentObs",
        columns: "_native.RolloutColumns",
    ) -> "_native.CollectedRollout":
        """
        Step native environments until rows of a rollout buffer are full, without Python in between.

        :param envs: the environments
        :param bounds: lowest and highest action that the environments take, none for discrete ones
        :param current: the present observations and episode starts; they follow the environments
        :param columns: rows of the buffer's columns
        :return: what happened
        :raises ValueError: policy, environments and columns do not fit, or an action is not finite
        :raises RuntimeError: the environments are closed or not reset
        """
        with self._lock:
            return _native.collect_rollout(envs, self._core, bounds, current, columns)

    def collect_transitions(
        self,
        envs: "_native.EnvBatch",
        bounds: "_native.ActionBounds",
        last_obs: np.ndarray,
        plan: "_native.ActionPlan",
        columns: "_native.ReplayColumns",
        cursor: "_native.Cursor",
    ) -> "_native.CollectedTransitions":
        """
        Step native environments and write every step into a replay buffer, without Python in between.

        :param envs: the environments
        :param bounds: lowest and highest action that the environments take, none for discrete ones
        :param last_obs: (n_envs, obs) observations
        :param plan: how the actions come about
        :param columns: those of the buffer
        :param cursor: where the buffer stands
        :return: what happened
        :raises ValueError: policy, environments and columns do not fit
        :raises RuntimeError: the environments are closed or not reset
        """
        obs = np.ascontiguousarray(last_obs, np.float32)
        with self._lock:
            if not all(plan["is_random"]):
                self._follow_mlx()
                self._take_noise()
            return _native.collect_transitions(envs, self._core, bounds, obs, plan, columns, cursor)


def _one_after_the_other() -> Callable[[Any, str, tuple[int, ...]], int]:
    """:return: where each parameter lies in a vector, in the order of the questions"""
    end = 0

    def place(module: Any, key: str, shape: tuple[int, ...]) -> int:
        nonlocal end
        end += math.prod(shape)
        return end - math.prod(shape)

    return place


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _mlx_random_state() -> bytes:
    """:return: the key of MLX's generator, 8 bytes"""
    use_generator()
    return random_key()


def _mlx_key() -> int:
    """:return: the seed that puts MLX's generator where it is"""
    high, low = np.frombuffer(_mlx_random_state(), np.uint32).tolist()
    return int(high << 32 | low)


def _move_on(key: int, times: int) -> None:
    # The next of Weyl's sequence, whose 2**64 keys MLX hashes. Drawing a number from MLX, to be hashed as
    # the seed is anyway, would take ten times as long.
    mx.random.seed((key + times * _GOLDEN) % 2**64)


_actors: "weakref.WeakSet[NativeActor]" = weakref.WeakSet()


def _locks() -> Iterator[Any]:
    for actor in list(_actors):
        yield actor._lock


# After a fork, a lock held by another thread would never be released in the child.
with_fork(locks=_locks)


def native_actor(policy: Any) -> NativeActor:
    """
    The native actor of a policy, with its present weights.

    :param policy: a policy
    :return: the same object for the same policy, unless its layers are replaced
    :raises NotNative: if only MLX can run the policy; the message is the reason
    """
    # Another thread may be tracing an update of the same networks.
    with tracing:
        known = _remembered(policy)
        if isinstance(known.blueprint, str):
            raise NotNative(known.blueprint)
        plan: Blueprint = known.blueprint
        actor: NativeActor | None = known.actor
        arrays = plan.arrays()
        is_known = actor is not None and actor.is_current(arrays)
        if not is_known and any(array.dtype != mx.float32 for array in arrays):
            raise NotNative("its weights are not float32")
        if actor is None or not actor.fits(plan):
            actor = known.actor = NativeActor(plan)
        actor.refresh(plan, arrays)
        return actor


def _remembered(policy: Any) -> Remembered:
    """:return: the cached blueprint of a policy, or why there is none, and its last native actor"""
    if not isinstance(policy, Module):
        raise NotNative(f"{type(policy).__name__} has no native form")
    last: Remembered | None = vars(policy).get("_remembered")
    if last is not None and last.is_current(policy):
        return last
    # Set before the snapshot is taken, because it counts attributes.
    known = vars(policy)["_remembered"] = Remembered()
    if last is not None and last.snapshot is not None and last.snapshot.policy is policy:
        known.actor = last.actor
    try:
        known.blueprint = blueprint(policy)
    except NotNative as reason:
        known.blueprint = str(reason)
    known.snapshot = Snapshot(policy)
    return known


def is_outdated(policy: Any, actor: NativeActor) -> bool:
    """
    :param policy: a policy
    :param actor: its native actor
    :return: whether the policy has other modules, methods or weights by now
    """
    with tracing:
        known: Remembered | None = vars(policy).get("_remembered")
        if known is None or known.actor is not actor or known.snapshot is None:
            return True
        same = known.snapshot.is_same(policy)
        return same is None or actor.is_outdated(same)


def native_actor_or_none(policy: Any) -> NativeActor | None:
    """
    :param policy: a policy
    :return: as :func:`native_actor`; None if only MLX can run the policy
    """
    try:
        return native_actor(policy)
    except NotNative:
        return None


def predict_natively(
    policy: Any,
    observation: Any,
    deterministic: bool,
    masks_of: Callable[[int], np.ndarray] | None = None,
) -> tuple[np.ndarray, bool] | None:
    """
    :param policy: a policy
    :param observation: one observation or a batch
    :param deterministic: the most likely actions instead of random ones
    :param masks_of: gives for a number of rows (rows, choices) masks, 0 where a choice is not allowed
    :return: (batch, action_dim) actions before clipping, and whether the observation was a batch; None if
        only MLX can tell
    :raises ValueError: the shape of an observation that is an array fits neither one nor a batch
    """
    actor = native_actor_or_none(policy)
    if actor is None or isinstance(observation, dict) != bool(actor.keys):
        return None
    if actor.has_matrices and not deterministic and actor.plan.draws_noise:
        # The noise is that of the last `reset_noise`, which MLX's distribution keeps.
        return None
    space = policy.observation_space
    if not actor.keys:
        rows, is_batch = _as_rows(observation, space)
        masks = None if masks_of is None else masks_of(len(rows))
        return actor.act(rows, deterministic, masks), is_batch
    if observation.keys() != space.spaces.keys():
        return None
    try:
        batches = {key: _as_rows(observation[key], space[key]) for key in actor.keys}
    except ValueError:
        # An axis of one too many, which does no harm to the policy's own way, or an error that it tells.
        return None
    parts = {key: rows for key, (rows, _) in batches.items()}
    if len({len(rows) for rows in parts.values()}) > 1:
        return None
    masks = None if masks_of is None else masks_of(len(parts[actor.keys[0]]))
    return actor.act(parts, deterministic, masks), any(is_batch for _, is_batch in batches.values())


def _as_rows(observation: Any, space: Any) -> tuple[np.ndarray, bool]:
    array = np.asarray(observation)
    if len(space.shape) == 3 and array.shape[-3:] != space.shape:
        # An image may have its channels last.
        array = maybe_transpose(array, space)
    is_batch = is_vectorized_observation(array, space)
    return array.reshape(-1, *space.shape), is_batch
