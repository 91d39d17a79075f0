"""What an algorithm counts and keeps while it runs: steps, episodes, learning rate, logger."""

from collections import deque
from typing import Any

import numpy as np

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.nn.optimizers import check_learning_rate
from mlx_baselines3.common.saving.run_record import RunRecord
from mlx_baselines3.common.type_aliases import Schedule
from mlx_baselines3.common.utils import FloatSchedule, update_learning_rate


class RunState:
    """The part of :class:`BaseAlgorithm` that needs neither environments nor networks."""

    learning_rate: float | Schedule
    lr_schedule: Schedule
    _logger: Logger
    # The run to go on with, between load_checkpoint() and learn().
    _resumed: RunRecord | None = None

    def _init_counters(self) -> None:
        self.num_timesteps = 0
        self._total_timesteps = 0
        self._num_timesteps_at_start = 0
        self.start_time = 0.0
        self._episode_num = 0
        self._n_updates = 0
        self._current_progress_remaining = 1.0
        # An array or a dictionary of arrays; None before the first reset.
        self._last_obs: Any = None
        self._last_original_obs: Any = None
        self._last_episode_starts: np.ndarray | None = None
        self.ep_info_buffer: deque[Any] | None = None
        self.ep_success_buffer: deque[Any] | None = None
        self._custom_logger = False

    def set_logger(self, logger: Logger) -> None:
        """
        Use a logger of one's own. ``tensorboard_log`` and ``verbose`` no longer choose where logs go.

        :param logger: the logger
        """
        self._logger = logger
        self._custom_logger = True

    @property
    def logger(self) -> Logger:
        """:return: the logger; there is one from the first ``learn`` on"""
        return self._logger

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = FloatSchedule(self.learning_rate)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        self._current_progress_remaining = 1.0 - float(num_timesteps) / float(total_timesteps)

    def _update_learning_rate(self, optimizers: Any) -> None:
        """
        Record the learning rate of the present progress and hand it to the optimizers.

        :param optimizers: one or a list
        :raises ValueError: if the rate is negative or not finite
        """
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        if self._current_progress_remaining < 0:
            # The last rollout goes beyond total_timesteps; a line to 0 must not become gradient ascent.
            learning_rate = max(learning_rate, 0.0)
        check_learning_rate(learning_rate)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, learning_rate)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """
        Keep return, length and success of the episodes that just ended.

        :param infos: one per environment
        :param dones: (n_envs,) which episodes ended
        """
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        for i, info in enumerate(infos):
            if not info:
                continue
            if (episode := info.get("episode")) is not None:
                self.ep_info_buffer.append(episode)
            if (success := info.get("is_success")) is not None and dones is not None and dones[i]:
                self.ep_success_buffer.append(success)
