"""Learning curves from the files that ``Monitor`` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_baselines3.common.monitor import load_results

_MISSING = "{0} is required for plotting: `pip install {0}`."

# As in SB3, missing packages are reported when this module is imported, not after hours of training.
try:
    import pandas as pd
except ImportError as error:
    raise ImportError(_MISSING.format("pandas")) from error
try:
    from matplotlib import pyplot as plt
except ImportError as error:
    raise ImportError(_MISSING.format("matplotlib")) from error

X_TIMESTEPS = "timesteps"
X_EPISODES = "episodes"
X_WALLTIME = "walltime_hrs"
POSSIBLE_X_AXES = [X_TIMESTEPS, X_EPISODES, X_WALLTIME]
EPISODES_WINDOW = 100


def rolling_window(array: np.ndarray, window: int) -> np.ndarray:
    """
    View an array through a window that moves along its last axis.

    :param array: ``(..., n)``
    :param window: length of the window, at most ``n``
    :return: ``(..., n - window + 1, window)``, a read-only view
    :raises ValueError: the window is longer than the array
    """
    return np.lib.stride_tricks.sliding_window_view(array, window, axis=-1)


def window_func(
    var_1: np.ndarray, var_2: np.ndarray, window: int, func: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray]:
    """
    Apply a function to each window of an array.

    :param var_1: positions of the values, ``(n,)``
    :param var_2: the values, ``(n,)``
    :param window: length of the window
    :param func: such as ``np.mean``; called with ``axis=-1``
    :return: end position and function value of each window, both ``(n - window + 1,)``
    """
    return var_1[window - 1 :], func(rolling_window(var_2, window), axis=-1)


def ts2xy(data_frame: pd.DataFrame, x_axis: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Extract the two axes of a curve from Monitor's columns.

    :param data_frame: one row per episode: return ``r``, length ``l``, seconds since the start ``t``
    :param x_axis: ``"timesteps"``, ``"episodes"`` or ``"walltime_hrs"``
    :return: that axis, and the returns
    :raises NotImplementedError: the axis is none of these
    """
    returns = data_frame.r.to_numpy()
    if x_axis == X_TIMESTEPS:
        return np.cumsum(data_frame.l.to_numpy()), returns
    if x_axis == X_EPISODES:
        return np.arange(len(data_frame)), returns
    if x_axis == X_WALLTIME:
        return data_frame.t.to_numpy() / 3600.0, returns
    raise NotImplementedError(f"Unsupported {x_axis=}, please use one of {POSSIBLE_X_AXES}")


def plot_curves(
    xy_list: list[tuple[np.ndarray, np.ndarray]],
    x_axis: str,
    title: str,
    figsize: tuple[int, int] = (8, 2),
) -> None:
    """
    Plot points, and the mean over the last 100 episodes if there are as many.

    :param xy_list: the curves
    :param x_axis: label of the horizontal axis
    :param title: title
    :param figsize: width and height in inches
    """
    plt.figure(title, figsize=figsize)
    for x, y in xy_list:
        plt.scatter(x, y, s=2)
        if x.shape[0] >= EPISODES_WINDOW:
            plt.plot(*window_func(x, y, EPISODES_WINDOW, np.mean))
    plt.xlim(0, max(x[-1] for x, _ in xy_list))
    plt.title(title)
    plt.xlabel(x_axis)
    plt.ylabel("Episode Rewards")
    plt.tight_layout()


def plot_results(
    dirs: list[str],
    num_timesteps: int | None,
    x_axis: str,
    task_name: str,
    figsize: tuple[int, int] = (8, 2),
) -> None:
    """
    Plot the curves of one or more runs.

    :param dirs: folders with Monitor's files, one for each run
    :param num_timesteps: omit later episodes; ``None`` keeps all
    :param x_axis: ``"timesteps"``, ``"episodes"`` or ``"walltime_hrs"``
    :param task_name: title
    :param figsize: width and height in inches
    """
    curves = []
    for folder in dirs:
        data_frame = load_results(folder)
        if num_timesteps is not None:
            data_frame = data_frame[data_frame.l.cumsum() <= num_timesteps]
        curves.append(ts2xy(data_frame, x_axis))
    plot_curves(curves, x_axis, task_name, figsize)
