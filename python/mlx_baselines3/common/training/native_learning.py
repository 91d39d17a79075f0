"""
``learn()`` of off-policy algorithms in Rust: collecting and gradient steps in turn, many in one call.

An iteration is what ``learn()`` repeats: ``train_freq`` steps, then ``gradient_steps``. A call ends where
Python has something to do: a callback is due, a log entry is written, the training ends, Ctrl-C. What comes
out is what the methods that it takes the place of would have given, bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common._types import TrainFrequencyUnit
from mlx_baselines3.common.buffers import NStepReplayBuffer
from mlx_baselines3.common.native.eligibility import is_shipped
from mlx_baselines3.common.native.exploration import NativeCollector, choose_collector, ends_by_step
from mlx_baselines3.common.native.interrupts import interrupts_deferred
from mlx_baselines3.common.nn.optimizers import check_learning_rate
from mlx_baselines3.common.training.native_off_policy import NativeQUpdate
from mlx_baselines3.common.utils import (
    ConstantSchedule,
    FloatSchedule,
    LinearSchedule,
    update_learning_rate,
)

__all__ = [
    "NativeLearning",
    "NativeQLearning",
    "are_logs_shipped",
    "has_constant_rate",
    "learning_rate_at",
    "own_hook",
]

# Methods that a call replaces.
_HOOKS = (
    "_batches", "_collect_and_train", "_end_episodes", "_gradient_step", "_native_chunk", "_native_update",
    "_pass_steps", "_trained", "_update_learning_rate", "collect_rollouts", "train",
)  # fmt: skip
# What a buffer samples with.
_SAMPLING = (
    "_draw_envs", "_draw_rows", "_gather", "_gather_many", "_get_samples", "_take", "_take_next", "sample",
    "sample_arrays", "sample_many", "size", "to_torch",
)  # fmt: skip
# From so many rewards on, NumPy adds them in another order than one after the other.
_LONG_SUM = 8
# Iterations of the first call. A call is to have so many steps, and to take so many seconds, at most.
_FIRST, _MOST_STEPS, _SECONDS = 64, 1 << 14, 1.0
# Settings that are larger are Python's to refuse.
_LARGE = 1 << 20


class _RandomActions:
    """
    Actions of a discrete space, drawn ahead.

    :param space: the space; its generator is where it has to be again after :meth:`put_back`
    """

    def __init__(self, space: spaces.Discrete):
        self._space = space
        self._before = space.np_random.bit_generator.state
        self._taken = 0
        self._ahead = np.empty(0, np.int64)

    def show(self, count: int) -> np.ndarray:
        """
        :param count: how many
        :return: at least as many actions that ``space.sample()`` would give next
        """
        missing = count - len(self._ahead)
        if missing > 0:
            self._ahead = np.concatenate([self._ahead, self._draw(max(missing, count))])
        return self._ahead

    def take(self, count: int) -> None:
        """
        :param count: how many of those that were shown have been used
        """
        self._ahead = self._ahead[count:]
        self._taken += count

    def put_back(self) -> None:
        """Leave the generator as if only the actions that were used had been drawn."""
        self._space.np_random.bit_generator.state = self._before
        self._draw(self._taken)

    def _draw(self, count: int) -> np.ndarray:
        return self._space.start + self._space.np_random.integers(self._space.n, size=count)


class _Parts(NamedTuple):
    """What collects and learns while nobody else has the opportunity to change anything."""

    collector: NativeCollector
    update: NativeQUpdate
    random_actions: _RandomActions
    gradient_steps: int

    def store(self) -> None:
        """Let others see what has become of networks and generators."""
        self.update.store()
        self.random_actions.put_back()


def own_hook(part: Any, names: Iterable[str]) -> str | None:
    """
    :param part: a model, or a part of it
    :param names: methods
    :return: the first one that is not this package's
    """
    own, kind = vars(part), type(part)
    return next((name for name in names if name in own or not is_shipped(getattr(kind, name))), None)


def learning_rate_at(model: Any, progress: float) -> float:
    """
    :param model: an algorithm
    :param progress: the progress that remains
    :return: the learning rate, as ``train`` finds it
    :raises ValueError: it is none
    """
    rate: float = model.lr_schedule(progress)
    return check_learning_rate(max(rate, 0.0) if progress < 0 else rate)


def has_constant_rate(model: Any) -> bool:
    """
    :param model: an algorithm
    :return: whether its learning rate is a number
    """
    schedule = model.lr_schedule
    return type(schedule) is FloatSchedule and type(schedule.value_schedule) is ConstantSchedule


def are_logs_shipped(model: Any) -> bool:
    """
    :param model: an algorithm
    :return: whether no code of a user's sees a log entry
    """
    methods = [model.dump_logs, model.logger.dump, *(out.write for out in model.logger.output_formats)]
    return all(map(is_shipped, methods))


class NativeLearning:
    """
    Iterations of an off-policy algorithm, for one call of ``learn()``.

    :param model: the algorithm
    :param base: the class whose methods Rust knows
    :param log_interval: episodes between two log entries; None logs nothing
    """

    def __init__(self, model: Any, base: type, log_interval: int | None):
        self._model, self._base, self._log_interval = model, base, log_interval

    def run(self, unseen: int, count_steps: Callable[[int], None]) -> bool | None:
        """
        Take as many iterations as nobody needs to see.

        :param unseen: steps that no callback has to see
        :param count_steps: called with numbers of steps that were taken
        :return: whether the gradient steps of the last iteration are still to be made; None if nothing has
            happened, because the next iteration is Python's
        :raises BaseException: what went wrong, or a signal's handler raised; everything before it is
            accounted for then
        """
        raise NotImplementedError

    def _is_due(self) -> bool:
        """Whether the next iteration takes actions of the policy, and learns."""
        model = self._model
        sizes = (model.gradient_steps, model.batch_size, model.n_envs, model.train_freq.frequency)
        return (
            model.train_freq.unit == TrainFrequencyUnit.STEP
            and model.num_timesteps >= model.learning_starts
            and model.num_timesteps < model._total_timesteps
            and model.gradient_steps != 0
            and model.batch_size > 0
            and all(type(number) is int and number < _LARGE for number in sizes)
            and (self._log_interval is None or self._log_interval > 0)
        )

    def _explain_unit(self) -> None:
        if self._model.train_freq.unit != TrainFrequencyUnit.STEP:
            self._model._explain_iterations("train_freq counts episodes")

    def _gradient_steps(self) -> int:
        """Gradient steps of an iteration."""
        model = self._model
        count: int = model.gradient_steps
        return count if count >= 0 else model.train_freq.frequency * model.n_envs

    def _choose_collector(self) -> NativeCollector | None:
        """What takes the steps; None if somebody's own method would have to take part in an iteration."""
        model, logger = self._model, self._model.logger
        why = ""
        if name := own_hook(model, _HOOKS):
            why = f"{type(model).__name__} has its own {name}"
        elif name := own_hook(logger, ("record",)):
            why = f"the logger has its own {name}"
        elif model.env.num_envs != model.n_envs:
            why = f"the model was made for {model.n_envs} environments"
        if why:
            model._explain_iterations(why)
            return None
        buffer, noise = model.replay_buffer, model.action_noise
        collector = choose_collector(model, model.env, buffer, noise, model.learning_starts)
        return None if isinstance(collector, str) else collector

    def _find_update(self) -> Any:
        """What takes the gradient steps in Rust, or None."""
        model = self._model
        model._create_aliases()
        try:
            model.policy.settle_optimizers()
        except RuntimeError:
            # Nothing to train. `train` says so, after the steps.
            return None
        return model._updater.find_native(model, self._base)


class NativeQLearning(NativeLearning):
    """Iterations of DQN, see :class:`NativeLearning`: many in one call."""

    def __init__(self, model: Any, base: type, log_interval: int | None):
        super().__init__(model, base, log_interval)
        self._parts: _Parts | None = None
        self._most = _FIRST
        # Whether the gradient steps of an iteration are still to be made, and whether gradient steps were the
        # last thing that was begun.
        self._is_collected = self._learns = False

    def run(self, unseen: int, count_steps: Callable[[int], None]) -> bool | None:
        self._is_collected = False
        self._explain_unit()
        has_run = False
        try:
            while (n_steps := self._run_once(unseen, count_steps)) is not None:
                has_run = True
                unseen -= n_steps
        finally:
            self._store()
            if has_run:
                self._model.policy.set_training_mode(self._learns)
                # The weights have changed.
                self._model._collector_choice = type(self._model._collector_choice)()
        return self._is_collected if has_run else None

    def _run_once(self, unseen: int, count_steps: Callable[[int], None]) -> int | None:
        """:return: steps that were taken; None if nothing has happened"""
        count = self._count(unseen)
        if count < 1:
            return None
        # Buffer, generators, networks and counters move together.
        with interrupts_deferred():
            if self._parts is None:
                self._parts = self._find_parts()
            rates = [] if self._parts is None else self._learning_rates(count)
            if self._parts is None or not rates:
                return None
            begun = time.perf_counter()
            done, wrong = self._learn(self._parts, rates)
            if done is None:
                return None
            seconds = time.perf_counter() - begun
            self._account(self._parts, done, rates)
            count_steps(done.n_steps)
        if done.error is not None:
            raise done.error
        if wrong is not None:
            raise wrong
        self._plan_ahead(done.n_updates, count, seconds)
        return done.n_steps

    def _store(self) -> None:
        """Let others see, and perhaps change, what there is."""
        if self._parts is not None:
            with interrupts_deferred():
                parts, self._parts = self._parts, None
                parts.store()

    def _count(self, unseen: int) -> int:
        """How many iterations to ask for; 0 if the next one is Python's."""
        model = self._model
        if not (self._is_due() or self._is_collected) or type(model.target_update_interval) is not int:
            return 0
        frequency = model.train_freq.frequency
        left = math.ceil((model._total_timesteps - model.num_timesteps) / (frequency * model.n_envs))
        most = min(self._most, max(_MOST_STEPS // frequency, 1), unseen // frequency, max(left, 0))
        return most + self._is_collected

    def _plan_ahead(self, n_updates: int, count: int, seconds: float) -> None:
        """Choose how many iterations to ask for the next time: what is not used is prepared in vain."""
        most = 2 * count if n_updates == count else 2 * n_updates
        in_time = _SECONDS / (seconds / max(n_updates, 1))
        self._most = int(max(min(max(most, _FIRST), in_time), 1))

    def _find_parts(self) -> _Parts | None:
        """What collects and learns; None if a part of it is not as Rust knows it."""
        space = self._model.action_space
        is_known = type(space) is spaces.Discrete and "sample" not in vars(space)
        if not is_known or not _can_sample(self._model.replay_buffer):
            part = "replay buffer samples" if is_known else "action space draws"
            self._model._explain_iterations(f"the {part} in a way that Rust does not know")
            return None
        collector = self._choose_collector()
        update = None if collector is None else self._find_update()
        if collector is None or type(update) is not NativeQUpdate:
            return None
        if update.has_extractor:
            self._model._explain_iterations("the policy has a features extractor with layers")
            return None
        update.load()
        return _Parts(collector, update, _RandomActions(space), self._gradient_steps())

    def _learning_rates(self, count: int) -> list[float]:
        """The learning rates of the next iterations, up to one that `train` refuses."""
        model = self._model
        each = model.train_freq.frequency * model.n_envs
        first = model.num_timesteps + (0 if self._is_collected else each)
        is_constant = has_constant_rate(model)
        rates: list[float] = []
        for i in range(1 if is_constant else count):
            try:
                rates.append(learning_rate_at(self._model, model.progress_at(first + i * each)))
            except ValueError:
                break
        return rates * count if is_constant else rates

    def _exploration_rates(self, count: int) -> np.ndarray:
        """Probability of random actions at the next steps."""
        model, schedule = self._model, self._model.exploration_schedule
        later = model.num_timesteps + model.n_envs * np.arange(1, count)
        if type(schedule) is LinearSchedule:
            # The same operations as those of the schedule, one after the other.
            done = 1 - (1.0 - later.astype(np.float64) / float(model._total_timesteps))
            line = schedule.start + done * (schedule.end - schedule.start) / schedule.end_fraction
            rates = np.where(done > schedule.end_fraction, schedule.end, line)
        else:
            rates = np.array([schedule(model.progress_at(steps)) for steps in later.tolist()], np.float64)
        return np.concatenate([[model.exploration_rate], rates])[:count]

    def _learn(
        self, parts: _Parts, rates: list[float]
    ) -> "tuple[_native.LearnedChunk | None, FloatingPointError | None]":
        model = self._model
        n_envs = model.n_envs
        n_steps = (len(rates) - self._is_collected) * model.train_freq.frequency
        awaited = None
        if self._log_interval is not None:
            awaited = self._log_interval - model._episode_num % self._log_interval
        plan: _native.QPlan = {
            "steps": model.train_freq.frequency,
            "exploration_rates": self._exploration_rates(n_steps),
            "random_actions": parts.random_actions.show(n_steps * n_envs),
            "gradient_steps": parts.gradient_steps,
            "learning_rates": np.array(rates, np.float32),
            "batch_size": model.batch_size,
            "gamma": model.gamma,
            "multi_step": _multi_step(model.replay_buffer),
            "max_grad_norm": math.inf if model.max_grad_norm is None else model.max_grad_norm,
            "shares": (float(model.tau), 1 - float(model.tau)),
            "target_interval": max(model.target_update_interval // n_envs, 1),
            "steps_before": model._n_calls,
            "is_collected": self._is_collected,
            "awaited_episode": awaited,
        }
        done, wrong = parts.update.iterate(parts.collector, model._last_obs, plan)
        if done is not None:
            parts.random_actions.take(done.n_random_steps * n_envs)
        return done, wrong

    def _account(self, parts: _Parts, done: "_native.LearnedChunk", rates: list[float]) -> None:
        """Account for what was done, in the order in which it happened."""
        model, updates = self._model, done.n_updates
        learned = max(updates - self._is_collected, 0) * model.train_freq.frequency
        if done.n_steps:
            model._last_obs, model._last_original_obs = done.new_obs, parts.collector.seen_last()
        ended = list(done.episodes)
        at = next((i for i, end in enumerate(ended) if end.step >= learned), len(ended))
        if self._is_collected and updates:
            # Comes first in the log entry, as it does where each update is accounted for.
            self._record_update(parts, done, rates)
        self._pass_steps(learned, 0, ended[:at])
        if updates and not self._is_collected:
            self._record_update(parts, done, rates)
        collected = done.n_steps // model.train_freq.frequency + self._is_collected
        self._is_collected = collected > updates
        self._learns = not self._is_collected or len(done.nonfinite_losses) > 0
        self._pass_steps(done.n_steps - learned, learned, ended[at:])
        if len(done.nonfinite_losses):
            self._record_rate(rates[updates])

    def _record_update(self, parts: _Parts, done: "_native.LearnedChunk", rates: list[float]) -> None:
        model = self._model
        self._record_rate(rates[done.n_updates - 1])
        model._n_updates += done.n_updates * parts.gradient_steps
        model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        model.logger.record("train/loss", done.losses.mean())

    def _record_rate(self, rate: float) -> None:
        self._model.logger.record("train/learning_rate", rate)
        update_learning_rate(self._model.policy.optimizer, rate)

    def _pass_steps(self, n_steps: int, first: int, ended: list[_native.FinishedEpisode]) -> None:
        """
        Count steps, and see to the episodes that ended in them.

        :param n_steps: how many
        :param first: number of the first one among those of the call
        :param ended: the episodes
        """
        model, counted = self._model, 0
        for step, dones, infos in ends_by_step(ended, model.n_envs):
            model._update_info_buffer(infos)
            self._count_steps(step + 1 - first - counted)
            counted = step + 1 - first
            if self._shows_users(int(dones.sum())):
                self._store()
                model.policy.set_training_mode(False)
            model._end_episodes(dones, model.action_noise, self._log_interval)
        if counted < n_steps:
            self._count_steps(n_steps - counted)

    def _shows_users(self, n_ended: int) -> bool:
        """Whether a log entry is due that code of a user's sees."""
        model, interval = self._model, self._log_interval
        if interval is None or model._episode_num // interval == (model._episode_num + n_ended) // interval:
            return False
        return not are_logs_shipped(self._model)

    def _count_steps(self, n_steps: int) -> None:
        model = self._model
        model.num_timesteps += n_steps * model.n_envs
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model._n_calls += n_steps
        model._update_exploration_rate()


def _can_sample(buffer: Any) -> bool:
    """Whether Rust draws and gathers transitions as the replay buffer does."""
    return (
        vars(buffer).keys().isdisjoint(_SAMPLING)
        and buffer.handle_timeout_termination
        and (buffer._terminal is None or buffer.buffer_size > 1)
        and (type(buffer) is not NStepReplayBuffer or buffer.n_steps < _LONG_SUM)
    )


def _multi_step(buffer: Any) -> "_native.MultiStep | None":
    if type(buffer) is not NStepReplayBuffer:
        return None
    powers = buffer.gamma ** np.arange(buffer.n_steps + 1).astype(np.float32)
    return {"discounts": powers[:-1].copy(), "bootstraps": powers}
