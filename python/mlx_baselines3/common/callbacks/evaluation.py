"""Evaluation during training, and callbacks that use its results; import from ``common.callbacks``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from mlx_baselines3._atomic import atomic_open
from mlx_baselines3.common.callbacks.base import NEVER, BaseCallback, EventCallback
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.training.env_setup import measured
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    NativeVecEnv,
    VecEnv,
    is_vector_env,
    sync_envs_normalization,
)


def _are_alike(training_env: VecEnv, eval_env: VecEnv) -> bool:
    """
    :return: whether the environments are of the same type; a NativeVecEnv, created from an id string, counts
        as SB3's DummyVecEnv
    """
    plain = (DummyVecEnv, NativeVecEnv)
    if isinstance(eval_env, plain) and isinstance(training_env, plain):
        return True
    return isinstance(training_env, type(eval_env))


def _table(rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """
    :return: the rows as one array; short rows are padded with NaN
    """
    width = max(map(len, rows))
    if all(len(row) == width for row in rows):
        return np.array(rows)
    table = np.full((len(rows), width), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


class EvalCallback(EventCallback):
    """
    Evaluates the model every ``eval_freq`` calls, logs the result and saves the best model.

    .. warning::

      One call is ``n_envs`` environment steps: to count steps,
      use ``eval_freq = max(eval_freq // n_envs, 1)``.

    :param eval_env: the evaluation environment; Gymnasium's vector environments and EnvPools get a
        ``VecMonitor``
    :param callback_on_new_best: triggered when the mean return is the best so far
    :param callback_after_eval: triggered after every evaluation
    :param n_eval_episodes: episodes per evaluation
    :param eval_freq: calls between two evaluations; 0 for never
    :param log_path: folder for ``evaluations.npz`` with ``timesteps``, ``results`` and ``ep_lengths``
        (and ``successes`` if the environment reports them), one row per evaluation
    :param best_model_save_path: folder for ``best_model.zip``
    :param deterministic: take the most likely actions
    :param render: render the evaluation
    :param verbose: 0 is silent, 1 prints results
    :param warn: warn if ``eval_env`` has no Monitor
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        deterministic: bool = True,
        render: bool = False,
        verbose: int = 1,
        warn: bool = True,
    ) -> None:
        super().__init__(callback_after_eval, verbose=verbose)
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.n_eval_episodes = n_eval_episodes
        self.eval_freq = eval_freq
        self.best_mean_reward = -np.inf
        self.last_mean_reward = -np.inf
        self.deterministic = deterministic
        self.render = render
        self.warn = warn
        if is_vector_env(eval_env):
            eval_env = measured(eval_env)
        self.eval_env = eval_env if isinstance(eval_env, VecEnv) else DummyVecEnv([lambda: eval_env])
        self.best_model_save_path = best_model_save_path
        self.log_path = None if log_path is None else os.path.join(log_path, "evaluations")
        self.evaluations_results: list[list[float]] = []
        self.evaluations_timesteps: list[int] = []
        self.evaluations_length: list[list[int]] = []
        self.evaluations_successes: list[list[bool]] = []
        self._is_success_buffer: list[bool] = []

    def _init_callback(self) -> None:
        if not _are_alike(self.training_env, self.eval_env):
            warnings.warn(
                f"Training and eval env are not of the same type: {self.training_env} != {self.eval_env}",
                stacklevel=3,
            )
        if self.best_model_save_path is not None:
            os.makedirs(self.best_model_save_path, exist_ok=True)
        if self.log_path is not None:
            os.makedirs(os.path.dirname(self.log_path), exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """
        Record the success of an episode, if the environment reports it (``info["is_success"]``).

        :param locals_: local variables of the evaluation
        :param globals_: its global variables
        """
        if locals_["done"]:
            is_success = locals_["info"].get("is_success")
            if is_success is not None:
                self._is_success_buffer.append(is_success)

    def _sync_normalization(self) -> None:
        if self.model.get_vec_normalize_env() is None:
            return
        try:
            sync_envs_normalization(self.training_env, self.eval_env)
        except AttributeError as error:
            raise AssertionError(
                "Training and eval env are not wrapped the same way: the training env has a VecNormalize, "
                f"the eval env is {self.eval_env}. Wrap both with the same wrappers in the same order, "
                "see also the warning above."
            ) from error

    def _save_log(self, episode_rewards: list[float], episode_lengths: list[int]) -> None:
        if self.log_path is None:
            return
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(episode_rewards)
        self.evaluations_length.append(episode_lengths)
        successes = {}
        if self._is_success_buffer:
            self.evaluations_successes.append(self._is_success_buffer)
            successes["successes"] = _table(self.evaluations_successes)
        path = self.log_path if self.log_path.endswith(".npz") else f"{self.log_path}.npz"
        # All evaluations are in one file, which must not be lost if this process is killed while writing.
        with atomic_open(path) as stream:
            np.savez(
                stream,
                timesteps=self.evaluations_timesteps,
                results=_table(self.evaluations_results),
                ep_lengths=_table(self.evaluations_length),
                **successes,  # type: ignore[arg-type]
            )

    def _report(self, episode_rewards: list[float], episode_lengths: list[int]) -> None:
        mean_reward, mean_length = np.mean(episode_rewards), np.mean(episode_lengths)
        if self.verbose >= 1:
            print(
                f"Eval num_timesteps={self.num_timesteps}, "
                f"episode_reward={mean_reward:.2f} +/- {np.std(episode_rewards):.2f}"
            )
            print(f"Episode length: {mean_length:.2f} +/- {np.std(episode_lengths):.2f}")
        self.logger.record("eval/mean_reward", float(mean_reward))
        self.logger.record("eval/mean_ep_length", float(mean_length))
        if self._is_success_buffer:
            success_rate = float(np.mean(self._is_success_buffer))
            if self.verbose >= 1:
                print(f"Success rate: {100 * success_rate:.2f}%")
            self.logger.record("eval/success_rate", success_rate)
        # Written now, otherwise the row would have the step at the end of the next rollout.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _on_new_best(self) -> bool:
        if self.verbose >= 1:
            print("New best mean reward!")
        if self.best_model_save_path is not None:
            self.model.save(os.path.join(self.best_model_save_path, "best_model"))
        self.best_mean_reward = self.last_mean_reward
        return True if self.callback_on_new_best is None else self.callback_on_new_best.on_step()

    def _steps_until_needed(self) -> int:
        return NEVER if self.eval_freq <= 0 else self.eval_freq - self.n_calls % self.eval_freq

    def _evaluate(self, **options: Any) -> Any:
        """:return: the returns and the lengths of some episodes"""
        return evaluate_policy(self.model, self.eval_env, **options)

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return True
        self._sync_normalization()
        self._is_success_buffer = []
        episode_rewards: Any
        episode_lengths: Any
        episode_rewards, episode_lengths = self._evaluate(
            n_eval_episodes=self.n_eval_episodes,
            render=self.render,
            deterministic=self.deterministic,
            return_episode_rewards=True,
            warn=self.warn,
            callback=self._log_success_callback,
        )
        self._save_log(episode_rewards, episode_lengths)
        self._report(episode_rewards, episode_lengths)
        self.last_mean_reward = float(np.mean(episode_rewards))
        continue_training = True
        if self.last_mean_reward > self.best_mean_reward:
            continue_training = self._on_new_best()
        if self.callback is not None:
            continue_training = continue_training and self._on_event()
        return continue_training

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        super().update_child_locals(locals_)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.update_locals(locals_)


class StopTrainingOnRewardThreshold(BaseCallback):
    """
    Stops the training once the best mean return reaches a threshold. A child of :class:`EvalCallback`.

    :param reward_threshold: the threshold
    :param verbose: 0 is silent, 1 reports when training is stopped
    """

    parent: EvalCallback

    def __init__(self, reward_threshold: float, verbose: int = 0) -> None:
        super().__init__(verbose=verbose)
        self.reward_threshold = reward_threshold

    def _on_step(self) -> bool:
        assert self.parent is not None, (
            "``StopTrainingOnRewardThreshold`` callback must be used with an ``EvalCallback``"
        )
        best = self.parent.best_mean_reward
        continue_training = bool(best < self.reward_threshold)
        if self.verbose >= 1 and not continue_training:
            print(
                f"Stopping training because the mean reward {best:.2f} "
                f"is above the threshold {self.reward_threshold}"
            )
        return continue_training


class StopTrainingOnNoModelImprovement(BaseCallback):
    """
    Stops the training after several consecutive evaluations without a new best model. A child of
    :class:`EvalCallback`, passed as its ``callback_after_eval``.

    :param max_no_improvement_evals: allowed number of consecutive evaluations without a new best model
    :param min_evals: evaluations before counting starts
    :param verbose: 0 is silent, 1 reports when training is stopped
    """

    parent: EvalCallback

    def __init__(self, max_no_improvement_evals: int, min_evals: int = 0, verbose: int = 0) -> None:
        super().__init__(verbose=verbose)
        self.max_no_improvement_evals = max_no_improvement_evals
        self.min_evals = min_evals
        self.last_best_mean_reward = -np.inf
        self.no_improvement_evals = 0

    def _on_step(self) -> bool:
        assert self.parent is not None, (
            "``StopTrainingOnNoModelImprovement`` callback must be used with an ``EvalCallback``"
        )
        best = self.parent.best_mean_reward
        continue_training = True
        if self.n_calls > self.min_evals:
            self.no_improvement_evals = (
                0 if best > self.last_best_mean_reward else self.no_improvement_evals + 1
            )
            continue_training = self.no_improvement_evals <= self.max_no_improvement_evals
        self.last_best_mean_reward = best
        if self.verbose >= 1 and not continue_training:
            print(
                "Stopping training because there was no new best model "
                f"in the last {self.no_improvement_evals:d} evaluations"
            )
        return continue_training
