"""What DQN, SAC, TD3 and DDPG share: store what was experienced, then learn from samples of it."""

import io
import math
import pathlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.base_class import BaseAlgorithm as BaseAlgorithm
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.buffers.batches import replay_batches
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.callbacks.base import (
    NEVER,
    has_no_rollout_hooks,
    is_noop,
    released_on_error,
    steps_until_needed,
)
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.native.exploration import (
    ChunkResult,
    CollectorChoice,
    choose_collector,
    ends_by_step,
)
from mlx_baselines3.common.native.interrupts import interrupts_deferred
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.save_util import load_from_pkl as load_from_pkl
from mlx_baselines3.common.save_util import save_to_pkl as save_to_pkl
from mlx_baselines3.common.saving import replay as _replay_file
from mlx_baselines3.common.saving.to_sb3 import export_replay_buffer
from mlx_baselines3.common.training.compiled_update import StepFunction
from mlx_baselines3.common.training.dead_steps import Transition, ended_episodes, without_dead_steps
from mlx_baselines3.common.training.native_learning import NativeLearning
from mlx_baselines3.common.training.native_off_policy import NativeActorCriticUpdate
from mlx_baselines3.common.training.updater import Trained, Updater
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.type_aliases import RolloutReturn as RolloutReturn
from mlx_baselines3.common.utils import check_train_freq, parse_train_freq
from mlx_baselines3.common.utils import safe_mean as safe_mean
from mlx_baselines3.common.utils import should_collect_more_steps as should_collect_more_steps
from mlx_baselines3.common.utils.observations import with_terminal_observations
from mlx_baselines3.common.vec_env import VecEnv as VecEnv
from mlx_baselines3.her.her_replay_buffer import HerReplayBuffer as HerReplayBuffer

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "np")

SelfOffPolicyAlgorithm = TypeVar("SelfOffPolicyAlgorithm", bound="OffPolicyAlgorithm")


class OffPolicyAlgorithm(BaseAlgorithm):
    """
    Base of DQN, SAC, TD3 and DDPG.

    :param policy: name or class of the policy
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param buffer_size: transitions that the replay buffer holds
    :param learning_starts: environment steps before the first update; actions are random until then
    :param batch_size: transitions per gradient step
    :param tau: how far a target network follows at each of its updates; 1 copies
    :param gamma: discount factor
    :param train_freq: steps between two updates, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: gradient steps per update; -1: as many as environment steps were collected
    :param action_noise: noise to add to continuous actions
    :param replay_buffer_class: class of the replay buffer; chosen by the observation space if None
    :param replay_buffer_kwargs: further arguments of it
    :param optimize_memory_usage: keep every observation once instead of twice
    :param n_steps: number of steps of the n-step returns
    :param policy_kwargs: further arguments of the policy
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param support_multi_env: whether the algorithm trains with several environments
    :param monitor_wrapper: wrap a single environment in a Monitor
    :param seed: seed of all random generators
    :param use_sde: state-dependent exploration (gSDE)
    :param sde_sample_freq: number of steps between draws of gSDE's noise matrix; -1: once per rollout
    :param use_sde_at_warmup: explore with gSDE instead of random actions before learning starts
    :param sde_support: whether the policy knows gSDE
    :param supported_action_spaces: action spaces that the algorithm can use
    """

    replay_buffer: Any
    # Of algorithms with an actor and critics.
    actor: Any
    critic: Any
    _gradient_step: StepFunction
    # Who collects, and what takes whole iterations, while `learn` runs.
    _collector_choice: CollectorChoice | None = None
    _learning: NativeLearning | None = None
    # What the buffer got for the last step.
    _last_stored: Transition | None = None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = (1, "step"),
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: mx.Device | str = "auto",
        support_multi_env: bool = False,
        monitor_wrapper: bool = True,
        seed: int | None = None,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        sde_support: bool = True,
        supported_action_spaces: tuple[type[spaces.Space[Any]], ...] | None = None,
    ):
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=support_multi_env,
            monitor_wrapper=monitor_wrapper,
            seed=seed,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            supported_action_spaces=supported_action_spaces,
        )
        self.buffer_size = buffer_size
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.tau = tau
        self.gamma = gamma
        self.gradient_steps = gradient_steps
        self.action_noise = action_noise
        self.optimize_memory_usage = optimize_memory_usage
        self.replay_buffer = None
        self.replay_buffer_class = replay_buffer_class
        self.replay_buffer_kwargs = replay_buffer_kwargs or {}
        self.n_steps = n_steps
        self.train_freq: Any = train_freq
        self.use_sde_at_warmup = use_sde_at_warmup
        if sde_support:
            self.policy_kwargs["use_sde"] = self.use_sde

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "policy" and "_updater" in vars(self):
            # Another policy than the one of `_setup_model`: its networks are trained, too.
            self._create_aliases()

    def _create_aliases(self) -> None:
        """Make the policy's networks attributes of the algorithm; each algorithm has its own."""

    def _convert_train_freq(self) -> None:
        self.train_freq = parse_train_freq(self.train_freq)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._convert_train_freq()
        if self.verbose >= 1 and self.batch_size > self.buffer_size:
            print(
                f"batch_size={self.batch_size} is larger than buffer_size={self.buffer_size}: a batch "
                "holds some transitions several times."
            )
        self._warn_of_ignored_steps()
        if self.replay_buffer_class is None:
            self.replay_buffer_class = self._default_replay_buffer_class()
        if self.replay_buffer is None:
            # Not kept among the kwargs: those are saved with the model, an environment is not.
            env = {"env": self.env} if _relabels_goals(self.replay_buffer_class) else {}
            assert not env or self.env is not None, (
                f"You must pass an environment when using `{self.replay_buffer_class.__name__}`"
            )
            self.replay_buffer = self.replay_buffer_class(
                self.buffer_size,
                self.observation_space,
                self.action_space,
                device=self.device,
                n_envs=self.n_envs,
                optimize_memory_usage=self.optimize_memory_usage,
                **{**self.replay_buffer_kwargs, **env},
            )
        with mx.stream(self.device):
            policy = self.policy_class(
                self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
            )
        self.policy = self._settle_device(policy, self.batch_size)
        self.replay_buffer.device = self.device
        self._updater = Updater()

    def _warn_of_ignored_steps(self) -> None:
        kind, n_steps = self.replay_buffer_class, self.n_steps
        # The class of a loaded model is the one that was chosen for its n_steps.
        if kind is None or n_steps <= 1 or self.replay_buffer_kwargs.get("n_steps") == n_steps:
            return
        warnings.warn(
            f"`n_steps={n_steps}` is ignored because a custom `replay_buffer_class` (`{kind.__name__}`) was "
            "passed: n-step returns are only set up automatically when `replay_buffer_class` is `None`. "
            "To use n-step returns with a custom replay buffer, configure it explicitly, e.g. "
            f'`replay_buffer_kwargs={{"n_steps": {n_steps}, "gamma": {self.gamma}}}`.',
            UserWarning,
            stacklevel=4,
        )

    def _default_replay_buffer_class(self) -> type[ReplayBuffer]:
        if isinstance(self.observation_space, spaces.Dict):
            assert self.n_steps == 1, (
                "N-step returns are not supported for Dict observation spaces yet, "
                f"got n_steps={self.n_steps}."
            )
            return DictReplayBuffer
        if self.n_steps > 1:
            self.replay_buffer_kwargs.update({"n_steps": self.n_steps, "gamma": self.gamma})
            return NStepReplayBuffer
        return ReplayBuffer

    def save_replay_buffer(
        self, path: str | pathlib.Path | io.BufferedIOBase, format: Literal["mlx", "sb3"] = "mlx"
    ) -> None:
        """
        Write the replay buffer to a file, which is replaced as a whole.

        :param path: a file (".pkl" is added if there is no suffix, as in SB3) or an open binary file
        :param format: "mlx", an archive that cannot run code, or "sb3", a pickle that SB3 loads
        :raises ValueError: if the format is unknown, the class of the buffer cannot be found again, or SB3
            has no counterpart of it
        """
        assert self.replay_buffer is not None, "The replay buffer is not defined"
        if format not in ("mlx", "sb3"):
            raise ValueError(f"The format must be 'mlx' or 'sb3', got {format!r}.")
        save = _replay_file.save_replay_buffer if format == "mlx" else export_replay_buffer
        save(self.replay_buffer, path, self.verbose)

    def load_replay_buffer(
        self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True
    ) -> None:
        """
        Use a replay buffer from a file from now on: what :meth:`save_replay_buffer`, SB3 (1.5 to 2.9) or
        version 0.1.0 of this package wrote. Nothing that is in the file is executed.

        :param path: a file or an open binary file
        :param truncate_last_traj: with ``HerReplayBuffer``: take its last episode as ended; False goes on
            with it
        :raises AssertionError: if the file holds something else, or HER's buffer and there is no environment
        :raises ModelFileError: if the file is corrupted, or needs a class that is not imported. The present
            buffer stays
        """
        buffer = _replay_file.load_replay_buffer(path, self.verbose)
        if _relabels_goals(type(buffer)):
            assert self.env is not None, (
                f"You must pass an environment at load time when using `{type(buffer).__name__}`"
            )
            buffer.set_env(self.env)
            if truncate_last_traj:
                buffer.truncate_last_trajectory()
        buffer.device = self.device
        self.replay_buffer = buffer

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        buffer = self.replay_buffer
        started = buffer is not None and (buffer.full or buffer.pos > 0)
        if reset_num_timesteps and started:
            if self.optimize_memory_usage:
                warnings.warn(
                    "The last trajectory in the replay buffer will be truncated, see "
                    "https://github.com/DLR-RM/stable-baselines3/issues/46. "
                    "`reset_num_timesteps=False` or `optimize_memory_usage=False` avoids it.",
                    stacklevel=4,
                )
            buffer._truncate_last()
        assert self.env is not None, "There is no environment to train in: call set_env() first."
        noise, n_envs = self.action_noise, self.env.num_envs
        if noise is not None and n_envs > 1 and not isinstance(noise, VectorizedActionNoise):
            self.action_noise = VectorizedActionNoise(noise, n_envs)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def learn(
        self: SelfOffPolicyAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffPolicyAlgorithm:
        """
        Train. See :meth:`BaseAlgorithm.learn`.

        :param total_timesteps: environment steps of all environments together
        :param callback: called at every step
        :param log_interval: episodes between two log entries
        :param tb_log_name: name of the run for tensorboard
        :param reset_num_timesteps: start counting at zero
        :param progress_bar: show one (needs tqdm and rich)
        :return: self
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        # Collecting alone can be meant, so this is said and not warned of.
        if self.verbose >= 1 and total_timesteps <= self.learning_starts:
            print(
                f"learning_starts={self.learning_starts} is not passed in {total_timesteps} steps: "
                "actions are random and nothing is learned."
            )
        assert self.env is not None
        with released_on_error(callback):
            callback.on_training_start(locals(), globals())
            self._explain_collection()
            self._collector_choice = CollectorChoice()
            self._learning = self._native_learning(log_interval)
            try:
                with ModelCall(self), mx.stream(self.device):
                    while self.num_timesteps < total_timesteps:
                        if not self._collect_and_train(callback, log_interval):
                            break
            finally:
                self._collector_choice = self._learning = None
            callback.on_training_end()
        return self

    def _explain_collection(self) -> None:
        """Say why Rust does not take the steps, where it does not."""
        if self.verbose >= 1:
            assert self.env is not None
            parts = (self.env, self.replay_buffer, self.action_noise, self.learning_starts)
            chosen = choose_collector(self, *parts)
            self._explain_once(chosen if isinstance(chosen, str) else "")

    def _collect_and_train(self, callback: BaseCallback, log_interval: int) -> bool:
        """:return: False if the callback stopped the training"""
        assert self.env is not None
        is_learning = self._iterate_natively(callback)
        if is_learning is False:
            return True
        collected = self.train_freq.frequency * self.env.num_envs
        if is_learning is None:
            rollout = self.collect_rollouts(
                self.env,
                train_freq=self.train_freq,
                action_noise=self.action_noise,
                callback=callback,
                learning_starts=self.learning_starts,
                replay_buffer=self.replay_buffer,
                log_interval=log_interval,
            )
            if not rollout.continue_training:
                return False
            collected = rollout.episode_timesteps
        if self.num_timesteps > max(self.learning_starts, 0):
            count = self.gradient_steps if self.gradient_steps >= 0 else collected
            if count > 0:
                # The weights change, and whatever else a subclass changes with them.
                self._collector_choice = CollectorChoice()
                with self._compile_notice:
                    self.train(batch_size=self.batch_size, gradient_steps=count)
        return True

    def _native_learning(self, log_interval: int | None) -> NativeLearning | None:
        """:return: what takes whole iterations in Rust, if there is such a thing"""
        return None

    def _iterate_natively(self, callback: BaseCallback) -> bool | None:
        """Collect and learn in Rust until Python has something to do; see :meth:`NativeLearning.run`."""
        if self._learning is None or (unseen := self._unseen_steps(callback)) is None:
            return None
        return self._learning.run(unseen, callback._pass_steps)

    # Callbacks get the local variables of the next method: the names that SB3's has too are a contract.

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
        choice = (self._collector_choice if has_no_rollout_hooks(callback) else None) or CollectorChoice()
        parts = (env, replay_buffer, action_noise, learning_starts)
        if choice.collector is None:
            self.policy.set_training_mode(False)
        check_train_freq(env, train_freq)
        check_integers(self._last_obs, self.observation_space, "environment")
        num_collected_steps, num_collected_episodes = 0, 0
        if self.use_sde:
            self.actor.reset_noise(env.num_envs)
        callback.on_rollout_start()
        continue_training = True
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            if self.use_sde and self.sde_sample_freq > 0 and num_collected_steps % self.sde_sample_freq == 0:
                self.actor.reset_noise(env.num_envs)
            chunk = self._native_chunk(choice, parts, callback, train_freq, num_collected_steps)
            if chunk is None:
                actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
                new_obs, rewards, dones, infos = env.step(actions)
                check_integers(new_obs, self.observation_space, "environment")
            else:
                num_collected_episodes += self._pass_steps(chunk, callback, action_noise, log_interval)
                num_collected_steps += chunk.n_steps - 1
                last = chunk.last
                actions, buffer_actions, new_obs = last.actions, last.buffer_actions, last.new_obs
                rewards, dones, infos = last.rewards, last.dones, last.infos
            self.num_timesteps += env.num_envs
            num_collected_steps += 1

            callback.update_locals(locals())
            if not callback.on_step():
                continue_training = False
                break
            self._update_info_buffer(infos, dones)
            if chunk is None:
                self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            ended = ended_episodes(dones, infos)
            num_collected_episodes += self._end_episodes(ended, action_noise, log_interval)
        if continue_training:
            callback.on_rollout_end()
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    def _random_steps(self, count: int, n_envs: int, learning_starts: int) -> list[bool]:
        """
        Decide which steps to come take random actions, as :meth:`_sample_action` would at each.

        :param count: number of steps
        :param n_envs: number of environments
        :param learning_starts: environment steps with random actions
        :return: one flag for each step
        """
        if self.use_sde and self.use_sde_at_warmup:
            return [False] * count
        # A chunk may have millions of steps.
        n_random = max(math.ceil(min((learning_starts - self.num_timesteps) / n_envs, count)), 0)
        return [True] * n_random + [False] * (count - n_random)

    def _native_chunk(
        self,
        choice: CollectorChoice,
        parts: tuple[VecEnv, Any, Any, int],
        callback: BaseCallback,
        train_freq: TrainFreq,
        n_collected: int,
    ) -> ChunkResult | None:
        """Steps in Rust up to the next one that the callback must see, at least one; None if that is next."""
        unseen = NEVER if is_noop(callback) else steps_until_needed(callback) - 1
        if self.use_sde and self.sde_sample_freq > 0:
            # Then other noise is drawn.
            unseen = min(unseen, self.sde_sample_freq - n_collected % self.sde_sample_freq)
        if unseen < 1:
            # It may change whatever it likes.
            choice.forget()
            return None
        collector = choice.get(self, *parts)
        if collector is None:
            return None
        # Buffer, generators and last observations move together.
        with interrupts_deferred():
            if train_freq.unit == TrainFrequencyUnit.STEP:
                count = min(unseen, train_freq.frequency - n_collected)
                chunk = collector.collect_chunk(self._last_obs, count)
            else:
                chunk = collector.collect_chunk(self._last_obs, unseen, until_end=True)
            self._last_obs, self._last_original_obs = chunk.last.new_obs, chunk.seen
        return chunk

    def _pass_steps(
        self,
        chunk: ChunkResult,
        callback: BaseCallback,
        action_noise: ActionNoise | None,
        log_interval: int | None,
    ) -> int:
        """
        Account for the steps of a chunk before its last one, in the order of single steps.

        :param chunk: steps taken in Rust
        :param callback: counts them
        :param action_noise: starts anew where an episode ended
        :param log_interval: episodes between two log entries
        :return: how many episodes ended
        :raises BaseException: what went wrong after the chunk, or a signal's handler raised; all its
            steps are accounted for then
        """
        n_steps = chunk.n_steps - (chunk.error is None)
        n_envs, n_episodes = len(chunk.last.rewards), 0
        ends = {end.step: end for end in ends_by_step(chunk.episodes, n_envs)}
        for step in range(n_steps):
            self.num_timesteps += n_envs
            self._update_info_buffer(ended.infos if (ended := ends.get(step)) else [])
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            if ended is not None:
                n_episodes += self._end_episodes(ended.dones, action_noise, log_interval)
        if n_steps:
            callback._pass_steps(n_steps)
        if chunk.error is not None:
            raise chunk.error
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
        unnormalize = None if normalizer is None else normalizer.unnormalize_obs
        next_obs = with_terminal_observations(original_obs, dones, infos, unnormalize)
        stored = without_dead_steps(
            (self._last_original_obs, buffer_action, reward), self._last_stored, infos
        )
        obs, buffer_action, reward = self._last_stored = stored
        replay_buffer.add(obs, next_obs, buffer_action, reward, dones, infos)
        self._last_obs = new_obs
        if normalizer is not None:
            self._last_original_obs = original_obs

    def _on_step(self) -> None:
        """Called after each step of the environments."""

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
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self._record_progress({"train/std": self.actor.get_std().mean().item()} if self.use_sde else None)
        self.logger.dump(step=self.num_timesteps)

    def _batches(self, gradient_steps: int, batch_size: int) -> Iterator[Arrays]:
        """
        Draw the batches of one update.

        :param gradient_steps: how many
        :param batch_size: transitions in each
        :return: for each gradient step ``observations``, ``actions``, ``next_observations``, ``dones``,
            ``rewards`` and, with n-step returns, ``discounts``; all with a leading axis of ``batch_size``
        """
        return replay_batches(self.replay_buffer, gradient_steps, batch_size, self._vec_normalize_env)

    def _trained(self) -> Trained:
        """:return: what an update reads and changes; here of an actor and critics"""
        networks, targets = self.policy.update_networks()
        optimizers = {"actor": self.actor.optimizer, "critic": self.critic.optimizer}
        return Trained(networks, optimizers, targets)

    def _native_update(self, base: type["OffPolicyAlgorithm"]) -> Any:
        """
        :param base: the algorithm whose gradient step Rust knows
        :return: the gradient steps in Rust, or in one kernel on a GPU; here of an actor and critics
        :raises NotNative: the step, the batches or the networks are not known
        """
        check_unchanged(self, base, ("_gradient_step", "_target", "_batches"))
        parts = (*self._trained()[:2], blueprint(self.policy))
        if self.device.type != mx.gpu:
            return NativeActorCriticUpdate(*parts)
        # What describes the kernel is a tenth of the time that importing the package takes.
        from mlx_baselines3.common.training.program_actor_critic import ProgramActorCriticUpdate

        return ProgramActorCriticUpdate(*parts)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """
        Learn from samples of the replay buffer. Each algorithm has its own.

        :param gradient_steps: how many gradient steps
        :param batch_size: transitions for each
        :raises NotImplementedError: always
        """
        raise NotImplementedError

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_collector_choice", "_last_stored", "_learning"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def _relabels_goals(buffer_class: type[Any]) -> bool:
    """Whether a buffer asks its environment for rewards, as ``HerReplayBuffer`` does."""
    return hasattr(buffer_class, "truncate_last_trajectory")
