"""How off-policy algorithms collect experience. Reached through ``off_policy_algorithm``.

Where the policy has a twin in Rust, the twin acts. Native environments are then stepped in stretches, up to
the next step that the callback has to see; that one, and any other policy's, is a step in Python.
"""

import operator
import sys
import time
from functools import cache, partial
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.callbacks import BaseCallback, CallbackList
from mlx_baselines3.common.callbacks.base import NEVER, ConvertCallback, steps_until_needed
from mlx_baselines3.common.native.actor import native_actor_or_none
from mlx_baselines3.common.native.exploration import CollectedTransitions, Explorer, fills, noise_ahead
from mlx_baselines3.common.native.interrupts import interrupts_deferred
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.noise import ActionNoise
from mlx_baselines3.common.training.dead_steps import Transition, ended_episodes, without_dead_steps
from mlx_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.utils import safe_mean, should_collect_more_steps
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust

Observations = np.ndarray | dict[str, np.ndarray]

# Methods that a stretch in Rust stands in for, or calls later than single steps would.
_STOOD_IN_FOR = (
    "_on_step", "_random_steps", "_sample_action", "_store_transition", "_update_info_buffer",
    "_with_terminal_observations", "predict",
)  # fmt: skip


class _Session:
    """What takes steps in Rust, for as long as nothing that it was made from can have changed."""

    def __init__(self) -> None:
        self.parts: tuple[Any, ...] = ()
        self.explorer: Explorer | None = None

    def is_for(self, parts: tuple[Any, ...]) -> bool:
        return len(parts) == len(self.parts) and all(map(operator.is_, parts, self.parts))


class OffPolicyCollection(BaseAlgorithm):
    """The part of :class:`OffPolicyAlgorithm` that acts, stores and reports; it has no own arguments."""

    actor: Any
    use_sde_at_warmup: bool
    _session: _Session | None = None
    _stored_last: Transition | None = None

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        Step the environments and store every transition.

        :param env: the training environments
        :param callback: called at every step, and at both ends of the rollout
        :param train_freq: how much to collect
        :param replay_buffer: where to store it
        :param action_noise: noise to add to continuous actions
        :param learning_starts: environment steps with random actions at the start of the training
        :param log_interval: episodes between two log entries; None logs nothing
        :return: environment steps and episodes collected, and whether to go on
        :raises AssertionError: if nothing is to be collected, or several environments are to be stepped for
            a number of episodes
        """
        session = (self._session if _lets_alone(callback) else None) or _Session()
        parts = (env, replay_buffer, action_noise, learning_starts)
        if session.explorer is None:
            self.policy.set_training_mode(False)
        _check_train_freq(env, train_freq)
        check_integers(self._last_obs, self.observation_space, "environment")
        num_collected_steps, num_collected_episodes = 0, 0
        if self.use_sde:
            self.actor.reset_noise(env.num_envs)
        callback.on_rollout_start()
        continue_training = True
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            if self.use_sde and self.sde_sample_freq > 0 and num_collected_steps % self.sde_sample_freq == 0:
                self.actor.reset_noise(env.num_envs)
            stretch = self._stretch(session, parts, callback, train_freq, num_collected_steps)
            if stretch is None:
                actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
                new_obs, rewards, dones, infos = env.step(actions)
                check_integers(new_obs, self.observation_space, "environment")
            else:
                num_collected_episodes += self._pass_steps(stretch, callback, action_noise, log_interval)
                num_collected_steps += stretch.n_steps - 1
                last = stretch.last
                actions, buffer_actions, new_obs = last.actions, last.buffer_actions, last.new_obs
                rewards, dones, infos = last.rewards, last.dones, last.infos
            self.num_timesteps += env.num_envs
            num_collected_steps += 1

            # Callbacks find SB3's names in these locals.
            callback.update_locals(locals())
            if not callback.on_step():
                continue_training = False
                break
            self._update_info_buffer(infos, dones)
            if stretch is None:
                self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            ended = ended_episodes(dones, infos)
            num_collected_episodes += self._end_episodes(ended, action_noise, log_interval)
        if continue_training:
            callback.on_rollout_end()
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    def _explorer(self, session: _Session, parts: tuple[VecEnv, Any, Any, int]) -> Explorer | None:
        """What takes the steps in Rust; None where Python has to see each of them."""
        env, buffer, noise, learning_starts = parts
        core = stepped_in_rust(env)
        # gSDE's noise lives in the policy's MLX arrays, which Rust does not see.
        if core is None or self.use_sde or not _collects_as_here(type(self)):
            return None
        if any(name in vars(self) for name in _STOOD_IN_FOR):
            return None
        if not session.is_for((*parts, core, self.policy)):
            session.parts, session.explorer = (*parts, core, self.policy), None
            squashed = self.policy.squash_output or not isinstance(self.action_space, spaces.Box)
            twin = native_actor_or_none(self.policy)
            if (
                twin is not None
                and squashed
                and noise_ahead(noise) is not None
                and fills(buffer, self.action_space)
            ):
                random = partial(self._random_steps, n_envs=env.num_envs, learning_starts=learning_starts)
                session.explorer = Explorer(twin, core, buffer, self.action_space, random, noise)
        return session.explorer

    def _random_steps(self, count: int, n_envs: int, learning_starts: int) -> list[bool]:
        """
        Decide which steps to come take random actions, as :meth:`_sample_action` would at each.

        :param count: number of steps
        :param n_envs: number of environments
        :param learning_starts: environment steps with random actions
        :return: one flag for each step
        """
        return [self.num_timesteps + i * n_envs < learning_starts for i in range(count)]

    def _stretch(
        self,
        session: _Session,
        parts: tuple[VecEnv, Any, Any, int],
        callback: BaseCallback,
        train_freq: TrainFreq,
        n_collected: int,
    ) -> CollectedTransitions | None:
        """Steps in Rust up to the next one that the callback must see, at least one; None if that is next."""
        quiet = NEVER if _is_nobody(callback) else steps_until_needed(callback) - 1
        if quiet < 1:
            # It may change whatever it likes.
            session.parts = ()
            return None
        explorer = self._explorer(session, parts)
        if explorer is None:
            return None
        before = self._last_obs
        # Buffer, generators and last observations move together.
        with interrupts_deferred():
            if train_freq.unit == TrainFrequencyUnit.STEP:
                stretch = explorer.explore(before, min(quiet, train_freq.frequency - n_collected))
            else:
                stretch = explorer.explore(before, quiet, until_end=True)
            buffer = explorer.buffer
            self._last_obs = self._last_original_obs = stretch.last.new_obs
            if stretch.n_steps == 1:
                self._last_original_obs = before
            elif stretch.n_steps > 1:
                self._last_original_obs = buffer.observations[(buffer.pos - 1) % buffer.buffer_size].copy()
        return stretch

    def _pass_steps(
        self,
        stretch: CollectedTransitions,
        callback: BaseCallback,
        action_noise: ActionNoise | None,
        log_interval: int | None,
    ) -> int:
        """
        Account for the steps of a stretch before its last one, in the order of single steps.

        :param stretch: the stretch
        :param callback: counts them
        :param action_noise: starts anew where an episode ended
        :param log_interval: episodes between two log entries
        :return: how many episodes ended
        :raises BaseException: what went wrong after the stretch, or a signal's handler raised; all its
            steps are accounted for then
        """
        n_steps = stretch.n_steps - (stretch.error is None)
        n_envs, n_episodes = len(stretch.last.rewards), 0
        entries: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for end in stretch.episodes:
            entries.setdefault(end.step, []).append((end.env, end.monitor_entry))
        for step in range(n_steps):
            self.num_timesteps += n_envs
            ended = entries.get(step, [])
            self._update_info_buffer([{"episode": entry} for _, entry in ended])
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            if ended:
                dones = np.zeros(n_envs, bool)
                dones[[env for env, _ in ended]] = True
                n_episodes += self._end_episodes(dones, action_noise, log_interval)
        if n_steps:
            callback._pass_steps(n_steps)
        if stretch.error is not None:
            raise stretch.error
        return n_episodes

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions to explore with: random ones before learning starts, then the policy's with noise.

        :param learning_starts: environment steps with random actions
        :param action_noise: noise to add to continuous actions, in units of actions scaled to [-1, 1]
        :param n_envs: number of environments
        :return: (n_envs, ...) actions for the environments, and the same as the replay buffer stores them:
            continuous ones scaled to [-1, 1]
        """
        if self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup):
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            assert self._last_obs is not None, "No previous observation was provided"
            actions, _ = self.predict(self._last_obs, deterministic=False)
        if not isinstance(self.action_space, spaces.Box):
            return actions, actions
        scaled = self.policy.scale_action(actions)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store what a step gave, observations and rewards as they were before VecNormalize.

        :param replay_buffer: where to store it
        :param buffer_action: (n_envs, ...) actions, continuous ones scaled to [-1, 1]
        :param new_obs: (n_envs, ...) observations; the first of a new episode where ``dones``
        :param reward: (n_envs,)
        :param dones: (n_envs,) which episodes ended
        :param infos: one per environment, with the last observation of an episode that ended
        """
        normalizer = self._vec_normalize_env
        original_obs = new_obs
        if normalizer is None:
            self._last_original_obs = self._last_obs
        else:
            original_obs, reward = normalizer.get_original_obs(), normalizer.get_original_reward()
        next_obs = self._with_terminal_observations(original_obs, dones, infos)
        stored = without_dead_steps(
            (self._last_original_obs, buffer_action, reward), self._stored_last, infos
        )
        obs, buffer_action, reward = self._stored_last = stored
        replay_buffer.add(obs, next_obs, buffer_action, reward, dones, infos)
        self._last_obs = new_obs
        if normalizer is not None:
            self._last_original_obs = original_obs

    def _with_terminal_observations(
        self, obs: Observations, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> Observations:
        """The environments have reset themselves: what followed the last action is in the infos."""
        ended = [i for i in np.flatnonzero(dones) if infos[i].get("terminal_observation") is not None]
        if not ended:
            return obs
        # `obs` is the next step's starting point, so the change goes into a copy.
        obs = {key: part.copy() for key, part in obs.items()} if isinstance(obs, dict) else obs.copy()
        for i in ended:
            terminal = infos[i]["terminal_observation"]
            if self._vec_normalize_env is not None:
                terminal = self._vec_normalize_env.unnormalize_obs(terminal)
            if isinstance(obs, dict):
                for key, part in obs.items():
                    part[i] = terminal[key]
            else:
                obs[i] = terminal
        return obs

    def _on_step(self) -> None:
        """Called after each step of the environments; DQN counts here."""

    def _end_episodes(
        self, dones: np.ndarray, action_noise: ActionNoise | None, log_interval: int | None
    ) -> int:
        """
        :param dones: (n_envs,) which episodes ended
        :param action_noise: starts anew where they did
        :param log_interval: episodes between two log entries
        :return: how many ended
        """
        ended = np.asarray(dones).nonzero()[0]
        for i in ended:
            self._episode_num += 1
            if action_noise is not None:
                # A single environment's noise has no index to be reset by.
                action_noise.reset(**({"indices": [i]} if len(dones) > 1 else {}))
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return len(ended)

    def dump_logs(self) -> None:
        """Write one log entry."""
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        fps = int((self.num_timesteps - self._num_timesteps_at_start) / elapsed)
        record = self.logger.record
        record("time/episodes", self._episode_num, exclude="tensorboard")
        if len(self.ep_info_buffer) > 0 and len(self.ep_info_buffer[0]) > 0:
            record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        record("time/fps", fps)
        record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if self.use_sde:
            record("train/std", self.actor.get_std().mean().item())
        if len(self.ep_success_buffer) > 0:
            record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.dump(step=self.num_timesteps)


def _check_train_freq(env: VecEnv, train_freq: TrainFreq) -> None:
    assert isinstance(env, VecEnv), f"You must pass a VecEnv, got {type(env).__name__}"
    assert train_freq.frequency > 0, (
        f"Should at least collect one step or episode, got train_freq={train_freq.frequency}."
    )
    assert env.num_envs == 1 or train_freq.unit == TrainFrequencyUnit.STEP, (
        f"You must use only one env when doing episodic training, got {env.num_envs}."
    )


@cache
def _collects_as_here(kind: type[Any]) -> bool:
    """Whether no subclass collects in a way of its own."""
    return all(map(_is_ours, (getattr(kind, name) for name in _STOOD_IN_FOR)))


def _is_ours(method: Any) -> bool:
    return str(method.__module__).startswith("mlx_baselines3.")


def _lets_alone(callback: BaseCallback) -> bool:
    """Whether no code of a user runs at either end of a rollout, where it could change the policy."""
    if type(callback) is CallbackList:
        return all(map(_lets_alone, callback.callbacks))
    return _is_ours(callback._on_rollout_start) and _is_ours(callback._on_rollout_end)


def _is_nobody(callback: BaseCallback) -> bool:
    """Whether this is what ``learn`` makes of no callback at all."""
    return type(callback) is ConvertCallback and callback.callback is None
