"""
Collecting experience for off-policy algorithms in Rust: policy, exploration, environments and replay buffer.

Random numbers of Python's generators are drawn ahead, in the order of single steps: whether an
epsilon-greedy policy explores, random actions of the action space, the user's action noise.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.actor import NativeActor, native_actor
from mlx_baselines3.common.native.eligibility import (
    NotNative,
    check_collection,
    mlx_infers,
    predrawable_noises,
    python_steps,
)
from mlx_baselines3.common.native.interrupts import interrupts_allowed
from mlx_baselines3.common.noise import ActionNoise, OrnsteinUhlenbeckActionNoise
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust, why_stepped_in_python

__all__ = [
    "ChunkResult",
    "CollectorChoice",
    "EndsOfStep",
    "NativeCollector",
    "choose_collector",
    "ends_by_step",
]

# Steps drawn ahead where an episode's end may make some of them useless.
_MOST_IN_VAIN = 32


class ChunkResult(NamedTuple):
    """
    Results of some steps.

    :param n_steps: how many were taken and stored
    :param error: why there was no next one, if there should have been one
    :param episodes: the episodes that ended before the last step; after an error, all of them
    :param last: the last step; of no use after an error, except for the observations
    :param seen: (n_envs, obs) observations before the last step
    """

    n_steps: int
    error: BaseException | None
    episodes: list[_native.FinishedEpisode]
    last: _native.LastStep
    seen: np.ndarray


class EndsOfStep(NamedTuple):
    """
    The episodes that ended in a step.

    :param step: number of the step
    :param dones: (n_envs,) bool, where they ended
    :param infos: what Monitor reports of each
    """

    step: int
    dones: np.ndarray
    infos: list[dict[str, Any]]


def ends_by_step(episodes: Iterable[_native.FinishedEpisode], n_envs: int) -> Iterator[EndsOfStep]:
    """
    :param episodes: episodes in the order of their ends
    :param n_envs: number of environments
    :return: the same, step by step
    """
    for step, group in groupby(episodes, operator.attrgetter("step")):
        ended = list(group)
        dones = np.zeros(n_envs, bool)
        dones[[end.env for end in ended]] = True
        yield EndsOfStep(step, dones, [{"episode": end.monitor_entry} for end in ended])


class _Generators:
    """Where the generators are, to go back there when too much was drawn."""

    def __init__(self, space: spaces.Space[Any], walks: list[OrnsteinUhlenbeckActionNoise]):
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - SB3's generator
        self._space, self._space_state = space, space.np_random.bit_generator.state
        self._walks = [(walk, walk.noise_prev) for walk in walks]

    def restore(self) -> None:
        np.random.set_state(self._numpy)  # noqa: NPY002
        self._space.np_random.bit_generator.state = self._space_state
        for walk, before in self._walks:
            walk.noise_prev = before


class NativeCollector:
    """
    Takes steps in Rust, for one actor, environments and buffer.

    :param actor: the native actor of the policy, with the present weights
    :param envs: the environments
    :param buffer: the replay buffer; :func:`can_store_natively` is true of it
    :param action_space: the action space
    :param random_steps: says for a number of steps to come which of them take random actions
    :param noise: noise on scaled actions, of which :func:`predrawable_noises` knows the parts
    """

    def __init__(
        self,
        actor: NativeActor,
        envs: _native.EnvBatch,
        buffer: ReplayBuffer,
        action_space: spaces.Space[Any],
        random_steps: Callable[[int], list[bool]],
        noise: ActionNoise | None = None,
    ):
        self.actor, self.envs, self.buffer, self.noise = actor, envs, buffer, noise
        self._space, self._random_steps = action_space, random_steps
        self._walks = [
            part for part in predrawable_noises(noise) or [] if type(part) is OrnsteinUhlenbeckActionNoise
        ]
        low = high = np.empty(0, np.float32)
        if isinstance(action_space, spaces.Box):
            low, high = action_space.low.ravel(), action_space.high.ravel()
        self._bounds = _native.ActionBounds(low=low, high=high)
        self._nothing = np.empty(0, buffer.actions.dtype)
        counted = buffer.timeouts if buffer.handle_timeout_termination else None
        following = buffer.next_observations if buffer._terminal is None else buffer._terminal
        self._columns = _native.ReplayColumns(
            observations=buffer.observations,
            next_observations=following,
            actions=buffer.actions,
            rewards=buffer.rewards,
            dones=buffer.dones,
            timeouts=counted,
        )

    def collect_chunk(self, last_obs: np.ndarray, count: int, until_end: bool = False) -> ChunkResult:
        """
        Take steps and store them.

        :param last_obs: (n_envs, obs) observations to begin with
        :param count: most steps
        :param until_end: stop after a step that ends an episode
        :return: what happened. The buffer's cursor has moved; noise is not reset
        :raises ValueError: actor, environments and buffer do not fit each other; nothing has happened then
        :raises RuntimeError: the environments are closed or not reset
        """
        # A walk starts anew with each episode.
        until_end = until_end or bool(self._walks)
        generators = None
        if until_end and count > 1:
            count = min(count, _MOST_IN_VAIN)
            generators = _Generators(self._space, self._walks)
        plan = self._draw(count)
        result = self._run(last_obs, plan, until_end)
        if generators is not None and result.n_steps < count:
            generators.restore()
            self._draw(result.n_steps)
        return result

    def _draw(self, count: int) -> tuple[list[bool], np.ndarray, np.ndarray | None]:
        """Which of the next steps are random, their actions, and the noise of all."""
        n_envs = self.buffer.n_envs
        random = self._random_steps(count)
        drawn, n_random = self._nothing, sum(random)
        if n_random:
            drawn = np.array([self._space.sample() for _ in range(n_random * n_envs)])
        if self.noise is None:
            return random, drawn, None
        noise = np.empty((count, n_envs, self.buffer.action_dim), np.float32)
        for i in range(count):
            noise[i] = self.noise()
        return random, drawn, noise

    def _run(
        self, last_obs: np.ndarray, plan: tuple[list[bool], np.ndarray, np.ndarray | None], until_end: bool
    ) -> ChunkResult:
        buffer = self.buffer
        random, drawn, noise = plan
        whole_plan: _native.ActionPlan = {
            "is_random": random,
            "random_actions": drawn,
            "noise": noise,
            "until_end": until_end,
        }
        # Rust returns a signal as an error, with the steps before it.
        with interrupts_allowed():
            done = self.actor.collect_transitions(
                self.envs, self._bounds, last_obs, whole_plan, self._columns, buffer._cursor()
            )
        n_steps, last = done.n_steps, done.last
        self._advance(n_steps)
        seen = last_obs if n_steps == 1 else last.new_obs
        if n_steps > 1:
            seen = self.seen_last()
        return ChunkResult(n_steps, done.error, done.episodes, last, seen)

    def _advance(self, n_steps: int) -> None:
        buffer = self.buffer
        after = buffer.pos + n_steps
        buffer.full = buffer.full or after >= buffer.buffer_size
        buffer.pos = after % buffer.buffer_size

    def seen_last(self) -> np.ndarray:
        """:return: (n_envs, obs) observations before the last step that was stored"""
        return self.buffer.observations[self.buffer.pos - 1].copy()

    def learn(
        self, last_obs: np.ndarray, plan: "_native.QPlan", learned: "_native.QLearning"
    ) -> "_native.LearnedChunk | None":
        """
        Take steps, store them, and learn from them.

        :param last_obs: (n_envs, obs) observations to begin with
        :param plan: what to do
        :param learned: what learns
        :return: what happened; the buffer's cursor has moved. None if nothing has
        :raises ValueError: the parts do not fit each other; nothing has happened then
        :raises RuntimeError: the environments are closed or not reset
        """
        obs = np.ascontiguousarray(last_obs, np.float32)
        # Rust returns a signal as an error, with the steps before it.
        with self.actor.lent() as actor, interrupts_allowed():
            buffer: _native.ReplayArrays = {"columns": self._columns, "cursor": self.buffer._cursor()}
            done = _native.learn_q(self.envs, actor, obs, plan, buffer, learned)
        if done is not None:
            self._advance(done.n_steps)
        return done


def choose_collector(
    model: Any, env: VecEnv, buffer: Any, noise: ActionNoise | None, learning_starts: int
) -> NativeCollector | str:
    """
    Select what takes the steps of an off-policy algorithm.

    :param model: the algorithm
    :param env: its environments
    :param buffer: its replay buffer
    :param noise: its action noise
    :param learning_starts: environment steps with random actions at the start of the training
    :return: what takes the steps in Rust; otherwise a sentence that says why Rust does not, or nothing where
        only the environments are not native
    """
    core = stepped_in_rust(env)
    # What decides is asked before every rollout, so that what takes the least time comes first.
    if core is not None:
        try:
            check_collection(model, buffer, noise)
        except NotNative as reason:
            return python_steps(reason)
    try:
        actor = native_actor(model.policy)
    except NotNative as reason:
        return mlx_infers(reason)
    if core is None:
        why = why_stepped_in_python(env)
        return "" if why is None else python_steps(why)
    if isinstance(model.action_space, spaces.Box) and not model.policy.squash_output:
        return python_steps("the policy does not squash its actions")
    random_steps = partial(model._random_steps, n_envs=env.num_envs, learning_starts=learning_starts)
    return NativeCollector(actor, core, buffer, model.action_space, random_steps, noise)


class CollectorChoice:
    """Cached result of :func:`choose_collector`, valid until something it depends on may have changed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Decide again the next time, because a callback may have changed anything."""
        self._parts: tuple[Any, ...] = ()
        self.collector: NativeCollector | None = None

    def get(
        self, model: Any, env: VecEnv, buffer: Any, noise: ActionNoise | None, learning_starts: int
    ) -> NativeCollector | None:
        """
        :param model: as :func:`choose_collector` takes it, like the others
        :param env: environments
        :param buffer: replay buffer
        :param noise: action noise
        :param learning_starts: environment steps with random actions
        :return: what takes the steps in Rust; None where Python takes them
        """
        core = stepped_in_rust(env)
        if core is None:
            return None
        parts = (env, buffer, noise, learning_starts, core, model.policy)
        if len(parts) != len(self._parts) or not all(map(operator.is_, parts, self._parts)):
            chosen = choose_collector(model, env, buffer, noise, learning_starts)
            self._parts, self.collector = parts, None if isinstance(chosen, str) else chosen
        return self.collector
