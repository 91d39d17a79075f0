"""
Iterations of SAC, TD3 and DDPG on vectors that stay in Rust's hands; see ``native_learning``.

A gradient step takes milliseconds, so that Python may begin each. What it does not do any more is to hand
hundreds of thousands of numbers to MLX and back between two of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.buffers.batches import replay_arrays
from mlx_baselines3.common.native.exploration import ChunkResult, NativeCollector, ends_by_step
from mlx_baselines3.common.native.interrupts import interrupts_deferred
from mlx_baselines3.common.training.dead_steps import ended_episodes
from mlx_baselines3.common.training.native_learning import (
    NativeLearning,
    are_logs_shipped,
    learning_rate_at,
)
from mlx_baselines3.common.training.native_off_policy import NativeActorCriticUpdate
from mlx_baselines3.common.utils import update_learning_rate

__all__ = ["NativeActorCriticLearning", "UpdateInputs"]


class UpdateInputs(NamedTuple):
    """
    What an update of an actor and critics takes besides its batches.

    :param settings: numbers of the losses
    :param noise: (gradient steps, ...) standard normals
    :param flags: for each step whether the actor learns and whether target networks follow
    """

    settings: Mapping[str, float]
    noise: mx.array
    flags: Sequence[tuple[bool, bool]]


class NativeActorCriticLearning(NativeLearning):
    """Iterations of SAC, TD3 and DDPG, see :class:`NativeLearning`."""

    def __init__(self, model: Any, base: type, log_interval: int | None):
        super().__init__(model, base, log_interval)
        # What is not in the log yet.
        self._rate: float | None = None
        self._metrics: dict[str, np.ndarray] = {}

    def run(self, unseen: int, count_steps: Callable[[int], None]) -> bool | None:
        model = self._model
        frequency = model.train_freq.frequency
        self._explain_unit()
        if unseen < frequency or not self._is_due():
            return None
        if not are_logs_shipped(model):
            model._explain_iterations("code of your own sees the log entries")
            return None
        collector = self._choose_collector()
        update = None if collector is None else self._find_update()
        if collector is None or type(update) is not NativeActorCriticUpdate:
            return None
        update.load()
        learns = False
        try:
            while unseen >= frequency and self._is_due():
                learns = False
                # Ctrl-C waits while numbers and counters change.
                with interrupts_deferred():
                    self._collect(collector, count_steps)
                    learns = True
                    self._update(update, collector)
                unseen -= frequency
        finally:
            with interrupts_deferred():
                update.store()
                self._record()
                model.policy.set_training_mode(learns)
                # The weights have changed.
                model._collector_choice = type(model._collector_choice)()
        return False

    def _collect(self, collector: NativeCollector, count_steps: Callable[[int], None]) -> None:
        """The steps of an iteration."""
        model = self._model
        taken, every = 0, model.sde_sample_freq if model.use_sde else 0
        if model.use_sde:
            model.actor.reset_noise(model.n_envs)
        while taken < model.train_freq.frequency:
            count = model.train_freq.frequency - taken
            if every > 0:
                if taken % every == 0:
                    model.actor.reset_noise(model.n_envs)
                count = min(count, every - taken % every)
            chunk = collector.collect_chunk(model._last_obs, count)
            model._last_obs, model._last_original_obs = chunk.last.new_obs, chunk.seen
            self._account(chunk, count_steps)
            taken += chunk.n_steps

    def _account(self, chunk: ChunkResult, count_steps: Callable[[int], None]) -> None:
        """Account for steps in the order in which they were taken."""
        model = self._model
        whole = chunk.n_steps if chunk.error is not None else chunk.n_steps - 1
        ends = {end.step: end for end in ends_by_step(chunk.episodes, model.n_envs)}
        for step in range(whole):
            if (ended := ends.get(step)) is None:
                self._count_step([], None)
            else:
                self._count_step(ended.infos, ended.dones)
        if chunk.error is not None:
            count_steps(chunk.n_steps)
            raise chunk.error
        last = chunk.last
        self._count_step(last.infos, ended_episodes(last.dones, last.infos))
        count_steps(chunk.n_steps)

    def _count_step(self, infos: Any, dones: Any) -> None:
        model = self._model
        model.num_timesteps += model.n_envs
        model._update_info_buffer(infos, dones)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        if dones is not None and np.any(dones):
            self._record()
            model._end_episodes(dones, model.action_noise, self._log_interval)

    def _update(self, update: NativeActorCriticUpdate, collector: NativeCollector) -> None:
        """The gradient steps of an iteration."""
        model, n_steps = self._model, self._gradient_steps()
        self._rate = learning_rate_at(model, model._current_progress_remaining)
        update.set_learning_rate(self._rate)
        inputs: UpdateInputs = model._update_inputs(n_steps, model.batch_size)
        batches = replay_arrays(model.replay_buffer, n_steps, model.batch_size)
        metrics = update.advance(batches, *inputs)
        update.load_actor(collector.actor)
        if model.use_sde:
            update.show_deviations()
        model._n_updates += n_steps
        # TD3's actor does not learn in every update: its last loss stays.
        self._metrics |= {name: metrics[name] for name in model._metric_names if name in metrics}

    def _record(self) -> None:
        """Record what the updates since the last time have given."""
        model, record = self._model, self._model.logger.record
        if self._rate is None:
            return
        record("train/learning_rate", self._rate)
        for optimizer in model._optimizers():
            update_learning_rate(optimizer, self._rate)
        if self._metrics:
            record("train/n_updates", model._n_updates, exclude="tensorboard")
            for name, values in self._metrics.items():
                record(f"train/{name}", values.mean())
        self._rate, self._metrics = None, {}
