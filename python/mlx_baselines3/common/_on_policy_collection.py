"""How on-policy algorithms collect a rollout. Reached through ``on_policy_algorithm``.

Where the policy has a twin in Rust, the twin acts; values, log-probabilities and the values of cut
episodes are computed after the rollout, all at once. Native environments are then stepped in stretches as
long as the callback lets pass. Any other policy runs in MLX, step by step.
"""

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from mlx_baselines3.common.callbacks.base import BaseCallback, steps_until_needed
from mlx_baselines3.common.native.actor import NativeActor, NotMirrored, native_actor
from mlx_baselines3.common.native.blueprint import Observations, side_by_side
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.nn.threads import tracing
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.training.dead_steps import dead_mask
from mlx_baselines3.common.utils import obs_as_tensor
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust


class _Cut(NamedTuple):
    """An episode that the time limit ended: where its last reward is, and what was seen last."""

    step: int
    env: int
    obs: Observations


class _Steps(NamedTuple):
    """
    What one or more steps gave.

    :param n_steps: number of steps
    :param seen: observations before the last step, and whether they begin an episode
    :param last: its actions, clipped actions, new observations, rewards, dones and infos
    :param earlier_episodes: Monitor's entries of the episodes that ended before the last step
    :param cuts: the episodes that the time limit ended before the last step
    """

    n_steps: int
    seen: tuple[Observations, np.ndarray]
    last: tuple[np.ndarray, np.ndarray, Observations, np.ndarray, np.ndarray, list[dict[str, Any]]]
    earlier_episodes: list[dict[str, Any]]
    cuts: list[_Cut]


class _Gathered:
    """What is known of a rollout besides the buffer's rows, to be filled in when it is complete."""

    def __init__(self) -> None:
        self.cuts: list[_Cut] = []
        # Step and environment of the steps that only reset.
        self.dead: list[tuple[int, int]] = []
        # Step, and the values and likelihoods that a callback has put in place of the networks' own.
        self.given: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add_ends(self, step: int, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Note how episodes ended, as the infos say after the callback has seen them."""
        for i in np.flatnonzero(dones).tolist():
            if "autoreset_step" in infos[i]:
                self.dead.append((step, i))
            last_obs = infos[i].get("terminal_observation")
            if last_obs is not None and infos[i].get("TimeLimit.truncated", False):
                self.cuts.append(_Cut(step, i, last_obs))

    def add_given(self, step: int, before: list[np.ndarray], after: list[Any]) -> None:
        """
        Note the estimates of a step at which a callback has changed something in place: those of the
        buffer's rows would be others.

        :param step: the step
        :param before: copies of the values, likelihoods, observations and actions
        :param after: the same as the callback leaves them
        """
        if not all(map(np.array_equal, before, after)):
            values, log_probs = map(to_numpy, after[:2])
            self.given.append((step, values.reshape(-1), log_probs.reshape(-1)))


class OnPolicyCollection(BaseAlgorithm):
    """The part of :class:`OnPolicyAlgorithm` that acts and stores; it has no own arguments."""

    policy: ActorCriticPolicy
    gamma: float
    use_sde: bool
    sde_sample_freq: int
    _why_not_native: str | None = None

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Step the environments with the present policy and fill a rollout buffer.

        :param env: the training environments
        :param callback: called at every step, and at both ends of the rollout
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps of each environment
        :return: False if the callback stopped the training, True otherwise
        """
        assert self._last_obs is not None, "No previous observation was provided"
        assert self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        n_steps = 0
        dead: list[tuple[int, int]] = []
        new_obs: Any = self._last_obs
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        check_integers(new_obs, self.observation_space, "environment")
        actor = self._native_actor(rollout_buffer)
        if actor is not None:
            return self._collect_natively(actor, env, callback, rollout_buffer, n_rollout_steps)

        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            obs_tensor = obs_as_tensor(self._last_obs, self.device)
            # The distribution is the policy's only one: not while another thread predicts.
            with tracing:
                actions, values, log_probs = self.policy(obs_tensor)
            # One evaluation for all three; each is then only copied out.
            mx.eval(actions, values, log_probs)
            actions = to_numpy(actions)
            clipped_actions = self._to_env_actions(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            check_integers(new_obs, self.observation_space, "environment")
            self.num_timesteps += env.num_envs

            # Callbacks find SB3's names in these locals.
            callback.update_locals(locals())
            if not callback.on_step():
                return False

            self._update_info_buffer(infos, dones)
            n_steps += 1
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            dead += [(n_steps - 1, i) for i in self._bootstrap_timeouts(rewards, dones, infos)]
            rollout_buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
            self._last_obs = new_obs
            self._last_episode_starts = dones

        rollout_buffer.dead_steps = dead_mask(dead, (n_rollout_steps, env.num_envs))
        values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _to_env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Continuous actions as the environment takes them; the buffer keeps those of the policy."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _bootstrap_timeouts(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> list[int]:
        """
        Where the time limit cut an episode short, the value of its last observation stands for the
        rewards that were not collected (https://arxiv.org/abs/1712.00378).

        :return: the environments whose step only reset
        """
        dead = []
        for i in np.flatnonzero(dones).tolist():
            if "autoreset_step" in infos[i]:
                dead.append(i)
            terminal_obs = infos[i].get("terminal_observation")
            if terminal_obs is not None and infos[i].get("TimeLimit.truncated", False):
                value = self.policy.predict_values(self.policy.obs_to_tensor(terminal_obs)[0])
                rewards[i] += self.gamma * to_numpy(value)[0, 0]
        return dead

    def _native_actor(self, rollout_buffer: RolloutBuffer) -> NativeActor | None:
        """The policy's twin with the present weights; None, and once a line that says why, if it has none."""
        try:
            if type(rollout_buffer) not in (RolloutBuffer, DictRolloutBuffer):
                raise NotMirrored(f"the rollout buffer is a {type(rollout_buffer).__name__}")
            return native_actor(self.policy)
        except NotMirrored as reason:
            if self._why_not_native != str(reason):
                self._why_not_native = str(reason)
                if self.verbose >= 1:
                    print(f"MLX infers each step of the rollouts, because {reason}.")
            return None

    def _collect_natively(
        self,
        actor: NativeActor,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """As :meth:`collect_rollouts`, with actions from the native actor."""
        n_steps = 0
        gathered = _Gathered()
        actor.reseed()
        actor.explore(env.num_envs, self.sde_sample_freq)
        # The fused loop clips actions; it does not stretch squashed ones to the bounds.
        core = None if self.policy.squash_output else stepped_in_rust(env)
        while n_steps < n_rollout_steps:
            if not actor.is_current():
                actor.refresh()
            quiet = min(steps_until_needed(callback), n_rollout_steps - n_steps)
            if core is None:
                steps = self._step(actor, env)
            else:
                steps = self._fused_steps(actor, core, rollout_buffer, n_steps, quiet, callback)
            actions, clipped_actions, new_obs, rewards, dones, infos = steps.last
            self._account(env, callback, steps)
            actor.share_noise()
            before: list[np.ndarray] = []
            if steps.n_steps == quiet:
                obs_tensor = obs_as_tensor(steps.seen[0], self.device)
                # What the buffer gets after the rollout, for those who look at it now.
                estimates = self._estimates(actor, actor.critic(), steps.seen[0], actions)
                values, log_probs = map(to_mlx, estimates)
                before = [*estimates, side_by_side(steps.seen[0], actor.keys).copy(), actions.copy()]

            # Callbacks find SB3's names in these locals.
            callback.update_locals(locals())
            goes_on, seen = self._ask(callback, steps)
            if not goes_on:
                return False

            self._update_info_buffer(infos, dones)
            n_steps += steps.n_steps
            gathered.cuts += steps.cuts
            gathered.add_ends(n_steps - 1, dones, infos)
            if before:
                now = [values, log_probs, side_by_side(seen[0], actor.keys), actions]
                gathered.add_given(n_steps - 1, before, now)
            self._store(rollout_buffer, steps, seen, core is not None)
            self._last_obs = new_obs
            self._last_episode_starts = dones

        rollout_buffer.dead_steps = dead_mask(gathered.dead, (n_rollout_steps, env.num_envs))
        values = self._complete(actor, rollout_buffer, gathered, new_obs)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _ask(self, callback: BaseCallback, steps: _Steps) -> tuple[bool, tuple[Any, Any]]:
        """
        Call the callback, to which the last observation is the one before the step, as in SB3.

        :return: whether to go on; and the observations before the step and whether they begin an episode, as
            the callback leaves them
        """
        after = steps.last[2], steps.last[4]
        self._last_obs, self._last_episode_starts = steps.seen
        try:
            goes_on = callback.on_step()
            seen = self._last_obs, self._last_episode_starts
        finally:
            # Whatever ends the rollout here, the next one goes on where the environments are.
            self._last_obs, self._last_episode_starts = after
        return goes_on, seen

    def _account(self, env: VecEnv, callback: BaseCallback, steps: _Steps) -> None:
        """Count the steps; what ended before the last one is in the statistics when the callback runs."""
        self._update_info_buffer([{"episode": entry} for entry in steps.earlier_episodes])
        self.num_timesteps += env.num_envs * (steps.n_steps - 1)
        if steps.n_steps > 1:
            callback._pass_steps(steps.n_steps - 1)
        self.num_timesteps += env.num_envs

    def _step(self, actor: NativeActor, env: VecEnv) -> _Steps:
        """One step of environments of any kind."""
        assert self._last_obs is not None
        try:
            actions = actor.act(self._last_obs).reshape(-1, *(self.action_space.shape or ()))
        except ValueError as error:
            if np.isfinite(side_by_side(self._last_obs, actor.keys)).all():
                raise
            raise FloatingPointError(
                f"The environments gave an observation that is nan or infinite: {self._last_obs}. Wrap "
                "them in VecCheckNan(env, raise_exception=True) to see at which step."
            ) from error
        clipped_actions = self._to_env_actions(actions)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        # No policy has observations that are tuples.
        assert not isinstance(new_obs, tuple)
        assert self._last_episode_starts is not None
        last = (actions, clipped_actions, new_obs, rewards, dones, infos)
        return _Steps(1, (self._last_obs, self._last_episode_starts), last, [], [])

    def _fused_steps(
        self,
        actor: NativeActor,
        core: Any,
        buffer: RolloutBuffer,
        start: int,
        count: int,
        callback: BaseCallback,
    ) -> _Steps:
        """
        ``count`` steps of native environments, written into the buffer from row ``start`` on.

        :raises BaseException: what a signal's handler has raised; the steps before it are accounted for, and
            the next rollout begins where the environments are
        """
        rows = slice(start, start + count)
        columns: Any = {
            "observations": buffer.observations[rows],
            "actions": buffer.actions[rows],
            "rewards": buffer.rewards[rows],
            "episode_starts": buffer.episode_starts[rows],
        }
        # Copies: what callbacks hold from the last stretch stays as it is.
        obs = np.array(self._last_obs, np.float32)
        starts = np.array(self._last_episode_starts, bool)
        low = high = np.empty(0, np.float32)
        if isinstance(self.action_space, spaces.Box):
            low, high = self.action_space.low, self.action_space.high
        self._last_obs, self._last_episode_starts = obs, starts
        done = actor.collect(
            core, {"low": low, "high": high}, {"obs": obs, "episode_starts": starts}, columns
        )
        if done.error is not None:
            self._update_info_buffer([{"episode": end.monitor_entry} for end in done.episodes])
            self.num_timesteps += buffer.n_envs * done.n_steps
            callback._pass_steps(done.n_steps)
            raise done.error
        newest = start + count - 1
        actions = buffer.actions[newest].reshape(-1, *(self.action_space.shape or ())).copy()
        rewards = buffer.rewards[newest].copy()
        ends = (actions, self._to_env_actions(actions), obs, rewards, starts, done.infos)
        earlier = [end.monitor_entry for end in done.episodes if end.step < count - 1]
        cuts = [
            _Cut(start + end.step, end.env, end.last_obs) for end in done.timeouts if end.step < count - 1
        ]
        seen = buffer.observations[newest].copy(), buffer.episode_starts[newest].astype(bool)
        return _Steps(count, seen, ends, earlier, cuts)

    def _store(self, buffer: RolloutBuffer, steps: _Steps, seen: tuple[Any, Any], fused: bool) -> None:
        """Store the last step as the callback has left it, the observations before it included."""
        actions, _, _, rewards, *_ = steps.last
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.reshape(-1, 1)
        later = np.zeros(1, np.float32)
        if fused:  # the rows are written already
            buffer.pos += steps.n_steps - 1
        buffer.add(seen[0], actions, rewards, seen[1], later, later)

    def _estimates(
        self, actor: NativeActor, critic: NativeActor, observations: Observations, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(batch, 1) values and (batch,) log-probabilities."""
        values = critic.outputs(observations)
        log_probs = actor.log_probs(observations, actions)
        if log_probs is not None:
            return values, log_probs
        # gSDE's likelihood goes by its features, too.
        outputs, features = to_mlx(actor.outputs(observations)), to_mlx(actor.features(observations))
        # Distributions are over vectors, whatever the shape of the action space.
        taken = to_mlx(actions.reshape(len(actions), -1))
        with tracing:
            dist = self.policy.action_dist.proba_distribution(outputs, self.policy.log_std, features)
            log_probs_of_mlx = dist.log_prob(taken)
        return values, to_numpy(log_probs_of_mlx)

    def _complete(
        self, actor: NativeActor, buffer: RolloutBuffer, gathered: _Gathered, new_obs: Observations
    ) -> mx.array:
        """
        Fill in values and log-probabilities, add the value of what came after a time limit to the rewards.

        :param actor: the policy's twin
        :param buffer: the rollout
        :param gathered: the episodes that were cut, and what callbacks have changed
        :param new_obs: (n_envs, ...) observations after the last step
        :return: (n_envs, 1) their values
        """
        observations = side_by_side(buffer.observations, actor.keys, batch_axes=2)
        observations = observations.reshape(-1, observations[0, 0].size)
        actions = buffer.actions.reshape(-1, *(self.action_space.shape or ()))
        critic = actor.critic()
        values, log_probs = self._estimates(actor, critic, observations, actions)
        buffer.values[...] = values.reshape(buffer.values.shape)
        buffer.log_probs[...] = log_probs.reshape(buffer.log_probs.shape)
        for step, given_values, given_log_probs in gathered.given:
            buffer.values[step], buffer.log_probs[step] = given_values, given_log_probs
        if gathered.cuts:
            rows, envs, ends = zip(*gathered.cuts, strict=True)
            rows_at_ends = [side_by_side(end, actor.keys, batch_axes=0).reshape(-1) for end in ends]
            end_values = critic.outputs(np.stack(rows_at_ends))[:, 0]
            buffer.rewards[list(rows), list(envs)] += self.gamma * end_values
        return to_mlx(critic.outputs(new_obs))
