"""Cost of a step by the number of environments: a table and a plot."""

import os
import pathlib
import statistics
from typing import Any

import environments
import report
from timing import Effort, Pool, Runner, Side, WorkerFailed, in_turn

import peers

_ENV = "CartPole-v1"


def _sides(n_envs: int, program: str | None, seconds: float) -> list[Side]:
    sides = []
    for threads in range(1, 1 + min(2, os.cpu_count() or 1)):
        name = f"{threads} thread{'s' * (threads > 1)}"
        ours = environments.native(_ENV, n_envs, threads=(threads,))
        sides.append(Side(**{**vars(ours), "label": f"mlx_baselines3, {name}"}))
        if program is not None:
            loop = environments.bare(_ENV, n_envs, program, seconds, threads=(threads,))
            sides.append(Side(**{**vars(loop), "label": f"bare Rust loop, {name}"}))
    return [
        *sides,
        *(environments.other(_ENV, n_envs, peer, threads=(1,)) for peer in ("gymnasium", "rlox", "envpool")),
    ]


def _measure(pool: Pool, n_envs: int, program: str | None, effort: Effort) -> dict[str, float]:
    """Seconds of a step by side; a peer that cannot run is absent."""
    runners = []
    for side in _sides(n_envs, program, effort.seconds):
        try:
            runners.append(Runner(pool, side, effort))
        except WorkerFailed:
            continue
    times = in_turn(runners, effort)
    for runner in runners:
        runner.close()
    return {runner.side.label: statistics.median(own) for runner, own in zip(runners, times, strict=True)}


def plot(found: dict[int, dict[str, float]], file: pathlib.Path) -> None:
    """
    :param found: seconds of a step by number of environments and side
    :param file: PNG to write
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), dpi=120)
    colours: dict[str, Any] = {}
    for label in {label: None for row in found.values() for label in row}:
        points = [(n, 1 / row[label]) for n, row in found.items() if label in row]
        name = label.split(",")[0]
        dashed = "2 threads" in label
        (line,) = axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=4,
            linestyle="--" if dashed else "-",
            color=colours.get(name),
            label=label,
        )
        colours[name] = line.get_color()
    axes.set(xscale="log", yscale="log", xlabel="environments", ylabel="steps per second", title=_ENV)
    axes.set_xticks(list(found), [f"{n:,}" for n in found])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def measure_all(
    pool: Pool, effort: Effort, loop: peers.Interpreter, folder: pathlib.Path, quick: bool
) -> tuple[str, Any]:
    """
    :param pool: child processes
    :param effort: how long
    :param loop: the bare Rust loop
    :param folder: for the plot
    :param quick: three sizes instead of nine
    :return: table and numbers
    """
    effort = Effort(min(effort.repeats, 5), min(effort.seconds, 0.05))
    sizes = [4**power for power in range(9)]
    found = {n: _measure(pool, n, loop.python, effort) for n in (sizes[::4] if quick else sizes)}
    labels = list({label: None for row in found.values() for label in row})
    cells = []
    for n_envs, row in found.items():
        one, bare = row["mlx_baselines3, 1 thread"], row.get("bare Rust loop, 1 thread")
        share = report.digits(one / bare) if bare else ""
        cells.append((f"{n_envs:,}", *(report.rate(row[x]) if x in row else "" for x in labels), share))
    text = report.table(("environments", *labels, "bare loop / ours, 1 thread"), cells)
    file = folder / "benchmarks_sweep.png"
    try:
        plot(found, file)
    except ImportError as missing:
        return f"{text}\n\nNo plot: {missing}.", found
    return f"{text}\n\n![{_ENV}: steps per second by number of environments]({file.name})", found
