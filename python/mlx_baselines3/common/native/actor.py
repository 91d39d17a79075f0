"""Policies made of MLPs, with or without convolutions before them, run in Rust: a small MLP takes about a
microsecond a step instead of a third of a millisecond through MLX's graph.

A policy class says with :func:`blueprint` which layers lead to its actions. MLX keeps the weights; they
are copied before they are used.
"""

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
from mlx_baselines3.common.nn.threads import random_key, tracing, use_generator, with_fork
from mlx_baselines3.common.preprocessing import maybe_transpose
from mlx_baselines3.common.utils import is_vectorized_observation

__all__ = [
    "DRAWING",
    "Blueprint",
    "Layer",
    "NativeActor",
    "blueprint",
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

    The generator is seeded from MLX's whenever that one has moved: whoever seeds MLX decides about the
    actions, as with MLX's own sampling.

    ``has_matrices`` says whether the noise depends on the state (gSDE), ``plan`` is the present blueprint.

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
        # Their memory and where it is, if there is a features extractor.
        self._views: list[np.ndarray] = []
        self._places: list[Any] = []
        self._mlx_state: bytes | None = None
        # Of Dict observations, in the order of the network's inputs.
        self.keys = plan.keys
        self._discrete = head in ("categorical", "multi_categorical", "epsilon_greedy")
        self.has_matrices = plan.noise is not None
        self._draws = head not in ("deterministic", "epsilon_greedy")
        self._shared_draws = 0
        self._critic: NativeActor | None = None
        # The same without the features extractor.
        self._behind: NativeActor | None = None
        # Which of the two have been refreshed since this one was.
        self._refreshed: list[NativeActor] = []
        # One generator and one workspace: threads take turns.
        self._lock = threading.RLock()
        _actors.add(self)
        self.refresh(plan)

    def fits(self, plan: Blueprint) -> bool:
        """
        :param plan: a blueprint
        :return: whether its weights can be taken over
        """
        return self.plan is plan or self.plan.has_modules_of(plan) or self._shape == plan.shape()

    def is_current(self, arrays: list[mx.array] | None = None) -> bool:
        """
        :param arrays: the present ones of the policy; asked for if not given
        :return: whether these are the arrays of the last :meth:`refresh`
        """
        arrays = arrays or self.plan.arrays()
        return len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))

    def refresh(self, plan: Blueprint | None = None, arrays: list[mx.array] | None = None) -> None:
        """
        Take over the weights that have changed. NumPy looks into MLX's memory where the device allows it.

        :param plan: a blueprint that :meth:`fits`; the last one if not given
        :param arrays: those of the blueprint, where they are known
        """
        with self._lock:
            self.plan = plan = plan or self.plan
            self._refreshed.clear()
            self._arrays = arrays or plan.arrays()
            mx.eval(self._arrays)
            views = [np.ascontiguousarray(array) for array in self._arrays]
            if plan.features:
                # Comparing millions of numbers would take longer than acting. While the last views hold the
                # memory, other numbers lie elsewhere.
                places = [view.__array_interface__["data"] for view in views]
                same, self._places, self._views = places == self._places, places, views
                if same:
                    return
            if self._core.changed(views):
                self._load(plan)

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
        """Another network of the same policy, with its present weights."""
        if known is not None and known in self._refreshed and known.is_current():
            return known
        plan = plan_of()
        if known is None or not known.fits(plan):
            known = NativeActor(plan)
        else:
            known.refresh(plan)
        self._refreshed.append(known)
        return known

    def critic(self) -> "NativeActor":
        """
        The network of the values, with its present weights.

        :return: its :meth:`outputs` are (batch, 1) values. What it takes is what :meth:`valued` gives
        :raises ValueError: the policy has none
        """
        self._critic = self._part(self._critic, self.plan.of_critic)
        return self._critic

    def valued(self, obs: Observations) -> Observations:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: what :meth:`critic` takes: the features, if actor and critic share an extractor
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
        Compute the values of some observations. A features extractor that actor and critic share sees them
        once.

        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, 1) values; what gives the likelihoods of actions, and what it takes for that
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
        array = side_by_side(obs, self.keys) if isinstance(obs, dict) else obs
        return np.ascontiguousarray(array, np.float32).reshape(len(array), -1)

    def outputs(self, obs: Observations) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, outputs) the outputs of the network: logits, means or values
        """
        with self._lock:
            return self._core.outputs(self._rows(obs))

    def log_probs(self, obs: Observations, actions: np.ndarray) -> np.ndarray | None:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :param actions: (batch, ...) an action for each
        :return: (batch,) their log-likelihoods; None with gSDE or for a head that has none
        """
        with self._lock:
            return self._core.log_probs(
                self._rows(obs), np.ascontiguousarray(actions, np.float32).reshape(-1)
            )

    def features(self, obs: Observations) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, features) what the last layer takes
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

    def share_noise(self) -> None:
        """Put the exploration matrices into the policy's distribution, where users look for them."""
        noise = self.plan.noise
        if noise is None or self._shared_draws == self._core.draws:
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
        """Seed the generator from MLX's, which goes on to another state."""
        seed = _mlx_key()
        _move_on(seed, 1)
        with self._lock:
            # Not the seed itself: an environment may have begun with it, and would draw the same numbers.
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

    def act(self, obs: Observations, deterministic: bool = False) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :param deterministic: the most likely actions instead of random ones
        :return: (batch, action_dim) actions before clipping: int64 or float32
        :raises ValueError: the policy's output is not finite (discrete and binary actions), or the
            observations have another size than the policy was made for
        """
        rows = self._rows(obs)
        with self._lock:
            if not deterministic:
                self._follow_mlx()
            if self._discrete:
                return self._core.choose(rows, deterministic)
            return self._core.act(rows, deterministic)

    @contextmanager
    def lent(self) -> "Iterator[_native.Actor]":
        """Let others give it other weights, which :meth:`refresh` finds changed."""
        with self._lock:
            self._arrays = []
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


# Else a child could wait for a thread that it does not have.
with_fork(locks=_locks)


def native_actor(policy: Any) -> NativeActor:
    """
    The native actor of a policy, with its present weights.

    :param policy: a policy
    :return: always the same one for the same policy, unless its layers are replaced
    :raises NotNative: only MLX can run the policy; the message says why
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
    """:return: the present blueprint of a policy, or why there is none, and its last native actor"""
    if not isinstance(policy, Module):
        raise NotNative(f"{type(policy).__name__} has no native form")
    last: Remembered | None = vars(policy).get("_remembered")
    if last is not None and last.is_current(policy):
        return last
    # There before the snapshot is taken, which counts attributes.
    known = vars(policy)["_remembered"] = Remembered()
    if last is not None and last.snapshot is not None and last.snapshot.policy is policy:
        known.actor = last.actor
    try:
        known.blueprint = blueprint(policy)
    except NotNative as reason:
        known.blueprint = str(reason)
    known.snapshot = Snapshot(policy)
    return known


def native_actor_or_none(policy: Any) -> NativeActor | None:
    """
    :param policy: a policy
    :return: as :func:`native_actor`; None if only MLX can run the policy
    """
    try:
        return native_actor(policy)
    except NotNative:
        return None


def predict_natively(policy: Any, observation: Any, deterministic: bool) -> tuple[np.ndarray, bool] | None:
    """
    :param policy: a policy
    :param observation: one observation or a batch
    :param deterministic: the most likely actions instead of random ones
    :return: (batch, action_dim) actions before clipping, and whether the observation was a batch; None if
        only MLX can tell
    :raises ValueError: the shape of the observation fits neither one nor a batch
    """
    actor = native_actor_or_none(policy)
    if actor is None or isinstance(observation, dict) != bool(actor.keys):
        return None
    if actor.has_matrices and not deterministic:
        # The noise is that of the last `reset_noise`, which MLX's distribution keeps.
        return None
    space = policy.observation_space
    if not actor.keys:
        rows, is_batch = _as_rows(observation, space)
        return actor.act(rows, deterministic), is_batch
    if observation.keys() != space.spaces.keys():
        return None
    batches = {key: _as_rows(observation[key], space[key]) for key in actor.keys}
    parts = {key: rows for key, (rows, _) in batches.items()}
    return actor.act(parts, deterministic), any(is_batch for _, is_batch in batches.values())


def _as_rows(observation: Any, space: Any) -> tuple[np.ndarray, bool]:
    array = np.asarray(observation)
    if len(space.shape) == 3 and array.shape[-3:] != space.shape:
        # An image may have its channels last.
        array = maybe_transpose(array, space)
    is_batch = is_vectorized_observation(array, space)
    return array.reshape(-1, *space.shape), is_batch
