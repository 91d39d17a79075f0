"""Callbacks, which run during training and may stop it."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.callbacks.base import (
    NEVER,
    BaseCallback,
    CallbackList,
    ConvertCallback,
    EventCallback,
)
from mlx_baselines3.common.callbacks.evaluation import (
    EvalCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.vec_env import DummyVecEnv, VecEnv, sync_envs_normalization

if TYPE_CHECKING:
    from tqdm import TqdmExperimentalWarning as TqdmExperimentalWarning
    from tqdm.rich import tqdm as tqdm
else:
    __getattr__ = lazy_names(
        globals(),
        "gym",
        optional={"tqdm": "tqdm.rich:tqdm", "TqdmExperimentalWarning": "tqdm:TqdmExperimentalWarning"},
    )

__all__ = [
    "BaseCallback",
    "CallbackList",
    "CheckpointCallback",
    "ConvertCallback",
    "DummyVecEnv",
    "EvalCallback",
    "EventCallback",
    "EveryNTimesteps",
    "LogEveryNTimesteps",
    "Logger",
    "ProgressBarCallback",
    "StopTrainingOnMaxEpisodes",
    "StopTrainingOnNoModelImprovement",
    "StopTrainingOnRewardThreshold",
    "VecEnv",
    "evaluate_policy",
    "sync_envs_normalization",
]


class CheckpointCallback(BaseCallback):
    """
    Saves the model every ``save_freq`` calls, as ``{name_prefix}_{timesteps}_steps.zip``.

    .. warning::

      One call is ``n_envs`` environment steps: to count steps,
      use ``save_freq = max(save_freq // n_envs, 1)``.

    :param save_freq: calls between two checkpoints
    :param save_path: folder; created if missing
    :param name_prefix: prefix of the file names
    :param save_replay_buffer: also save the replay buffer, if the model has one
    :param save_vecnormalize: also save ``VecNormalize``'s statistics, if there are any
    :param verbose: 0 is silent, 2 reports each file
    :param resumable: save a checkpoint from which :meth:`BaseAlgorithm.load_checkpoint` continues exactly:
        the model, its buffers, the environments, all random generators. It is written at the start of the
        next rollout, when no step is incomplete, and named by the number of steps at that time. Pass the
        callback to ``learn`` itself or in a list, because callbacks that trigger others do not forward
        rollout events
    """

    def __init__(
        self,
        save_freq: int,
        save_path: str,
        name_prefix: str = "rl_model",
        save_replay_buffer: bool = False,
        save_vecnormalize: bool = False,
        verbose: int = 0,
        resumable: bool = False,
    ) -> None:
        super().__init__(verbose)
        self.resumable = resumable
        self._is_due = False
        self._sees_rollouts = False
        self.save_freq = save_freq
        self.save_path = save_path
        self.name_prefix = name_prefix
        self.save_replay_buffer = save_replay_buffer
        self.save_vecnormalize = save_vecnormalize

    def _init_callback(self) -> None:
        if self.save_path is not None:
            os.makedirs(self.save_path, exist_ok=True)

    def _checkpoint_path(self, checkpoint_type: str = "", extension: str = "") -> str:
        """
        :param checkpoint_type: empty for the model, ``"replay_buffer_"`` or ``"vecnormalize_"``
        :param extension: of the file, without the dot
        :return: path of the checkpoint
        """
        name = f"{self.name_prefix}_{checkpoint_type}{self.num_timesteps}_steps.{extension}"
        return os.path.join(self.save_path, name)

    def _tell(self, what: str, path: str) -> None:
        if self.verbose >= 2:
            print(f"Saving model {what} to {path}")

    def _steps_until_needed(self) -> int:
        return self.save_freq - self.n_calls % self.save_freq

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq != 0:
            return True
        if not self.resumable:
            self._save()
        elif self._sees_rollouts:
            self._is_due = True
        else:
            raise RuntimeError(
                "CheckpointCallback(resumable=True) needs rollout events, which it does not get: pass it to "
                "learn() itself or in a list, not to another callback."
            )
        return True

    def _on_rollout_start(self) -> None:
        self._sees_rollouts = True
        self._save_if_due()

    def _on_training_end(self) -> None:
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self._is_due:
            self._is_due = False
            self.num_timesteps = self.model.num_timesteps
            self._save()

    def _save(self) -> None:
        path = self._checkpoint_path(extension="zip")
        if self.resumable:
            self.model.save_checkpoint(path, within_learn=True)
        else:
            self.model.save(path)
        self._tell("checkpoint", path)

        model: Any = self.model
        if self.save_replay_buffer and getattr(model, "replay_buffer", None) is not None:
            path = self._checkpoint_path("replay_buffer_", extension="pkl")
            model.save_replay_buffer(path)
            self._tell("replay buffer checkpoint", path)

        vec_normalize = model.get_vec_normalize_env() if self.save_vecnormalize else None
        if vec_normalize is not None:
            path = self._checkpoint_path("vecnormalize_", extension="pkl")
            vec_normalize.save(path)
            self._tell("VecNormalize", path)


class EveryNTimesteps(EventCallback):
    """
    Triggers a callback every ``n_steps`` environment steps.

    :param n_steps: steps between two triggers
    :param callback: the callback
    """

    def __init__(self, n_steps: int, callback: BaseCallback) -> None:
        super().__init__(callback)
        self.n_steps = n_steps
        self.last_time_trigger = 0

    def _steps_until_needed(self) -> int:
        missing = self.n_steps - (self.model.num_timesteps - self.last_time_trigger)
        return -(-missing // self.training_env.num_envs)

    def _on_step(self) -> bool:
        if self.num_timesteps - self.last_time_trigger < self.n_steps:
            return True
        self.last_time_trigger = self.num_timesteps
        return self._on_event()


class LogEveryNTimesteps(EveryNTimesteps):
    """
    Writes the logs every ``n_steps`` environment steps.

    :param n_steps: steps between two rows
    """

    def __init__(self, n_steps: int) -> None:
        super().__init__(n_steps, callback=ConvertCallback(self._log_data))

    def _log_data(self, _locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        model: Any = self.model
        model.dump_logs()
        return True


class StopTrainingOnMaxEpisodes(BaseCallback):
    """
    Stops the training after ``max_episodes`` times the number of environments episodes in total.

    :param max_episodes: episodes per environment
    :param verbose: 0 is silent, 1 reports when training is stopped
    """

    def __init__(self, max_episodes: int, verbose: int = 0) -> None:
        super().__init__(verbose=verbose)
        self.max_episodes = max_episodes
        self._total_max_episodes = max_episodes
        self.n_episodes = 0

    def _init_callback(self) -> None:
        self._total_max_episodes = self.max_episodes * self.training_env.num_envs

    def _on_step(self) -> bool:
        assert "dones" in self.locals, (
            "`dones` variable is not defined, please check your code next to `callback.on_step()`"
        )
        self.n_episodes += int(np.sum(self.locals["dones"]))
        continue_training = self.n_episodes < self._total_max_episodes
        if self.verbose >= 1 and not continue_training:
            n_envs = self.training_env.num_envs
            average = (
                f"with an average of {self.n_episodes / n_envs:.2f} episodes per env" if n_envs > 1 else ""
            )
            print(
                f"Stopping training with a total of {self.num_timesteps} steps because the "
                f"{self.locals.get('tb_log_name')} model reached max_episodes={self.max_episodes}, "
                f"by playing for {self.n_episodes} episodes {average}"
            )
        return continue_training


class ProgressBarCallback(BaseCallback):
    """
    A progress bar on the console.

    :raises ImportError: tqdm or rich is not installed
    """

    pbar: Any

    def __init__(self) -> None:
        super().__init__()
        self._is_open = False
        try:
            import tqdm.rich  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "You must install tqdm and rich in order to use the progress bar callback: "
                "`pip install 'mlx-baselines3[extra]'`."
            ) from error

    def _on_training_start(self) -> None:
        from tqdm import TqdmExperimentalWarning
        from tqdm.rich import tqdm

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=TqdmExperimentalWarning)
            self.pbar = tqdm(total=self.locals["total_timesteps"] - self.model.num_timesteps)
        self._is_open = True
        self._shown = self.model.num_timesteps

    def _show_progress(self) -> None:
        self.pbar.update(self.model.num_timesteps - self._shown)
        self._shown = self.model.num_timesteps

    def _steps_until_needed(self) -> int:
        return NEVER

    def _on_step(self) -> bool:
        self._show_progress()
        return True

    def _on_rollout_end(self) -> None:
        self._show_progress()

    def _on_training_end(self) -> None:
        self.pbar.refresh()
        self._release()

    def _release(self) -> None:
        # An open bar keeps painting and prevents another one.
        if self._is_open:
            self._is_open = False
            self.pbar.close()
