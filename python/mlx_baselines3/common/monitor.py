"""Episode returns, lengths and times of an environment, kept in memory and in a CSV file."""

__all__ = ["Monitor", "ResultsWriter", "get_monitor_files", "load_results"]

import csv
import json
import os
import time
from glob import escape, glob
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
from gymnasium.core import ActType, ObsType

if TYPE_CHECKING:
    import pandas


class Monitor(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """
    Record returns and lengths of an environment's episodes.

    The info of an episode's last step has ``info["episode"]`` with the return ``r``, the length ``l`` and the
    time ``t`` in seconds since the wrapper was created.

    :param env: the environment
    :param filename: file with one line per episode; None for no file. See :class:`ResultsWriter`
    :param allow_early_resets: allow a reset before the episode is over
    :param reset_keywords: required keyword arguments of every reset; their values are logged
    :param info_keywords: keys of the last step's info whose values are logged
    :param override_existing: overwrite the file if there is one, otherwise append to it
    """

    EXT = "monitor.csv"

    def __init__(
        self,
        env: "gym.Env[ObsType, ActType]",
        filename: str | None = None,
        allow_early_resets: bool = True,
        reset_keywords: tuple[str, ...] = (),
        info_keywords: tuple[str, ...] = (),
        override_existing: bool = True,
    ) -> None:
        super().__init__(env=env)
        self.t_start = time.time()
        self.results_writer: ResultsWriter | None = None
        if filename is not None:
            env_id = env.spec.id if env.spec is not None else None
            self.results_writer = ResultsWriter(
                filename,
                header={"t_start": self.t_start, "env_id": str(env_id)},
                extra_keys=(*reset_keywords, *info_keywords),
                override_existing=override_existing,
            )
        self.reset_keywords = reset_keywords
        self.info_keywords = info_keywords
        self.allow_early_resets = allow_early_resets
        self.rewards: list[float] = []
        self.needs_reset = True
        self.episode_returns: list[float] = []
        self.episode_lengths: list[int] = []
        self.episode_times: list[float] = []
        self.total_steps = 0
        self.current_reset_info: dict[str, Any] = {}

    def reset(self, **kwargs: Any) -> tuple[ObsType, dict[str, Any]]:
        """
        Start an episode.

        :param kwargs: arguments of the environment's reset; ``reset_keywords`` must be among them
        :return: first observation, info
        :raises RuntimeError: if the episode is not over and ``allow_early_resets`` is False
        :raises ValueError: if one of ``reset_keywords`` is missing
        """
        if not self.allow_early_resets and not self.needs_reset:
            raise RuntimeError(
                "Tried to reset an environment before done. If you want to allow early resets, "
                "wrap your env with Monitor(env, path, allow_early_resets=True)"
            )
        reset_info = {key: kwargs.get(key) for key in self.reset_keywords}
        for key, value in reset_info.items():
            if value is None:
                raise ValueError(f"Expected you to pass keyword argument {key} into reset")
        self.current_reset_info.update(reset_info)
        self.rewards = []
        self.needs_reset = False
        return self.env.reset(**kwargs)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Step the environment.

        :param action: the action
        :return: observation, reward, terminated, truncated, info
        :raises RuntimeError: if the episode is over or none has begun
        :raises KeyError: if the last info of an episode lacks one of ``info_keywords``
        """
        if self.needs_reset:
            raise RuntimeError("Tried to step environment that needs reset")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.rewards.append(float(reward))
        self.total_steps += 1
        if terminated or truncated:
            self.needs_reset = True
            info["episode"] = self._finish_episode(info)
        return observation, reward, terminated, truncated, info

    def _finish_episode(self, info: dict[str, Any]) -> dict[str, Any]:
        missing = [key for key in self.info_keywords if key not in info]
        if missing:
            raise KeyError(
                f"The info of the episode's last step lacks {missing}, required by info_keywords. "
                f"It has {list(info)}."
            )
        episode_return, episode_time = sum(self.rewards), time.time() - self.t_start
        self.episode_returns.append(episode_return)
        self.episode_lengths.append(len(self.rewards))
        self.episode_times.append(episode_time)
        episode = {"r": round(episode_return, 6), "l": len(self.rewards), "t": round(episode_time, 6)}
        episode.update({key: info[key] for key in self.info_keywords})
        episode.update(self.current_reset_info)
        if self.results_writer is not None:
            self.results_writer.write_row(episode)
        return episode

    def close(self) -> None:
        """Close the environment and the file."""
        super().close()
        if self.results_writer is not None:
            self.results_writer.close()

    def get_total_steps(self) -> int:
        """
        :return: number of steps since the wrapper was created
        """
        return self.total_steps

    def get_episode_rewards(self) -> list[float]:
        """
        :return: undiscounted return of every finished episode
        """
        return self.episode_returns

    def get_episode_lengths(self) -> list[int]:
        """
        :return: number of steps of every finished episode
        """
        return self.episode_lengths

    def get_episode_times(self) -> list[float]:
        """
        :return: end of every finished episode, in seconds since the wrapper was created
        """
        return self.episode_times


class LoadMonitorResultsError(Exception):
    """A folder contains no monitor file, or an invalid one."""


class ResultsWriter:
    """
    Write one CSV line per episode, under a comment line that holds a JSON header.

    :param filename: the file, or a folder; ``monitor.csv`` is added unless the name ends in it
    :param header: contents of the comment line; the start time under ``t_start``
    :param extra_keys: columns besides ``r``, ``l`` and ``t``
    :param override_existing: overwrite the file if there is one, otherwise append to it
    """

    def __init__(
        self,
        filename: str = "",
        header: dict[str, float | str] | None = None,
        extra_keys: tuple[str, ...] = (),
        override_existing: bool = True,
    ) -> None:
        if not filename.endswith(Monitor.EXT):
            is_dir = os.path.isdir(filename)
            filename = os.path.join(filename, Monitor.EXT) if is_dir else f"{filename}.{Monitor.EXT}"
        filename = os.path.realpath(filename)
        os.makedirs(os.path.dirname(filename), exist_ok=True)
        # csv writes its own line endings; the file must not translate them on Windows.
        self.file_handler = open(filename, "w" if override_existing else "a", newline="\n")  # noqa: SIM115
        self.logger = csv.DictWriter(self.file_handler, fieldnames=("r", "l", "t", *extra_keys))
        if self.file_handler.tell() == 0:
            self.file_handler.write(f"#{json.dumps(header or {})}\n")
            self.logger.writeheader()
        self.file_handler.flush()

    def write_row(self, epinfo: dict[str, Any]) -> None:
        """
        Write one episode and flush.

        :param epinfo: a value for every column
        """
        self.logger.writerow(epinfo)
        self.file_handler.flush()

    def close(self) -> None:
        """Close the file."""
        self.file_handler.close()

    def __del__(self) -> None:
        # Every row is flushed, so an unclosed writer loses nothing.
        if hasattr(self, "file_handler"):
            self.file_handler.close()


def get_monitor_files(path: str) -> list[str]:
    """
    List the monitor files of a folder.

    :param path: the folder
    :return: paths of the files, sorted
    """
    return sorted(glob(os.path.join(escape(os.fspath(path)), "*" + Monitor.EXT)))


def _read_monitor_file(file_name: str) -> tuple[dict[str, Any], "pandas.DataFrame"]:
    import pandas

    with open(file_name) as file_handler:
        first_line = file_handler.readline()
        if not first_line.startswith("#"):
            raise LoadMonitorResultsError(
                f"{file_name} is not a monitor file: expected '#' and JSON, got {first_line[:80]!r}."
            )
        return json.loads(first_line[1:]), pandas.read_csv(file_handler, index_col=None)


def load_results(path: str) -> "pandas.DataFrame":
    """
    Read all monitor files of a folder.

    :param path: the folder
    :return: one row per episode, sorted by its end; ``t`` counts seconds from the first start
    :raises LoadMonitorResultsError: if there is no monitor file, or one that cannot be read
    :raises ImportError: if pandas is missing
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "pandas is required for loading results. Install it with `pip install pandas` or "
            "`pip install 'mlx-baselines3[extra]'`."
        ) from error
    monitor_files = get_monitor_files(path)
    if len(monitor_files) == 0:
        raise LoadMonitorResultsError(f"No monitor files of the form *{Monitor.EXT} found in {path}")
    frames, starts = [], []
    for file_name in monitor_files:
        header, frame = _read_monitor_file(file_name)
        starts.append(header["t_start"])
        # pandas deprecates empty frames in concat: their columns have no dtype.
        if not frame.empty:
            frame["t"] += header["t_start"]
            frames.append(frame)
    if not frames:
        return pandas.DataFrame(columns=["index", "r", "l", "t"])
    results = pandas.concat(frames).sort_values("t").reset_index()
    results["t"] -= min(starts)
    return results
