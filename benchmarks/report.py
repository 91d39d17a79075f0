"""Measured rows as Markdown tables."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    :param head: names of the columns
    :param rows: cells
    :return: a Markdown table
    """
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def digits(number: float) -> str:
    """
    :param number: any
    :return: three significant digits, without an exponent
    """
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.{1 if abs(number) >= 10 else 2}f}"


def duration(seconds: float) -> str:
    """
    :param seconds: how long
    :return: with a suitable unit
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds * 1e9)} ns"


def rate(seconds: float) -> str:
    """
    :param seconds: of one step
    :return: steps per second
    """
    steps = 1.0 / seconds
    for unit, size in ((" M", 1e6), (" k", 1e3)):
        if steps >= size:
            return f"{digits(steps / size)}{unit}/s"
    return f"{digits(steps)} /s"


def figure(row: Row, seconds: str, threads: str) -> str:
    """
    :param row: measured
    :param seconds: key of the time of a unit
    :param threads: key of the thread count
    :return: time or rate, with the thread count that was faster
    """
    text = rate(row[seconds]) if row["unit"] == "step" else duration(row[seconds])
    return f"{text} ({row[threads]} t)"


def verdict(row: Row) -> str:
    """
    :param row: measured
    :return: whether the target is reached, or that the other side is faster
    """
    reach = row["reach"]
    lost = "the other side is faster" if row["ratio"] < 1 and (reach is None or reach >= 1) else ""
    if reach is None:
        return lost
    met = "reached" if row["ratio"] >= reach else "**not reached**"
    return f"{reach:g}: {met}" + (f"; {lost}" if lost else "")


def comparisons(rows: Iterable[Row]) -> str:
    """
    :param rows: of ``timing.measure``
    :return: their table
    """
    cells, last = [], None
    for row in rows:
        ours = figure(row, "ours", "threads")
        # The name and this package's figure are shown once per comparison.
        if row["what"] == last:
            named, ours = "", ""
        else:
            named = last = row["what"]
        if "peer" not in row:
            cells.append((named, ours, "", "", "", ""))
            continue
        if "missing" in row:
            cells.append((named, ours, row["peer"], row["missing"], "", ""))
            continue
        spread = f"{digits(row['ratio_low'])} to {digits(row['ratio_high'])}"
        ratio = f"{digits(row['ratio'])} ({spread})"
        theirs = figure(row, "theirs", "peer_threads")
        cells.append((named, ours, row["peer"], theirs, ratio, verdict(row)))
    return table(
        ("what", "mlx_baselines3", "against", "its figure", "times as fast (range)", "to reach"), cells
    )


def write_marked(file: pathlib.Path, name: str, text: str) -> None:
    """
    Replace the text between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    :param file: a page with these marks
    :param name: of a part
    :param text: the new text
    :raises ValueError: the marks are missing
    """
    page = file.read_text()
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if page.count(first) != 1 or page.count(last) != 1:
        raise ValueError(f"{file} must have one {first.strip()} and one {last} to be written to.")
    before, rest = page.split(first)
    after = rest.split(last)[1]
    file.write_text(f"{before}{first}{text.strip()}\n{last}{after}")
