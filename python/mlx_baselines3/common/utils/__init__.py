"""Utilities: seeds, schedules, devices, checks of spaces, averages."""

from __future__ import annotations

import glob
import math
import os
import random
import warnings
from collections import deque
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3._system_info import get_system_info
from mlx_baselines3.common._types import Schedule, TensorDict, TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.logger import Logger, configure
from mlx_baselines3.common.logger.tensorboard import SummaryWriter
from mlx_baselines3.common.nn.devices import get_device as get_device
from mlx_baselines3.common.nn.threads import seeded_by_user
from mlx_baselines3.common.utils.observations import (
    is_vectorized_box_observation,
    is_vectorized_dict_observation,
    is_vectorized_discrete_observation,
    is_vectorized_multibinary_observation,
    is_vectorized_multidiscrete_observation,
    is_vectorized_observation,
    without_far_bounds,
)
from mlx_baselines3.common.utils.parameters import get_parameters_by_name, polyak_average, polyak_update
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.abstract import GymEnv
from mlx_baselines3.common.vec_env.util import check_shape_equal

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "cloudpickle gym sb3")

__all__ = [
    "ConstantSchedule",
    "FloatSchedule",
    "GymEnv",
    "LinearSchedule",
    "Logger",
    "Schedule",
    "SummaryWriter",
    "TensorDict",
    "TrainFreq",
    "TrainFrequencyUnit",
    "check_for_correct_spaces",
    "check_shape_equal",
    "configure",
    "configure_logger",
    "constant_fn",
    "explained_variance",
    "get_device",
    "get_latest_run_id",
    "get_linear_fn",
    "get_parameters_by_name",
    "get_schedule_fn",
    "get_system_info",
    "is_vectorized_box_observation",
    "is_vectorized_dict_observation",
    "is_vectorized_discrete_observation",
    "is_vectorized_multibinary_observation",
    "is_vectorized_multidiscrete_observation",
    "is_vectorized_observation",
    "obs_as_tensor",
    "polyak_average",
    "polyak_update",
    "safe_mean",
    "set_random_seed",
    "should_collect_more_steps",
    "update_learning_rate",
    "zip_strict",
]


def set_random_seed(seed: int, using_cuda: bool = False) -> None:
    """
    Seed the generators of Python, NumPy and MLX.

    :param seed: from 0 to ``2**32 - 1``
    :param using_cuda: for compatibility with SB3; MLX has no deterministic mode
    :raises ValueError: the seed is out of NumPy's range; no generator is changed
    """
    # NumPy validates the seed: it comes first, so that an invalid seed changes nothing.
    np.random.seed(seed)  # noqa: NPY002  the global generator is the one SB3 seeds and draws from
    random.seed(seed)
    mx.random.seed(seed)
    seeded_by_user()


def explained_variance(y_pred: np.ndarray, y_true: np.ndarray) -> float:
    """
    Fraction of the target's variance explained by the prediction: ``1 - Var[y - y_pred] / Var[y]``.
    1 is perfect, 0 is as good as a constant, below 0 is worse than one.

    :param y_pred: predictions, ``(n,)``
    :param y_true: targets, ``(n,)``
    :return: the fraction, NaN if the targets do not vary
    :raises AssertionError: an argument is not one-dimensional
    """
    assert y_true.ndim == y_pred.ndim == 1, (
        f"explained_variance needs two 1-d arrays, got shapes {y_pred.shape} and {y_true.shape}"
    )
    y_pred, y_true = np.asarray(y_pred), np.asarray(y_true)
    variance = np.var(y_true)
    return math.nan if variance == 0 else float(1 - np.var(y_true - y_pred) / variance)


def update_learning_rate(optimizer: optim.Optimizer, learning_rate: float) -> None:
    """
    Set the learning rate of an optimizer.
    The rate is stored as an array: a compiled update reads it as an input and is not compiled again.

    :param optimizer: an MLX optimizer
    :param learning_rate: the new rate
    """
    optimizer.learning_rate = mx.array(float(learning_rate), dtype=mx.float32)


class FloatSchedule:
    """
    A schedule whose output is always a Python float.

    :param value_schedule: a constant, or a function of the progress remaining (1 at the start, 0 at the end)
    :raises AssertionError: neither a number nor callable
    """

    def __init__(self, value_schedule: Schedule | float) -> None:
        if isinstance(value_schedule, FloatSchedule):
            self.value_schedule: Schedule = value_schedule.value_schedule
        elif isinstance(value_schedule, (float, int)):
            self.value_schedule = ConstantSchedule(float(value_schedule))
        else:
            assert callable(value_schedule), (
                f"The learning rate schedule must be a float or a callable, not {value_schedule}"
            )
            self.value_schedule = value_schedule

    def __call__(self, progress_remaining: float) -> float:
        return float(self.value_schedule(progress_remaining))

    def __repr__(self) -> str:
        return f"FloatSchedule({self.value_schedule})"


class LinearSchedule:
    """
    Linear schedule from ``start``, at progress remaining 1, to ``end``, reached after ``end_fraction`` of the
    training and constant from then on. DQN's exploration rate uses it.

    :param start: value at the beginning
    :param end: value at and after ``end_fraction``
    :param end_fraction: fraction of the training, in ``(0, 1]``, after which ``end`` is reached
    """

    def __init__(self, start: float, end: float, end_fraction: float) -> None:
        self.start = start
        self.end = end
        self.end_fraction = end_fraction

    def __call__(self, progress_remaining: float) -> float:
        done = 1 - progress_remaining
        if done > self.end_fraction:
            return self.end
        return self.start + done * (self.end - self.start) / self.end_fraction

    def __repr__(self) -> str:
        return f"LinearSchedule(start={self.start}, end={self.end}, end_fraction={self.end_fraction})"


class ConstantSchedule:
    """
    Constant schedule.

    :param val: the value
    """

    def __init__(self, val: float) -> None:
        self.val = val

    def __call__(self, _: float) -> float:
        return self.val

    def __repr__(self) -> str:
        return f"ConstantSchedule(val={self.val})"


def get_schedule_fn(value_schedule: Schedule | float) -> Schedule:
    """
    Deprecated: use :class:`FloatSchedule`.

    :param value_schedule: a constant or a schedule
    :return: a schedule that returns floats
    """
    warnings.warn("get_schedule_fn() is deprecated, please use FloatSchedule() instead", stacklevel=2)
    return FloatSchedule(value_schedule)


def get_linear_fn(start: float, end: float, end_fraction: float) -> Schedule:
    """
    Deprecated: use :class:`LinearSchedule`.

    :param start: value at the beginning
    :param end: value at and after ``end_fraction``
    :param end_fraction: fraction of the training after which ``end`` is reached
    :return: the schedule
    """
    warnings.warn("get_linear_fn() is deprecated, please use LinearSchedule() instead", stacklevel=2)
    return LinearSchedule(start, end, end_fraction)


def constant_fn(val: float) -> Schedule:
    """
    Deprecated: use :class:`ConstantSchedule`.

    :param val: the value
    :return: the schedule
    """
    warnings.warn("constant_fn() is deprecated, please use ConstantSchedule() instead", stacklevel=2)
    return ConstantSchedule(val)


def get_latest_run_id(log_path: str = "", log_name: str = "") -> int:
    """
    Find the highest ``n`` among the folders ``{log_name}_{n}``.

    :param log_path: folder of the runs
    :param log_name: name of the experiment
    :return: the highest number, 0 if there is none
    """
    pattern = os.path.join(glob.escape(os.fspath(log_path)), f"{glob.escape(log_name)}_[0-9]*")
    endings = (os.path.basename(path).removeprefix(f"{log_name}_") for path in glob.glob(pattern))
    return max((int(ending) for ending in endings if ending.isdecimal()), default=0)


def configure_logger(
    verbose: int = 0,
    tensorboard_log: str | None = None,
    tb_log_name: str = "",
    reset_num_timesteps: bool = True,
) -> Logger:
    """
    Create the default logger of an algorithm.

    :param verbose: 0 prints nothing, 1 or more prints tables on the console
    :param tensorboard_log: folder for TensorBoard, ``None`` for no such log
    :param tb_log_name: name of the run inside that folder
    :param reset_num_timesteps: True starts the next numbered run, False continues the latest one
    :return: the logger
    :raises ImportError: a TensorBoard folder is given and tensorboard is not installed
    """
    if tensorboard_log is None:
        return configure(None, format_strings=["stdout"] if verbose >= 1 else [""])
    if find_spec("tensorboard") is None:
        raise ImportError(
            "Trying to log data to tensorboard but tensorboard is not installed. "
            "Install it with `pip install 'mlx-baselines3[extra]'`."
        )
    run_id = get_latest_run_id(tensorboard_log, tb_log_name) + (1 if reset_num_timesteps else 0)
    folder = os.path.join(tensorboard_log, f"{tb_log_name}_{run_id}")
    return configure(folder, format_strings=["stdout", "tensorboard"] if verbose >= 1 else ["tensorboard"])


def check_for_correct_spaces(
    env: GymEnv, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    """
    Check that an environment has the spaces of a model.

    :param env: the environment
    :param observation_space: the model's observation space
    :param action_space: the model's action space
    :raises ValueError: a space differs, except for the representation of missing bounds
    """
    if without_far_bounds(observation_space) != without_far_bounds(env.observation_space):
        raise ValueError(f"Observation spaces do not match: {observation_space} != {env.observation_space}")
    if action_space != env.action_space:
        raise ValueError(f"Action spaces do not match: {action_space} != {env.action_space}")


def safe_mean(arr: np.ndarray | list[Any] | deque[Any]) -> float:
    """
    The mean, for logging: NaN for an empty list, without a warning.

    :param arr: numbers
    :return: their mean
    """
    return math.nan if len(arr) == 0 else float(np.mean(arr))


def zip_strict(*iterables: Iterable[Any]) -> Iterable[Any]:
    r"""
    ``zip`` that rejects iterables of unequal length.

    :param \*iterables: the iterables
    :return: the tuples
    :raises ValueError: while iterating, if one ends before another
    """
    return zip(*iterables, strict=True)


def obs_as_tensor(obs: np.ndarray | dict[str, np.ndarray], device: mx.Device | str) -> mx.array | TensorDict:
    """
    Convert observations to MLX arrays; the dtype is kept if MLX supports it.

    :param obs: an array, or a dict of arrays
    :param device: for compatibility with SB3: MLX arrays are not tied to a device
    :return: MLX arrays
    :raises TypeError: neither an array nor a dict
    """
    if isinstance(obs, np.ndarray):
        return mx.array(obs)
    if isinstance(obs, dict):
        return {key: mx.array(value) for key, value in obs.items()}
    raise TypeError(
        f"Unrecognized type of observation {type(obs)}: expected a NumPy array or a dict of them."
    )


def parse_train_freq(train_freq: Any) -> TrainFreq:
    """
    :param train_freq: a number of steps, or a frequency and its unit
    :return: the same as a :class:`TrainFreq`
    :raises ValueError: if the unit is neither "step" nor "episode", or the frequency no integer
    """
    if isinstance(train_freq, TrainFreq):
        return train_freq
    pair = train_freq if isinstance(train_freq, tuple) else (train_freq, "step")
    if len(pair) != 2:
        raise ValueError(f"`train_freq` must be an integer or (frequency, unit), not {train_freq}")
    frequency, unit = pair
    try:
        unit = TrainFrequencyUnit(unit)
    except ValueError as error:
        raise ValueError(
            f"The unit of the `train_freq` must be either 'step' or 'episode' not '{unit}'!"
        ) from error
    if not isinstance(frequency, int):
        raise ValueError(f"The frequency of `train_freq` must be an integer and not {frequency}")
    return TrainFreq(frequency, unit)


def should_collect_more_steps(
    train_freq: TrainFreq, num_collected_steps: int, num_collected_episodes: int
) -> bool:
    """
    Whether an off-policy rollout continues.

    :param train_freq: steps or episodes to collect before an update
    :param num_collected_steps: steps so far
    :param num_collected_episodes: episodes so far
    :return: True while there are too few
    :raises ValueError: the unit is not a :class:`TrainFrequencyUnit`
    """
    if train_freq.unit == TrainFrequencyUnit.STEP:
        return num_collected_steps < train_freq.frequency
    if train_freq.unit == TrainFrequencyUnit.EPISODE:
        return num_collected_episodes < train_freq.frequency
    raise ValueError(
        "The unit of the `train_freq` must be either TrainFrequencyUnit.STEP "
        f"or TrainFrequencyUnit.EPISODE not '{train_freq.unit}'!"
    )


def check_train_freq(env: VecEnv, train_freq: TrainFreq) -> None:
    """
    :param env: the environments of an off-policy algorithm
    :param train_freq: what is to be collected before an update
    :raises AssertionError: that is nothing, or it is whole episodes of several environments
    """
    assert isinstance(env, VecEnv), f"You must pass a VecEnv, got {type(env).__name__}"
    assert train_freq.frequency > 0, (
        f"Should at least collect one step or episode, got train_freq={train_freq.frequency}."
    )
    assert env.num_envs == 1 or train_freq.unit == TrainFrequencyUnit.STEP, (
        f"You must use only one env when doing episodic training, got {env.num_envs}."
    )
