"""
Rollouts of on-policy algorithms whose actions come from a native actor.

Values, log-probabilities and the values of truncated episodes are computed after the rollout, all at once.
Native environments take as many steps at once as no callback needs to see, other environments one.
"""

from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.native.actor import NativeActor, is_outdated, native_actor
from mlx_baselines3.common.native.blueprint import Observations, side_by_side
from mlx_baselines3.common.native.eligibility import NotNative, check_rollout_buffer, mlx_infers, python_steps
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust, why_stepped_in_python

__all__ = [
    "Estimates",
    "Masks",
    "NativeRollout",
    "Steps",
    "actions_for_env",
    "bounds_of",
    "choose_actor",
]


def choose_actor(policy: Any, buffer: Any) -> NativeActor | str:
    """
    Select what computes the actions in the rollouts of an on-policy algorithm.

    :param policy: its policy
    :param buffer: its rollout buffer
    :return: the native actor, with the current weights; or a message with the reason why there is none
    """
    try:
        check_rollout_buffer(buffer)
        actor = native_actor(policy)
        actor.plan.check_critic()
        return actor
    except NotNative as reason:
        return mlx_infers(reason)


def actions_for_env(policy: Any, action_space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """
    :param policy: the policy
    :param action_space: the action space of the environments
    :param actions: (n_envs, ...) what the policy gave, and the buffer keeps
    :return: (n_envs, ...) the same as the environments take them
    """
    if not isinstance(action_space, spaces.Box):
        return actions
    if policy.squash_output:
        unscaled: np.ndarray = policy.unscale_action(actions)
        return unscaled
    return np.clip(actions, action_space.low, action_space.high)


def bounds_of(space: spaces.Space[Any]) -> "_native.ActionBounds":
    """
    :param space: the action space of environments
    :return: its bounds as ``_native`` takes them
    """
    low = high = np.empty(0, np.float32)
    if isinstance(space, spaces.Box):
        # Those of integers are no float32; environments with such actions are stepped in Python.
        low, high = (bound.ravel().astype(np.float32) for bound in (space.low, space.high))
    return _native.ActionBounds(low=low, high=high)


class _Truncation(NamedTuple):
    """An episode that the time limit ended: the place of its last reward, and its last observation."""

    step: int
    env: int
    obs: Observations


class Steps(NamedTuple):
    """
    Results of one or more steps.

    :param n_steps: number of steps
    :param error: why there was no next one, if there should have been one
    :param seen: observations before the last step, and whether they begin an episode
    :param last: its actions, clipped actions, new observations, rewards, dones and infos; of no use after an
        error, like ``seen``
    :param earlier_episodes: Monitor's entries of the episodes that ended before the last step; after an
        error, of all
    :param truncations: the episodes that the time limit ended before the last step
    """

    n_steps: int
    error: BaseException | None
    seen: tuple[Observations, np.ndarray]
    last: tuple[np.ndarray, np.ndarray, Observations, np.ndarray, np.ndarray, list[dict[str, Any]]]
    earlier_episodes: list[dict[str, Any]]
    truncations: list[_Truncation]


class Masks(Protocol):
    """Where environments say which actions they allow."""

    # Rust knows what the environments allow.
    is_native: bool

    def now(self) -> np.ndarray:
        """:return: (n_envs, choices) booleans: what is allowed in the next step"""

    def follow(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        To be called after each step.

        :param dones: (n_envs,) whether episodes have ended
        :param infos: one for each environment
        """


class Estimates(NamedTuple):
    """
    Outputs of the networks for a step that a callback sees.

    :param values: (n_envs, 1) values of the observations
    :param log_probs: (n_envs,) log-probabilities of the actions
    :param shown: copies of both, of the observations and actions, and of rewards and episode starts
    """

    values: mx.array
    log_probs: mx.array
    shown: "_native.Copies"


class NativeRollout:
    """
    One rollout of an on-policy algorithm, from its first step to the buffer that is complete.

    :param actor: the native actor, with the present weights
    :param policy: its policy
    :param env: the environments
    :param buffer: the buffer to fill, which is empty
    :param gamma: discount factor
    :param sde_sample_freq: steps after which gSDE draws other noise, never if 0 or less
    :param masks: where the environments say which actions they allow; None allows all
    """

    def __init__(
        self,
        actor: NativeActor,
        policy: Any,
        env: VecEnv,
        buffer: RolloutBuffer,
        gamma: float,
        sde_sample_freq: int,
        masks: Masks | None = None,
    ):
        self._actor, self._policy, self._env, self._buffer = actor, policy, env, buffer
        self._gamma = gamma
        self._space = buffer.action_space
        self._bounds = bounds_of(self._space)
        # Rust clips actions; it does not stretch squashed ones to the bounds.
        self._core: Any = None if policy.squash_output else stepped_in_rust(env)
        # Steps that were taken, and those of them whose values and likelihoods are in the buffer.
        self._n_steps = self._n_complete = 0
        # Whether a callback has had the opportunity to change the policy, and whether it can be followed.
        self._was_seen, self._follows = False, True
        self._sde_sample_freq = sde_sample_freq
        # Of environments that forbid actions, where the policy is to know: the masks of a step.
        self._masks = masks
        if masks is not None and not masks.is_native:
            self._core = None
        self._truncations: list[_Truncation] = []
        # Step, and the values and likelihoods that a callback has put in place of the networks' own.
        self._given: list[tuple[int, np.ndarray, np.ndarray]] = []
        # Step and environment of the steps that only reset.
        self.dead: list[tuple[int, int]] = []
        actor.reseed()
        actor.explore(env.num_envs, sde_sample_freq)

    @property
    def is_fused(self) -> bool:
        """:return: whether Rust takes the steps, too, and not only chooses the actions"""
        return self._core is not None

    def why_not_fused(self) -> str:
        """:return: a sentence that says why Python takes the steps of native environments, if it does"""
        reason = why_stepped_in_python(self._env)
        if reason is None and self._policy.squash_output and stepped_in_rust(self._env) is not None:
            reason = "the policy squashes its actions"
        return "" if reason is None else python_steps(reason)

    def take_steps(self, last: tuple[Any, np.ndarray], count: int) -> Steps:
        """
        Take ``count`` steps if the rollout is fused, otherwise one.

        :param last: (n_envs, ...) observations, and whether they begin an episode; where the rollout is
            fused, arrays that follow the environments
        :param count: most steps
        :return: what they gave; the rows of the buffer are written by :meth:`record` and :meth:`complete`
        :raises FloatingPointError: the environments gave observations that are not finite
        :raises ValueError: an action is not finite
        """
        self._follow_policy()
        steps = self._step(last) if self._core is None else self._fused_steps(last, count)
        if steps.error is None:
            self._actor.share_noise()
        return steps

    def _follow_policy(self) -> None:
        """
        Take over what a callback has changed in the policy. As in SB3, the steps before have the values and
        likelihoods of the networks that took them.
        """
        # Another thread replaces arrays.
        may_differ = self._was_seen or not self._actor.is_current()
        self._was_seen = False
        if not (may_differ and self._follows and is_outdated(self._policy, self._actor)):
            return
        self._complete_rows()
        before = self._actor
        try:
            self._actor = native_actor(self._policy)
        except NotNative:
            # The present actor ends the rollout; the next one is MLX's.
            self._follows = False
            return
        if self._actor is not before:
            self._actor.explore(self._env.num_envs, self._sde_sample_freq)

    def _step(self, last: tuple[Any, np.ndarray]) -> Steps:
        """One step of environments of any kind."""
        obs = last[0]
        try:
            masks = self._masks_now()
            actions = self._actor.act(obs, masks=masks).reshape(-1, *(self._space.shape or ()))
        except ValueError as error:
            if all(np.isfinite(column).all() for column in self._actor.plan.columns(obs)):
                raise
            raise FloatingPointError(
                f"The environments gave an observation that is nan or infinite: {obs}. Wrap "
                "them in VecCheckNan(env, raise_exception=True) to see at which step."
            ) from error
        clipped_actions = actions_for_env(self._policy, self._space, actions)
        new_obs, rewards, dones, infos = self._env.step(clipped_actions)
        # No policy has observations that are tuples.
        assert not isinstance(new_obs, tuple)
        check_integers(new_obs, self._buffer.observation_space, "environment")
        if self._masks is not None:
            self._masks.follow(dones, infos)
        return Steps(1, None, last, (actions, clipped_actions, new_obs, rewards, dones, infos), [], [])

    def _masks_now(self) -> np.ndarray | None:
        """What is allowed in the next step, which is put into the buffer."""
        if self._masks is None:
            return None
        masks = self._buffer.__dict__["action_masks"][self._n_steps]
        masks[...] = self._masks.now()
        found: np.ndarray = masks
        return found

    def _fused_steps(self, last: tuple[np.ndarray, np.ndarray], count: int) -> Steps:
        """Steps of native environments, written into the buffer."""
        buffer, start = self._buffer, self._n_steps
        rows, (obs, starts) = slice(start, start + count), last
        columns: _native.RolloutColumns = {
            "observations": buffer.observations[rows],
            "actions": buffer.actions[rows],
            "rewards": buffer.rewards[rows],
            "episode_starts": buffer.episode_starts[rows],
            "masks": None if self._masks is None else buffer.__dict__["action_masks"][rows],
        }
        current: _native.CurrentObs = {"obs": obs, "episode_starts": starts}
        done = self._actor.collect(self._core, self._bounds, current, columns)
        newest = start + done.n_steps - 1
        # Copies: what callbacks hold of these steps stays as it is.
        actions = buffer.actions[newest].reshape(-1, *(self._space.shape or ())).copy()
        env_actions = actions_for_env(self._policy, self._space, actions)
        ends = (actions, env_actions, obs, buffer.rewards[newest].copy(), starts, done.infos)
        seen = buffer.observations[newest].copy(), buffer.episode_starts[newest].astype(bool)
        n_earlier = done.n_steps - (done.error is None)
        episodes, timeouts = (done.episodes, done.timeouts) if n_earlier else ((), ())
        return Steps(
            done.n_steps,
            done.error,
            seen,
            ends,
            [end.monitor_entry for end in episodes if end.step < n_earlier],
            [
                _Truncation(start + end.step, end.env, end.last_obs)
                for end in timeouts
                if end.step < n_earlier
            ],
        )

    def estimate(self, steps: Steps) -> Estimates:
        """
        :param steps: what :meth:`take_steps` gave
        :return: values and log-probabilities of the last one, as the buffer gets them after the rollout
        """
        masks = None
        if self._masks is not None:
            masks = self._buffer.__dict__["action_masks"][self._n_steps + steps.n_steps - 1]
        values, log_probs = self._evaluate(steps.seen[0], steps.last[0], masks)
        shown = _native.Copies(self._visible(values, log_probs, steps, steps.seen))
        return Estimates(to_mlx(values), to_mlx(log_probs), shown)

    def _visible(
        self, values: Any, log_probs: Any, steps: Steps, seen: tuple[Observations, np.ndarray]
    ) -> list[Any]:
        """What of a step a callback may change in place."""
        obs, starts = seen
        if self._actor.keys:
            obs = side_by_side(obs, self._actor.keys)
        return [values, log_probs, obs, steps.last[0], steps.last[3], starts]

    def record(self, steps: Steps, seen: tuple[Any, Any], estimates: Estimates | None) -> None:
        """
        Store the last step as a callback has left it, the observations before it included.

        :param steps: what :meth:`take_steps` gave
        :param seen: observations before the last step, and whether they begin an episode
        :param estimates: those that the callback was shown, if any
        """
        actions, _, _, rewards, dones, infos = steps.last
        self._was_seen = estimates is not None
        row = self._n_steps + steps.n_steps - 1
        self._truncations += steps.truncations
        for i in np.asarray(dones).nonzero()[0].tolist():
            if "autoreset_step" in infos[i]:
                self.dead.append((row, i))
            last_obs = infos[i].get("terminal_observation")
            if last_obs is not None and infos[i].get("TimeLimit.truncated", False):
                self._truncations.append(_Truncation(row, i, last_obs))
        self._n_steps += steps.n_steps
        changed = estimates is not None and self._keep_changes(row, estimates, steps, seen)
        if self._core is not None and not changed:  # the rows are written already
            self._buffer.pos = self._n_steps
            self._buffer.full = self._n_steps == self._buffer.buffer_size
            return
        if isinstance(self._space, spaces.Discrete):
            actions = actions.reshape(-1, 1)
        self._buffer.pos = row
        later = np.zeros(1, np.float32)
        self._buffer.add(seen[0], actions, rewards, seen[1], later, later)

    def _keep_changes(
        self, row: int, estimates: Estimates, steps: Steps, seen: tuple[Observations, Any]
    ) -> bool:
        """:return: whether a callback has changed the step in place"""
        now = self._visible(estimates.values, estimates.log_probs, steps, seen)
        same = estimates.shown.count_same(now)
        if same < 4:
            # They cannot be computed from the rows of the buffer.
            values, log_probs = map(to_numpy, estimates[:2])
            self._given.append((row, values.reshape(-1), log_probs.reshape(-1)))
        return same < len(now)

    def _evaluate(
        self, observations: Observations, actions: np.ndarray, masks: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(batch, 1) values and (batch,) log-probabilities."""
        values, actor, seen = self._actor.evaluate(observations)
        log_probs = actor.log_probs(seen, actions, masks)
        # Every distribution of an on-policy algorithm has likelihoods.
        assert log_probs is not None
        return values, log_probs

    def complete(self, new_obs: Observations) -> mx.array:
        """
        Fill in values and log-probabilities; the value of what followed a time limit is added to the rewards.

        :param new_obs: (n_envs, ...) observations after the last step
        :return: (n_envs, 1) their values
        """
        self._complete_rows()
        for step, given_values, given_log_probs in self._given:
            self._buffer.values[step], self._buffer.log_probs[step] = given_values, given_log_probs
        self._follow_policy()
        return to_mlx(self._actor.values(new_obs))

    def _complete_rows(self) -> None:
        """Fill in the values and likelihoods of the steps that the current actor has taken."""
        buffer, plan, rows = self._buffer, self._actor.plan, slice(self._n_complete, self._n_steps)
        self._n_complete = self._n_steps
        if rows.start == rows.stop:
            return
        obs = buffer.observations
        obs = {key: array[rows] for key, array in obs.items()} if isinstance(obs, dict) else obs[rows]
        actions = buffer.actions[rows].reshape(-1, *(self._space.shape or ()))
        masks = None if self._masks is None else buffer.__dict__["action_masks"][rows]
        values, log_probs = self._evaluate(plan.rows(obs), actions, masks)
        buffer.values[rows] = values.reshape(buffer.values[rows].shape)
        buffer.log_probs[rows] = log_probs.reshape(buffer.log_probs[rows].shape)
        if self._truncations:
            steps, envs, ends = zip(*self._truncations, strict=True)
            end_values = self._actor.values(plan.stacked(ends))[:, 0]
            buffer.rewards[list(steps), list(envs)] += self._gamma * end_values
            self._truncations.clear()
