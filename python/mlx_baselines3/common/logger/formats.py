"""Tables, JSON lines and CSV; import the names from ``common.logger``."""

from __future__ import annotations

import json
import os
import sys
import warnings
from io import TextIOBase
from typing import Any, TextIO

import numpy as np

from mlx_baselines3._atomic import atomic_open
from mlx_baselines3.common.logger.values import host_values, refuse_media

# For each key, the formats that omit it.
Excluded = dict[str, tuple[str, ...]]


class KVWriter:
    """Writes named values."""

    def write(self, key_values: dict[str, Any], key_excluded: Excluded, step: int = 0) -> None:
        """
        Write one row.

        :param key_values: name -> value
        :param key_excluded: name -> formats that omit it
        :param step: environment steps so far
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the files."""
        raise NotImplementedError


class SeqWriter:
    """Writes lines of text."""

    def write_sequence(self, sequence: list[str]) -> None:
        """
        Write one line.

        :param sequence: its words
        """
        raise NotImplementedError


def filter_excluded_keys(key_values: dict[str, Any], key_excluded: Excluded, _format: str) -> dict[str, Any]:
    """
    Remove the values that a format omits.

    :param key_values: name -> value
    :param key_excluded: name -> formats that omit it
    :param _format: the format
    :return: the remaining values
    """
    return {key: value for key, value in key_values.items() if _format not in (key_excluded.get(key) or ())}


class HumanOutputFormat(KVWriter, SeqWriter):
    """
    Human-readable tables, at most ``2 * max_length + 7`` characters wide.

    :param filename_or_file: path to write to, or an open text file
    :param max_length: longer names and values are truncated; may be changed later
    :raises ValueError: neither a path nor a file; or, while writing, two truncated names are the same
    """

    def __init__(self, filename_or_file: str | TextIO, max_length: int = 36) -> None:
        self.max_length = max_length
        self.file: TextIO
        if isinstance(filename_or_file, str):
            self.file = open(filename_or_file, "w", encoding="utf-8")  # noqa: SIM115  lives as long as self
            self.own_file = True
        # Some replacements of stdout only have `write`.
        elif isinstance(filename_or_file, TextIOBase) or hasattr(filename_or_file, "write"):
            self.file = filename_or_file
            self.own_file = False
        else:
            raise ValueError(f"Expected file or str, got {filename_or_file}")

    def _rows(self, key_values: dict[str, Any], key_excluded: Excluded) -> dict[tuple[str, str], str]:
        rows: dict[tuple[str, str], str] = {}
        tag = ""
        for key, value in sorted(host_values(key_values).items(), key=lambda item: item[0]):
            excluded = key_excluded.get(key) or ()
            if "stdout" in excluded or "log" in excluded:
                continue
            refuse_media(value, ["stdout", "log"])
            text = f"{value:<8.3g}" if isinstance(value, float) else str(value)
            if key.find("/") > 0:
                tag = key[: key.find("/") + 1]
                rows[(tag, self._truncate(tag))] = ""
            if tag and tag in key:
                key = f"   {key[len(tag) :]}"
            cut = self._truncate(key)
            if (tag, cut) in rows:
                raise ValueError(
                    f"Key '{key}' truncated to '{cut}' that already exists. Consider increasing `max_length`."
                )
            rows[(tag, cut)] = self._truncate(text)
        return rows

    def write(self, key_values: dict[str, Any], key_excluded: Excluded, step: int = 0) -> None:
        rows = self._rows(key_values, key_excluded)
        if not rows:
            warnings.warn("Tried to write empty key-value dict", stacklevel=2)
            return
        key_width = max(len(key) for _, key in rows)
        value_width = max(map(len, rows.values()))
        dashes = "-" * (key_width + value_width + 7)
        lines = [f"| {key:<{key_width}} | {value:<{value_width}} |" for (_, key), value in rows.items()]
        table = "\n".join([dashes, *lines, dashes]) + "\n"
        # tqdm moves a progress bar out of the way; without tqdm imported there is no bar.
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None and getattr(self.file, "name", None) == "<stdout>":
            tqdm.tqdm.write(table, file=sys.stdout, end="")
        else:
            self.file.write(table)
        self.file.flush()

    def _truncate(self, string: str) -> str:
        return string if len(string) <= self.max_length else string[: self.max_length - 3] + "..."

    def write_sequence(self, sequence: list[str]) -> None:
        self.file.write(" ".join(sequence) + "\n")
        self.file.flush()

    def close(self) -> None:
        if self.own_file:
            self.file.close()


def _json_value(value: Any) -> Any:
    refuse_media(value, ["json"])
    if isinstance(value, (np.ndarray, np.generic)):
        return float(value.item()) if value.size == 1 and value.ndim <= 1 else value.tolist()
    # An array or scalar of another library, such as torch.
    if hasattr(value, "dtype"):
        return float(value.item()) if value.shape == () or len(value) == 1 else value.tolist()
    return value


class JSONOutputFormat(KVWriter):
    """
    One JSON object per line.

    :param filename: path to write to
    """

    def __init__(self, filename: str) -> None:
        self.file = open(filename, "w", encoding="utf-8")  # noqa: SIM115  lives as long as self

    def write(self, key_values: dict[str, Any], key_excluded: Excluded, step: int = 0) -> None:
        kept = filter_excluded_keys(host_values(key_values), key_excluded, "json")
        self.file.write(json.dumps({key: _json_value(value) for key, value in kept.items()}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class CSVOutputFormat(KVWriter):
    """
    Comma-separated values. A new name adds a column: the file is rewritten atomically, and earlier rows are
    empty in that column.

    :param filename: path to write to
    """

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.file = open(filename, "w+", encoding="utf-8")  # noqa: SIM115  lives as long as self
        self.keys: list[str] = []
        self.separator = ","
        self.quotechar = '"'

    def _cell(self, value: Any) -> str:
        if value is None:
            return ""
        text = str(value)
        if isinstance(value, str) or self.separator in text or "\n" in text:
            return self.quotechar + text.replace(self.quotechar, 2 * self.quotechar) + self.quotechar
        return text

    def _add_columns(self, new_keys: list[str]) -> None:
        self.file.seek(0)
        _, *lines = self.file.readlines() or [""]
        keys = [*self.keys, *new_keys]
        text = [self.separator.join(keys) + "\n"]
        quotes = 0
        for line in lines:
            # A line break inside quotes does not end the row.
            quotes += line.count(self.quotechar)
            ends_row = quotes % 2 == 0
            text.append(line[:-1] + self.separator * len(new_keys) + "\n" if ends_row else line)
        self.file.close()
        try:
            with atomic_open(self.filename) as stream:
                stream.write("".join(text).replace("\n", os.linesep).encode())
        finally:
            self.file = open(self.filename, "r+", encoding="utf-8")  # noqa: SIM115  lives as long as self
            self.file.seek(0, os.SEEK_END)
        self.keys = keys

    def write(self, key_values: dict[str, Any], key_excluded: Excluded, step: int = 0) -> None:
        kept = filter_excluded_keys(host_values(key_values), key_excluded, "csv")
        for value in kept.values():
            refuse_media(value, ["csv"])
        new_keys = [key for key in kept if key not in self.keys]
        if new_keys:
            self._add_columns(new_keys)
        self.file.write(self.separator.join(self._cell(kept.get(key)) for key in self.keys) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
