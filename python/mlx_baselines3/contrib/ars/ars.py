"""Augmented Random Search."""

import copy
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.callbacks.base import is_noop, steps_until_needed
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.native.candidates import play_candidates
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.running_mean_std import RunningMeanStd
from mlx_baselines3.common.save_util import load_from_zip_file
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import FloatSchedule
from mlx_baselines3.contrib.ars.policies import ARSPolicy, LinearPolicy, MlpPolicy

SelfARS = TypeVar("SelfARS", bound="ARS")


class Evaluator(Protocol):
    """What ARS asks of ``contrib.common.vec_env.AsyncEval``: processes that evaluate candidates."""

    remotes: Any

    def send_jobs(self, candidate_weights: Any, pop_size: int) -> None:
        """Begin to evaluate candidates."""

    def get_results(self) -> Iterable[tuple[int, tuple[Any, Any]]]:
        """:return: number of each candidate, the returns of its episodes and their lengths"""

    def get_obs_rms(self) -> list[RunningMeanStd]:
        """:return: what each process has seen of the observations"""

    def sync_obs_rms(self, obs_rms: RunningMeanStd) -> None:
        """Let all processes normalize alike."""

    def close(self) -> None:
        """End the processes."""


class ARS(BaseAlgorithm):
    """
    Augmented Random Search, https://arxiv.org/abs/1803.07055: tries the policy's weights plus and minus
    random numbers, and moves them towards what gave the larger returns.

    :param policy: "LinearPolicy", "MlpPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param n_delta: perturbations to try in an update, each with both signs
    :param n_top: how many of them the update is made of, those with the largest returns; all by default
    :param learning_rate: step size: a number, or a function of the remaining progress (1 at the start)
    :param delta_std: standard deviation of the perturbations: a number or a function, likewise
    :param zero_policy: begin with weights of 0
    :param alive_bonus_offset: added to the reward of each step; to cancel a bonus for being alive
    :param n_eval_episodes: episodes of each candidate
    :param policy_kwargs: further arguments of the policy
    :param stats_window_size: for compatibility: logs show the episodes of the last update
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param seed: seed of all random generators
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the policy at once
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "LinearPolicy": LinearPolicy,
    }
    policy: ARSPolicy

    def __init__(
        self,
        policy: str | type[ARSPolicy],
        env: GymEnv | str,
        n_delta: int = 8,
        n_top: int | None = None,
        learning_rate: float | Schedule = 0.02,
        delta_std: float | Schedule = 0.05,
        zero_policy: bool = True,
        alive_bonus_offset: float = 0,
        n_eval_episodes: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        verbose: int = 0,
        device: mx.Device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            supported_action_spaces=(spaces.Box, spaces.Discrete),
            support_multi_env=True,
            seed=seed,
        )
        assert n_delta >= 1, f"`n_delta` must be at least 1, got {n_delta}."
        assert n_eval_episodes >= 1, f"`n_eval_episodes` must be at least 1, got {n_eval_episodes}."
        self.n_delta = n_delta
        self.pop_size = 2 * n_delta
        self.delta_std_schedule = FloatSchedule(delta_std)
        self.n_eval_episodes = n_eval_episodes
        n_top = n_delta if n_top is None else n_top
        assert n_top >= 1, f"`n_top` must be at least 1, got {n_top}."
        if n_top > n_delta:
            warnings.warn(f"n_top = {n_top} > n_delta = {n_delta}, setting n_top = n_delta", stacklevel=2)
            n_top = n_delta
        self.n_top = n_top
        self.alive_bonus_offset = alive_bonus_offset
        self.zero_policy = zero_policy
        self.processes = None
        # Observations that all processes together had seen when they were last told of each other's.
        self.old_count: float = 0
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(self.observation_space, self.action_space, **self.policy_kwargs)
        self.policy = self.policy.to(self.device)
        self.n_params = len(self.weights)
        if self.zero_policy:
            self.weights = np.zeros(self.n_params, np.float32)

    @property
    def weights(self) -> np.ndarray:
        """:return: (n_params,) float32 the policy's parameters in one vector"""
        return self.policy.parameters_to_vector()

    @weights.setter
    def weights(self, value: np.ndarray) -> None:
        self.policy.load_from_vector(np.asarray(value, np.float32))

    def _mimic_monitor_wrapper(
        self, episode_rewards: Iterable[float], episode_lengths: Iterable[int]
    ) -> None:
        """Record episodes as Monitor would have."""
        pairs = zip(episode_rewards, episode_lengths, strict=True)
        self._update_info_buffer([{"episode": {"r": reward, "l": length}} for reward, length in pairs])

    def _trigger_callback(
        self, _locals: dict[str, Any], _globals: dict[str, Any], callback: BaseCallback, n_envs: int
    ) -> None:
        """Count a step that an evaluation has taken, and call the callback."""
        self.num_timesteps += n_envs
        callback.on_step()

    def evaluate_candidates(
        self, candidate_weights: np.ndarray, callback: BaseCallback, async_eval: Evaluator | None
    ) -> np.ndarray:
        """
        Play the episodes of all candidates.

        :param candidate_weights: (pop_size, n_params) float32
        :param callback: called for every step; after the evaluation, if processes or Rust take the steps
        :param async_eval: processes to evaluate in, or None
        :return: (pop_size,) float32 the sum of the returns of each candidate
        """
        # The logs show the candidates of one update.
        self.ep_info_buffer = []  # type: ignore[assignment]
        if async_eval is not None:
            results = self._evaluate_in_processes(candidate_weights, callback, async_eval)
        else:
            played = self._evaluate_natively(candidate_weights, callback)
            if played is None:
                played = self._evaluate_one_by_one(candidate_weights, callback)
            results = played
        returns = np.zeros(self.pop_size, np.float32)
        for index, (rewards, lengths) in results:
            returns[index] = sum(rewards) + self.alive_bonus_offset * sum(lengths)
        callback.on_rollout_end()
        return returns

    def _evaluate_one_by_one(self, candidate_weights: np.ndarray, callback: BaseCallback) -> list[Any]:
        assert self.env is not None
        policy, results = copy.deepcopy(self.policy), []
        count_step = partial(self._trigger_callback, callback=callback, n_envs=self.env.num_envs)
        for index, weights in enumerate(candidate_weights):
            policy.load_from_vector(weights)
            episodes: Any = evaluate_policy(
                policy,
                self.env,
                n_eval_episodes=self.n_eval_episodes,
                return_episode_rewards=True,
                callback=count_step,
                warn=False,
            )
            self._mimic_monitor_wrapper(*episodes)
            results.append((index, episodes))
        return results

    def _evaluate_natively(self, candidate_weights: np.ndarray, callback: BaseCallback) -> list[Any] | None:
        """As one by one, but in Rust and all at once; None if Python has to see the steps."""
        assert self.env is not None
        if not is_noop(callback) and steps_until_needed(callback) == 1:
            self._explain_once("Python takes each step, because a callback sees it.")
            return None
        try:
            check_unchanged(self, ARS, ("_trigger_callback", "_evaluate_one_by_one"))
            played = play_candidates(self.policy, self.env, candidate_weights, self.n_eval_episodes)
        except NotNative as reason:
            self._explain_once(f"Python takes each step, because {reason}.")
            return None
        results = []
        for index, episodes in enumerate(played):
            rewards, lengths = [one["r"] for one in episodes], [one["l"] for one in episodes]
            self._mimic_monitor_wrapper(rewards, lengths)
            results.append((index, (rewards, lengths)))
        self._count_steps(sum(sum(lengths) for _, (_, lengths) in results), 1, callback)
        return results

    def _count_steps(self, count: int, n_envs: int, callback: BaseCallback) -> None:
        """Count steps that were taken elsewhere, and call the callback as if they were taken now."""
        if is_noop(callback):
            self.num_timesteps += count * n_envs
            return
        for _ in range(count):
            self.num_timesteps += n_envs
            callback.on_step()

    def _evaluate_in_processes(
        self, candidate_weights: np.ndarray, callback: BaseCallback, async_eval: Evaluator
    ) -> list[Any]:
        async_eval.send_jobs(candidate_weights, self.pop_size)
        results = list(async_eval.get_results())
        for _, (rewards, lengths) in results:
            self._mimic_monitor_wrapper(rewards, lengths)
        if self._vec_normalize_env is not None:
            seen: Any = self._vec_normalize_env.obs_rms
            for of_process in async_eval.get_obs_rms():
                seen.combine(of_process)
                # Each process counts what all had seen before.
                seen.count -= self.old_count
            async_eval.sync_obs_rms(seen.copy())
            self.old_count = seen.count
        n_remotes = len(async_eval.remotes)
        steps = sum(int(np.sum(lengths)) for _, (_, lengths) in results)
        self._count_steps(steps // n_remotes, n_remotes, callback)
        return results

    def dump_logs(self) -> None:
        """Write a log entry."""
        self._record_progress()
        self.logger.dump(step=self.num_timesteps)

    def _deltas(self) -> np.ndarray:
        """:return: (n_delta, n_params) standard normals"""
        return to_numpy(mx.random.normal((self.n_delta, self.n_params)))

    def _do_one_update(self, callback: BaseCallback, async_eval: Evaluator | None) -> None:
        """Try perturbed weights, and move towards those with the larger returns."""
        # Before anything is drawn, so that a run goes on from a checkpoint that is written there.
        callback.on_rollout_start()
        delta_std = self.delta_std_schedule(self._current_progress_remaining)
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        weights, deltas = self.weights, self._deltas()
        moves = deltas * np.float32(delta_std)
        returns = self.evaluate_candidates(
            np.concatenate([weights + moves, weights - moves]), callback, async_eval
        )
        plus, minus = returns[: self.n_delta], returns[self.n_delta :]
        best = np.argsort(-np.maximum(plus, minus), kind="stable")[: self.n_top]
        plus, minus = plus[best], minus[best]
        # Returns that differ much among each other are taken with more care.
        return_std = np.concatenate([plus, minus]).std(ddof=1)
        step_size = np.float32(learning_rate) / (self.n_top * return_std + np.float32(1e-6))
        self.weights = weights + step_size * ((plus - minus) @ deltas[best])
        self.logger.record("train/iterations", self._n_updates, exclude="tensorboard")
        self.logger.record("train/delta_std", delta_std)
        self.logger.record("train/learning_rate", learning_rate)
        self.logger.record("train/step_size", float(step_size))
        self.logger.record("rollout/return_std", float(return_std))
        self._n_updates += 1

    def learn(  # type: ignore[override]
        self: SelfARS,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ARS",
        reset_num_timesteps: bool = True,
        async_eval: Evaluator | None = None,
        progress_bar: bool = False,
    ) -> SelfARS:
        """
        Train. See :meth:`BaseAlgorithm.learn`.

        :param total_timesteps: environment steps, rounded up to whole updates
        :param callback: called at every step
        :param log_interval: updates between two log entries
        :param tb_log_name: name of the run for tensorboard
        :param reset_num_timesteps: start counting at zero
        :param async_eval: processes to evaluate candidates in; they are closed at the end
        :param progress_bar: show one (needs tqdm and rich)
        :return: self
        """
        total_steps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_steps:
            # As in sb3-contrib: by the steps of this call, also where an earlier one is continued. A run that
            # goes on from a checkpoint is the call that wrote it.
            call_steps = self._total_timesteps - self._num_timesteps_at_start
            self._update_current_progress_remaining(self.num_timesteps, call_steps)
            self._do_one_update(callback, async_eval)
            if log_interval is not None and self._n_updates % log_interval == 0:
                self.dump_logs()
        if async_eval is not None:
            async_eval.close()
        callback.on_training_end()
        return self

    def set_parameters(
        self,
        load_path_or_dict: str | Mapping[str, Any],
        exact_match: bool = True,
        device: mx.Device | str = "auto",
    ) -> None:
        """
        Replace the parameters. See :meth:`BaseAlgorithm.set_parameters`.

        :param load_path_or_dict: a file, or object name -> name -> array; also of sb3-contrib before 1.7,
            where the linear layer had another name
        :param exact_match: every array must be given, and nothing else
        :param device: for compatibility
        """
        if isinstance(load_path_or_dict, (str, pathlib.Path)):
            given = load_from_zip_file(load_path_or_dict, device=device)[1]
        else:
            given = dict(load_path_or_dict)
        names = {f"action_net.{key}": f"action_net.0.{key}" for key in ("weight", "bias")}
        if isinstance(given.get("policy"), Mapping):
            given = {**given, "policy": {names.get(k, k): v for k, v in given["policy"].items()}}
        super().set_parameters(given, exact_match=exact_match, device=device)
