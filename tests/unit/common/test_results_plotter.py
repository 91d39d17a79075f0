"""Learning curves."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from mlx_baselines3.common import results_plotter

matplotlib.use("Agg")


@pytest.fixture
def episodes():
    return pd.DataFrame({"r": [1.0, 2.0, 4.0], "l": [10, 20, 30], "t": [3600.0, 5400.0, 7200.0]})


@pytest.mark.parametrize(
    ("axis", "x"),
    [("timesteps", [10, 30, 60]), ("episodes", [0, 1, 2]), ("walltime_hrs", [1.0, 1.5, 2.0])],
)
def test_axes(episodes, axis, x):
    got_x, got_y = results_plotter.ts2xy(episodes, axis)
    assert got_x.tolist() == x
    assert got_y.tolist() == [1.0, 2.0, 4.0]


def test_unknown_axis(episodes):
    with pytest.raises(NotImplementedError, match="x_axis='days'"):
        results_plotter.ts2xy(episodes, "days")


def test_windows():
    windows = results_plotter.rolling_window(np.arange(4), 3)
    assert windows.tolist() == [[0, 1, 2], [1, 2, 3]]
    x, y = results_plotter.window_func(np.array([10, 20, 30]), np.array([1.0, 3.0, 8.0]), 2, np.mean)
    assert x.tolist() == [20, 30]
    assert y.tolist() == [2.0, 5.5]
    with pytest.raises(ValueError, match="window"):
        results_plotter.rolling_window(np.arange(2), 3)


def write_monitor(folder, lengths):
    folder.mkdir()
    rows = "\n".join(f"{i}.0,{length},{i}.5" for i, length in enumerate(lengths))
    (folder / "0.monitor.csv").write_text(f'#{{"t_start": 0.0, "env_id": "X"}}\nr,l,t\n{rows}\n')
    return str(folder)


def test_plot_results_draws_points_and_a_mean_for_long_runs(tmp_path):
    from matplotlib import pyplot as plt

    short, long = write_monitor(tmp_path / "short", [5] * 10), write_monitor(tmp_path / "long", [5] * 150)
    results_plotter.plot_results([short, long], None, "timesteps", "two runs")
    axes = plt.gca()
    assert [len(points.get_offsets()) for points in axes.collections] == [10, 150]
    (mean,) = axes.lines
    # the mean of returns 0..99 at the end of episode 100
    assert mean.get_xydata()[0].tolist() == [500.0, 49.5]
    assert len(mean.get_xydata()) == 51
    assert axes.get_xlim() == (0.0, 750.0)
    plt.close("all")


def test_plot_results_leaves_out_later_episodes(tmp_path):
    from matplotlib import pyplot as plt

    results_plotter.plot_results([write_monitor(tmp_path / "a", [10] * 10)], 45, "episodes", "cut")
    (points,) = plt.gca().collections
    assert points.get_offsets()[:, 1].tolist() == [0.0, 1.0, 2.0, 3.0]
    plt.close("all")


WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from mlx_baselines3 import PPO
from mlx_baselines3.common.monitor import Monitor, load_results
try:
    load_results({folder!r})
except ImportError as error:
    print(error)
import mlx_baselines3.common.results_plotter
"""


@pytest.mark.parametrize("missing", ["pandas", "matplotlib"])
def test_what_is_missing_is_named_where_it_is_imported(missing, tmp_path):
    """As in SB3: the package works without them, plotting fails at its import, `load_results` when called."""
    program = WITHOUT.format(missing=missing, folder=write_monitor(tmp_path / "run", [1]))
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 1
    sentence = f"ImportError: {missing} is required for plotting: `pip install {missing}`"
    assert process.stderr.splitlines()[-1].startswith(sentence)
    expected = "pandas is required for loading results" if missing == "pandas" else ""
    assert process.stdout.startswith(expected)
    assert bool(process.stdout) is bool(expected)
