"""
``learn()`` of PPO and A2C in Rust: rollouts, advantages and gradient steps, many iterations in one call.

A call ends where Python has something to do: a callback is due, a log entry is written, the training ends,
Ctrl-C. What comes out is what the methods that it takes the place of would have given, bit for bit.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from mlx_baselines3 import _native
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.native.interrupts import interrupts_deferred
from mlx_baselines3.common.native.rollouts import bounds_of, choose_actor
from mlx_baselines3.common.training.native_learning import (
    are_logs_shipped,
    has_constant_rate,
    learning_rate_at,
    own_hook,
)
from mlx_baselines3.common.training.native_on_policy import NativeOnPolicyUpdate, objective_of
from mlx_baselines3.common.utils import ConstantSchedule, FloatSchedule, update_learning_rate
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust

__all__ = ["NativeRolloutLearning"]

# Methods that a call replaces, or calls later than single iterations would.
_HOOKS = (
    "_arrays_of", "_ask", "_bootstrap_timeouts", "_collect_natively", "_epochs", "_gradient_step", "_loss",
    "_native_actor", "_native_update", "_record_fit", "_rollout_arrays", "_settings", "_take_native_steps",
    "_trained", "_update_current_progress_remaining", "_update_info_buffer", "_update_learning_rate",
    "collect_rollouts", "progress_at", "train",
)  # fmt: skip
# The same of the rollout buffer.
_BUFFER_HOOKS = (
    "add", "compute_returns_and_advantage", "flattened", "get", "reset", "shuffled_rows", "swap_and_flatten",
)  # fmt: skip
# A call is to take so many seconds at most, and is to have so many times the iterations of the last one.
_SECONDS, _GROWTH = 1.0, 8
# Settings that are larger are Python's to refuse.
_LARGE = 1 << 31


class _Parts(NamedTuple):
    """What collects and learns while nobody else has the opportunity to change anything."""

    actor: NativeActor
    update: NativeOnPolicyUpdate
    envs: Any
    bounds: "_native.ActionBounds"


class NativeRolloutLearning:
    """
    Iterations of an on-policy algorithm, for one call of ``learn()``: a rollout, then its gradient steps.

    :param model: PPO or A2C
    :param base: the class whose methods Rust knows
    :param callback: that of ``learn()``; no code of a user's runs at the ends of rollouts
    :param log_interval: iterations between two log entries; None logs nothing
    """

    def __init__(self, model: Any, base: type, callback: Any, log_interval: int | None):
        self._model, self._base, self._callback = model, base, callback
        self._log_interval = log_interval
        self._parts: _Parts | None = None
        self._most = 1
        # Rollouts so far, and whether the gradient steps on the last one are still to be made.
        self._iteration = 0
        self._is_collected = False

    def run(self, unseen: int, iteration: int) -> int:
        """
        Take as many iterations as nobody needs to see.

        :param unseen: steps that no callback has to see
        :param iteration: iterations so far
        :return: how many were taken; 0 if the next one is Python's
        :raises BaseException: what went wrong, or a signal's handler raised; everything before it is
            accounted for then
        """
        self._iteration, self._is_collected = iteration, False
        left = unseen // self._model.n_steps
        if left < 1 or not self._is_due():
            return 0
        try:
            while self._is_collected or (left > 0 and self._is_due()):
                rollouts = self._run_once(left)
                if rollouts is None:
                    break
                left -= rollouts
        finally:
            self._store()
        return self._iteration - iteration

    def _is_due(self) -> bool:
        model = self._model
        return bool(model.num_timesteps < model._total_timesteps) and (
            self._log_interval is None or self._log_interval > 0
        )

    def _run_once(self, left: int) -> int | None:
        """:return: rollouts that were collected; None if nothing has happened, or the rest is Python's"""
        # Buffer, generators, networks and counters move together.
        with interrupts_deferred():
            if self._parts is None:
                found = self._find_parts()
                if isinstance(found, str):
                    self._model._explain_iterations(found)
                    return None
                self._parts = found
                # As a rollout begins: a checkpoint may be due, and is taken between these and the first step.
                self._model.policy.set_training_mode(False)
                self._model.rollout_buffer.reset()
                self._callback.on_rollout_start()
            n_updates, is_logged = self._count(left)
            settings, rates = self._settings(n_updates)
            if len(rates) < n_updates:
                # `train` refuses the next rate, in its place.
                n_updates, is_logged = len(rates), False
                if n_updates == 0:
                    self._finish_in_python()
                    return None
            begun = time.perf_counter()
            done, wrong = self._learn(self._parts, settings, rates)
            if done is None:
                self._finish_in_python()
                return None
            seconds = time.perf_counter() - begun
            rollouts = self._account(self._parts, done, settings, rates)
        if done.error is not None:
            raise done.error
        if wrong is not None:
            raise wrong
        if rollouts:
            self._callback.on_rollout_end()
        if is_logged:
            self._write_log()
        elif done.n_updates:
            self._plan_ahead(done.n_updates, seconds)
        return rollouts

    def _finish_in_python(self) -> None:
        """Leave the next rollout to Python, and make the gradient steps on the last one there."""
        self._store()
        if self._is_collected:
            self._is_collected = False
            self._model.train()

    def _count(self, left: int) -> tuple[int, bool]:
        """:return: updates to ask for, and whether there is one rollout instead, for a log entry"""
        model = self._model
        missing = model._total_timesteps - model.num_timesteps
        left = min(left, max(-(-missing // (model.n_steps * model.n_envs)), 0))
        if self._log_interval is not None:
            left = min(left, self._log_interval - 1 - self._iteration % self._log_interval)
        tells_each = model.verbose >= 1 and getattr(model, "target_kl", None) is not None
        count = min(left + self._is_collected, 1 if tells_each else self._most)
        return (count, False) if count else (0, True)

    def _plan_ahead(self, n_updates: int, seconds: float) -> None:
        """Choose how many iterations to ask for the next time."""
        in_time = _SECONDS / (seconds / n_updates)
        self._most = int(max(min(_GROWTH * n_updates, in_time), 1, min(self._most, in_time)))

    def _store(self) -> None:
        """Let others see, and perhaps change, what there is."""
        if self._parts is not None:
            with interrupts_deferred():
                parts, self._parts = self._parts, None
                parts.update.store()

    def _find_parts(self) -> _Parts | str:
        """What collects and learns; or why there is no such thing, which may need no message."""
        model, buffer = self._model, self._model.rollout_buffer
        envs = stepped_in_rust(model.env)
        # Whoever collects or learns says why Rust does not.
        if envs is None or model.policy.squash_output:
            return ""
        actor = choose_actor(model.policy, buffer)
        if isinstance(actor, str):
            return ""
        if why := self._why_own() or self._why_unfit():
            return why
        update = self._find_update()
        if type(update) is not NativeOnPolicyUpdate:
            return ""
        if update.has_extractor:
            return "the policy has a features extractor with layers"
        if model.policy.use_sde:
            return "the policy explores with gSDE"
        update.load()
        return _Parts(actor, update, envs, bounds_of(buffer.action_space))

    def _why_own(self) -> str:
        model = self._model
        if name := own_hook(model, _HOOKS):
            return f"{type(model).__name__} has its own {name}"
        if name := own_hook(model.rollout_buffer, _BUFFER_HOOKS):
            return f"the rollout buffer has its own {name}"
        if name := own_hook(model.logger, ("record",)):
            return f"the logger has its own {name}"
        if name := own_hook(model.policy, ("set_training_mode",)):
            return f"the policy has its own {name}"
        return ""

    def _why_unfit(self) -> str:
        model, buffer = self._model, self._model.rollout_buffer
        shape = (buffer.buffer_size, buffer.n_envs)
        if shape != (model.n_steps, model.env.num_envs):
            return f"the rollout buffer was made for {shape[0]} steps of {shape[1]} environments"
        sizes = [getattr(model, name, 1) for name in ("batch_size", "n_epochs")]
        if not all(type(size) is int and 0 < size < _LARGE for size in sizes):
            return f"batch_size and n_epochs are {sizes}"
        return ""

    def _find_update(self) -> Any:
        """What takes the gradient steps in Rust, or None."""
        model = self._model
        try:
            model.policy.settle_optimizers()
        except RuntimeError:
            # Nothing to train. `train` says so, after the rollout.
            return None
        return model._updater.find_native(model, self._base)

    def _settings(self, count: int) -> tuple[list[dict[str, float]], list[float]]:
        """Settings and learning rates of the next updates, up to one whose rate `train` refuses."""
        model = self._model
        each = model.n_steps * model.n_envs
        first = model.num_timesteps + (0 if self._is_collected else each)
        clips = (getattr(model, name, None) for name in ("clip_range", "clip_range_vf"))
        is_constant = has_constant_rate(model) and all(
            clip is None or (type(clip) is FloatSchedule and type(clip.value_schedule) is ConstantSchedule)
            for clip in clips
        )
        settings: list[dict[str, float]] = []
        rates: list[float] = []
        for i in range(min(count, 1) if is_constant else count):
            progress = model.progress_at(first + i * each)
            try:
                rates.append(learning_rate_at(model, progress))
            except ValueError:
                break
            settings.append(model._settings(progress))
        return (settings * count, rates * count) if is_constant else (settings, rates)

    def _learn(
        self, parts: _Parts, settings: list[dict[str, float]], rates: list[float]
    ) -> "tuple[_native.LearnedRollouts | None, FloatingPointError | None]":
        model, buffer = self._model, self._model.rollout_buffer
        current: _native.CurrentObs = {
            # Copies, which follow the environments.
            "obs": np.array(model._last_obs, np.float32),
            "episode_starts": np.array(model._last_episode_starts, bool),
        }
        plan = self._plan(parts, settings, rates)
        columns: _native.RolloutBufferColumns = {
            "observations": buffer.observations,
            "actions": buffer.actions,
            "rewards": buffer.rewards,
            "episode_starts": buffer.episode_starts,
            "values": buffer.values,
            "log_probs": buffer.log_probs,
            "advantages": buffer.advantages,
            "returns": buffer.returns,
        }
        try:
            return parts.update.iterate(parts.actor, parts.envs, current, plan, columns)
        finally:
            model._last_obs, model._last_episode_starts = current["obs"], current["episode_starts"]

    def _plan(
        self, parts: _Parts, settings: list[dict[str, float]], rates: list[float]
    ) -> "_native.OnPolicyPlan":
        model = self._model
        objective = settings[0] if settings else model._settings(model._current_progress_remaining)

        def each(name: str) -> np.ndarray | None:
            return np.array([of[name] for of in settings], np.float32) if name in objective else None

        return {
            "bounds": parts.bounds,
            "gamma": model.gamma,
            "advantage": (model.rollout_buffer.gamma, model.rollout_buffer.gae_lambda),
            "epochs": getattr(model, "n_epochs", 1),
            "batch_size": getattr(model, "batch_size", None),
            "settings": objective_of(objective, model.normalize_advantage),
            "learning_rates": np.array(rates, np.float32),
            "clip_ranges": each("clip_range"),
            "clip_ranges_vf": each("clip_range_vf"),
            "key": 0,
            "key_step": 0,
            "is_collected": self._is_collected,
        }

    def _account(
        self,
        parts: _Parts,
        done: "_native.LearnedRollouts",
        settings: list[dict[str, float]],
        rates: list[float],
    ) -> int:
        """
        Account for what was done.

        :return: rollouts that were completed
        """
        model, buffer, callback = self._model, self._model.rollout_buffer, self._callback
        rollouts = done.n_steps // model.n_steps
        model._update_info_buffer([{"episode": end.monitor_entry} for end in done.episodes])
        whole = rollouts * model.n_steps * model.n_envs
        if rollouts:
            progress = model.num_timesteps + whole, model._total_timesteps
            model._update_current_progress_remaining(*progress)
        model.num_timesteps += done.n_steps * model.n_envs
        if done.n_steps:
            callback._pass_steps(done.n_steps)
        self._iteration += rollouts
        if done.n_rollouts:
            # One that was begun and not completed is not there.
            buffer.full = rollouts == done.n_rollouts
            buffer.pos = buffer.buffer_size if buffer.full else 0
        if done.n_updates:
            self._record_update(parts, done, settings[done.n_updates - 1], rates[done.n_updates - 1])
        self._is_collected = rollouts + self._is_collected > done.n_updates
        # `train` is what was begun last, or would have been next.
        fails = self._is_collected and bool(rates) and done.n_rollouts == rollouts
        if fails:
            self._record_rate(rates[done.n_updates])
        model.policy.set_training_mode(fails or (not self._is_collected and done.n_rollouts == rollouts))
        return rollouts

    def _record_update(
        self, parts: _Parts, done: "_native.LearnedRollouts", settings: dict[str, float], rate: float
    ) -> None:
        model = self._model
        self._record_rate(rate)
        if hasattr(model.policy, "log_std"):
            parts.update.show("log_std")
        model._n_updates += done.n_epochs
        model._log_update(parts.update.epochs_of(done, settings), settings)

    def _record_rate(self, rate: float) -> None:
        self._model.logger.record("train/learning_rate", rate)
        update_learning_rate(self._model.policy.optimizer, rate)

    def _write_log(self) -> None:
        """Write the log entry of the rollout that was just collected."""
        if are_logs_shipped(self._model):
            self._model.dump_logs(self._iteration)
            return
        # Code of a user's sees the model, and may change it.
        self._store()
        self._model.dump_logs(self._iteration)
        self._finish_in_python()
