import json
import sys

import gymnasium as gym
import numpy as np
import pandas
import pytest
from gymnasium import spaces

from mlx_baselines3.common.monitor import (
    LoadMonitorResultsError,
    Monitor,
    ResultsWriter,
    get_monitor_files,
    load_results,
)


class Thirds(gym.Env):
    """Rewards of one third; an episode lasts three steps."""

    observation_space = spaces.Box(-1, 1, shape=(1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.t = 0

    def reset(self, *, seed=None, options=None, level=None):
        self.t = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        return (
            np.zeros(1, dtype=np.float32),
            np.float32(1 / 3),
            self.t == 3,
            False,
            {"mark": "x", "t": self.t},
        )


def play(env, episodes, **kwargs):
    infos = []
    for _ in range(episodes):
        env.reset(**kwargs)
        for _ in range(3):
            infos.append(env.step(0)[4])
    return infos


def test_episode_info_and_counters():
    env = Monitor(Thirds())
    infos = play(env, 2)
    assert ["episode" in info for info in infos] == [False, False, True] * 2
    episode = infos[2]["episode"]
    # Three times the float32 nearest to a third, rounded to six places.
    assert episode["r"] == 1.0
    assert episode["l"] == 3
    assert 0 <= episode["t"] <= infos[5]["episode"]["t"]
    assert env.get_total_steps() == 6
    assert env.get_episode_lengths() == [3, 3]
    np.testing.assert_allclose(env.get_episode_rewards(), [1, 1], atol=1e-6)
    assert len(env.get_episode_times()) == 2


def test_file_layout(tmp_path):
    env = Monitor(
        Thirds(),
        str(tmp_path / "missing" / "log"),
        reset_keywords=("level",),
        info_keywords=("mark",),
    )
    env.reset(level=4)
    for _ in range(3):
        env.step(0)
    env.close()
    lines = (tmp_path / "missing" / "log.monitor.csv").read_text().splitlines()
    assert json.loads(lines[0][1:]) == {"t_start": env.t_start, "env_id": "None"}
    assert lines[0][0] == "#"
    assert lines[1] == "r,l,t,level,mark"
    values = lines[2].split(",")
    assert values[:2] == ["1.0", "3"]
    assert values[3:] == ["4", "x"]
    assert len(lines) == 3


def test_env_id_of_a_registered_environment(tmp_path):
    Monitor(gym.make("CartPole-v1"), str(tmp_path / "monitor.csv")).close()
    header = (tmp_path / "monitor.csv").read_text().splitlines()[0]
    assert json.loads(header[1:])["env_id"] == "CartPole-v1"


def test_order_of_calls_is_enforced():
    env = Monitor(Thirds(), allow_early_resets=False)
    with pytest.raises(RuntimeError, match="needs reset"):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(RuntimeError, match="before done"):
        env.reset()
    env.step(0)
    env.step(0)
    with pytest.raises(RuntimeError, match="needs reset"):
        env.step(0)
    env.reset()


def test_missing_keywords_are_named():
    env = Monitor(Thirds(), reset_keywords=("level",), info_keywords=("absent",))
    with pytest.raises(ValueError, match="level"):
        env.reset()
    with pytest.raises(KeyError, match="absent"):
        play(env, 1, level=1)


def test_writer_paths_and_appending(tmp_path):
    ResultsWriter(str(tmp_path)).close()
    assert (tmp_path / "monitor.csv").read_bytes() == b"#{}\nr,l,t\r\n"
    path = str(tmp_path / "a")
    for reward in (1.0, 2.0):
        writer = ResultsWriter(path, header={"t_start": 0.0}, override_existing=False)
        writer.write_row({"r": reward, "l": 1, "t": reward})
        writer.close()
    assert load_results_of(tmp_path / "a.monitor.csv") == [1, 2]
    ResultsWriter(path, header={"t_start": 0.0}).close()
    assert load_results_of(tmp_path / "a.monitor.csv") == []


def load_results_of(path):
    return pandas.read_csv(path, skiprows=1)["r"].tolist()


def write(folder, name, start, rows):
    text = f'#{{"t_start": {start}, "env_id": "E"}}\nr,l,t\n' + "".join(f"{r},{n},{t}\n" for r, n, t in rows)
    (folder / name).write_text(text)


def test_results_are_merged_by_time(tmp_path):
    write(tmp_path, "0.monitor.csv", 100.0, [(1, 10, 5.0), (2, 20, 30.0)])
    write(tmp_path, "1.monitor.csv", 110.0, [(3, 30, 1.0)])
    write(tmp_path, "2.monitor.csv", 90.0, [])
    (tmp_path / "other.csv").write_text("not one of them")
    assert [name.rsplit("/")[-1] for name in get_monitor_files(str(tmp_path))] == [
        "0.monitor.csv",
        "1.monitor.csv",
        "2.monitor.csv",
    ]
    frame = load_results(str(tmp_path))
    assert list(frame.columns) == ["index", "r", "l", "t"]
    # Counted from the first start, 90.
    assert frame[["r", "l", "t"]].to_numpy().tolist() == [[1, 10, 15], [3, 30, 21], [2, 20, 40]]


def test_results_of_empty_broken_and_missing_files(tmp_path):
    with pytest.raises(LoadMonitorResultsError, match="No monitor files"):
        load_results(str(tmp_path))
    write(tmp_path, "monitor.csv", 1.0, [])
    assert list(load_results(tmp_path).columns) == ["index", "r", "l", "t"]
    (tmp_path / "broken.monitor.csv").write_text("r,l,t\n1,2,3\n")
    with pytest.raises(LoadMonitorResultsError, match=r"broken\.monitor\.csv"):
        load_results(str(tmp_path))


def test_special_characters_in_the_folder_name(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    write(folder, "monitor.csv", 1.0, [(1, 1, 1)])
    assert len(load_results(str(folder))) == 1


def test_pandas_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pandas.*mlx-baselines3\[extra\]"):
        load_results(str(tmp_path))


def test_pandas_reads_the_file_by_itself(tmp_path):
    env = Monitor(Thirds(), str(tmp_path / "run"), reset_keywords=("level",), info_keywords=("mark",))
    for level in (1, 2):
        env.reset(level=level)
        for _ in range(3):
            env.step(0)
    env.close()
    table = pandas.read_csv(tmp_path / "run.monitor.csv", skiprows=1)
    assert list(table.columns) == ["r", "l", "t", "level", "mark"]
    assert table["r"].tolist() == [1.0, 1.0]
    assert table["l"].tolist() == [3, 3]
    assert table["level"].tolist() == [1, 2]
    assert table["t"].is_monotonic_increasing
