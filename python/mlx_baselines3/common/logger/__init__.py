"""Loggers that write tables, files and TensorBoard events."""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.logger.formats import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    SeqWriter,
    filter_excluded_keys,
)
from mlx_baselines3.common.logger.tensorboard import SummaryWriter, TensorBoardOutputFormat
from mlx_baselines3.common.logger.values import (
    Figure,
    FormatUnsupportedError,
    HParam,
    Image,
    Video,
    host_values,
)

if TYPE_CHECKING:
    import pandas
    from tqdm import tqdm as tqdm
else:
    __getattr__ = lazy_names(globals(), "np", optional={"tqdm": "tqdm:tqdm"})

__all__ = [
    "DEBUG",
    "DISABLED",
    "ERROR",
    "INFO",
    "WARN",
    "CSVOutputFormat",
    "Figure",
    "FormatUnsupportedError",
    "HParam",
    "HumanOutputFormat",
    "Image",
    "JSONOutputFormat",
    "KVWriter",
    "Logger",
    "SeqWriter",
    "SummaryWriter",
    "TensorBoardOutputFormat",
    "Video",
    "configure",
    "filter_excluded_keys",
    "make_output_format",
    "read_csv",
    "read_json",
]

DEBUG = 10
INFO = 20
WARN = 30
ERROR = 40
DISABLED = 50


def make_output_format(_format: str, log_dir: str, log_suffix: str = "") -> KVWriter:
    """
    Create an output.

    :param _format: ``"stdout"``, ``"log"``, ``"json"``, ``"csv"`` or ``"tensorboard"``
    :param log_dir: folder to write to; created if missing
    :param log_suffix: added to the file name, before its extension
    :return: the output
    :raises ValueError: the format is unknown
    """
    os.makedirs(log_dir, exist_ok=True)
    if _format == "stdout":
        return HumanOutputFormat(sys.stdout)
    if _format == "log":
        return HumanOutputFormat(os.path.join(log_dir, f"log{log_suffix}.txt"))
    if _format == "json":
        return JSONOutputFormat(os.path.join(log_dir, f"progress{log_suffix}.json"))
    if _format == "csv":
        return CSVOutputFormat(os.path.join(log_dir, f"progress{log_suffix}.csv"))
    if _format == "tensorboard":
        return TensorBoardOutputFormat(log_dir)
    raise ValueError(
        f"Unknown format specified: {_format}. Expected 'stdout', 'log', 'json', 'csv' or 'tensorboard'."
    )


class Logger:
    """
    Collects named values until :meth:`dump` writes them as one row.

    :param folder: folder of the files, ``None`` for none
    :param output_formats: the outputs
    """

    def __init__(self, folder: str | None, output_formats: list[KVWriter]) -> None:
        self.name_to_value: dict[str, Any] = defaultdict(float)
        self.name_to_count: dict[str, int] = defaultdict(int)
        self.name_to_excluded: dict[str, tuple[str, ...]] = {}
        self.level = INFO
        self.dir = folder
        self.output_formats = output_formats

    @staticmethod
    def to_tuple(string_or_tuple: str | tuple[str, ...] | None) -> tuple[str, ...]:
        """
        :param string_or_tuple: one format, several, or none
        :return: a tuple of formats
        """
        if string_or_tuple is None:
            return ("",)
        return string_or_tuple if isinstance(string_or_tuple, tuple) else (string_or_tuple,)

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        """
        Record a value; :meth:`dump` writes the last one.
        An MLX array is read when the row is written, so recording one does not wait for the device.

        :param key: its name, ``"group/name"`` puts it under a heading
        :param value: a number, a string, an array, a :class:`Video`, :class:`Image`, ...
        :param exclude: formats that omit it
        """
        self.name_to_value[key] = value
        self.name_to_excluded[key] = self.to_tuple(exclude)

    def record_mean(
        self, key: str, value: float | None, exclude: str | tuple[str, ...] | None = None
    ) -> None:
        """
        Record a value; :meth:`dump` writes the mean since the last row.

        :param key: its name
        :param value: a number; ``None`` is ignored
        :param exclude: formats that omit it
        """
        if value is None:
            return
        mean, count = self.name_to_value[key], self.name_to_count[key]
        self.name_to_value[key] = mean * count / (count + 1) + value / (count + 1)
        self.name_to_count[key] = count + 1
        self.name_to_excluded[key] = self.to_tuple(exclude)

    def dump(self, step: int = 0) -> None:
        """
        Write the recorded values as one row, and start the next.

        :param step: environment steps so far
        """
        if self.level == DISABLED:
            return
        row = host_values(self.name_to_value)
        for output in self.output_formats:
            output.write(row, self.name_to_excluded, step)
        self.name_to_value.clear()
        self.name_to_count.clear()
        self.name_to_excluded.clear()

    def log(self, *args: Any, level: int = INFO) -> None:
        """
        Write a line of text to the console and the text file.

        :param args: its words
        :param level: DEBUG=10, INFO=20, WARN=30, ERROR=40; lines below the logger's level are not written
        """
        if self.level <= level:
            self._do_log(args)

    def debug(self, *args: Any) -> None:
        """
        :meth:`log` at level DEBUG.

        :param args: words of the line
        """
        self.log(*args, level=DEBUG)

    def info(self, *args: Any) -> None:
        """
        :meth:`log` at level INFO.

        :param args: words of the line
        """
        self.log(*args, level=INFO)

    def warn(self, *args: Any) -> None:
        """
        :meth:`log` at level WARN.

        :param args: words of the line
        """
        self.log(*args, level=WARN)

    def error(self, *args: Any) -> None:
        """
        :meth:`log` at level ERROR.

        :param args: words of the line
        """
        self.log(*args, level=ERROR)

    def set_level(self, level: int) -> None:
        """
        :param level: DEBUG=10, INFO=20, WARN=30, ERROR=40; DISABLED=50 also silences :meth:`dump`
        """
        self.level = level

    def get_dir(self) -> str | None:
        """
        :return: folder of the files, ``None`` for none
        """
        return self.dir

    def close(self) -> None:
        """Close all outputs."""
        for output in self.output_formats:
            output.close()

    def _do_log(self, args: tuple[Any, ...]) -> None:
        for output in self.output_formats:
            if isinstance(output, SeqWriter):
                output.write_sequence([str(arg) for arg in args])


def configure(folder: str | None = None, format_strings: list[str] | None = None) -> Logger:
    """
    Create a logger.

    :param folder: folder of the files; by default the environment variable ``SB3_LOGDIR`` or a new temporary
        folder
    :param format_strings: its outputs; by default the environment variable ``SB3_LOG_FORMAT`` (separated by
        commas) or ``["stdout", "log", "csv"]``
    :return: the logger
    """
    if folder is None:
        folder = os.getenv("SB3_LOGDIR")
    if folder is None:
        stamp = datetime.datetime.now().strftime("SB3-%Y-%m-%d-%H-%M-%S-%f")
        folder = os.path.join(tempfile.gettempdir(), stamp)
    assert isinstance(folder, str), f"The log folder must be a str, got {folder!r}."
    os.makedirs(folder, exist_ok=True)

    if format_strings is None:
        format_strings = os.getenv("SB3_LOG_FORMAT", "stdout,log,csv").split(",")
    format_strings = [name for name in format_strings if name]
    logger = Logger(folder, [make_output_format(name, folder) for name in format_strings])
    if format_strings and format_strings != ["stdout"]:
        logger.log(f"Logging to {folder}")
    return logger


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "Reading logs needs pandas, which is not installed: `pip install 'mlx-baselines3[extra]'`."
        ) from error
    return pandas


def read_json(filename: str) -> pandas.DataFrame:
    """
    Read a file of :class:`JSONOutputFormat`.

    :param filename: its path
    :return: one row per dump
    :raises ImportError: pandas is not installed
    """
    with open(filename, encoding="utf-8") as file:
        return _pandas().DataFrame([json.loads(line) for line in file])


def read_csv(filename: str) -> pandas.DataFrame:
    """
    Read a file of :class:`CSVOutputFormat`.

    :param filename: its path
    :return: one row per dump
    :raises ImportError: pandas is not installed
    """
    return _pandas().read_csv(filename, index_col=None, comment="#")
