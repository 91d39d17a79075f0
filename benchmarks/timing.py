"""Interleaved measurements in child processes, and their statistics."""

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import peers

# Seconds after which a worker without a reply counts as stuck.
_PATIENCE = 300.0
_WORKER = pathlib.Path(__file__).with_name("worker.py")


@dataclasses.dataclass(frozen=True)
class Effort:
    """
    Length of a measurement.

    :param repeats: turns of each side
    :param seconds: minimum time of a turn
    """

    repeats: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Side:
    """
    One implementation of the work of a figure.

    :param label: its name in the table
    :param peer: key of ``peers.PEERS``: the Python that runs it
    :param operation: ``module:function`` of this folder, which creates a ``worker.Job``
    :param args: keyword arguments of that function
    :param threads: thread counts, of which the fastest is used
    :param env: environment variables of the process
    :param reach: target speedup of the package over this side
    :param trial: changes to ``args`` for choosing the thread count; None uses the work itself
    """

    label: str
    peer: str
    operation: str
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    threads: tuple[int, ...] = (1, 2)
    env: tuple[tuple[str, str], ...] = ()
    reach: float | None = None
    trial: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """
    A figure that is measured on several sides.

    :param what: the work
    :param unit: the unit of work: ``step`` gives rates, anything else times
    :param ours: this package
    :param others: the sides that it is compared with
    :param effort: None uses the part's
    """

    what: str
    unit: str
    ours: Side
    others: tuple[Side, ...]
    effort: Effort | None = None


class WorkerFailed(RuntimeError):
    """A child process failed."""


class Worker:
    """
    A child process that creates jobs and times them.

    :param python: interpreter
    :param threads: number of threads of its libraries
    :param env: further environment variables
    """

    def __init__(self, python: str, threads: int, env: Sequence[tuple[str, str]] = ()) -> None:
        settings = {**os.environ, **peers.thread_settings(threads), **dict(env)}
        self._errors = ""
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=settings,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """
        :param request: see ``worker.py``
        :return: the reply
        :raises WorkerFailed: with the last line of its traceback
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
                self._process.kill()
                raise WorkerFailed(f"no answer within {_PATIENCE:.0f} s")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerFailed(f"the process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def is_alive(self) -> bool:
        """
        :return: whether the process runs
        """
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Pool:
    """Workers, started on demand; close it, or use it as a context manager."""

    def __init__(self) -> None:
        self._workers: dict[tuple[Any, ...], Worker] = {}

    def get(self, side: Side, threads: int) -> Worker:
        """
        :param side: the side
        :param threads: number of threads
        :return: its process
        :raises WorkerFailed: the peer is not installed
        """
        interpreter = peers.python_of(side.peer)
        if interpreter.python is None:
            raise WorkerFailed(f"not measured: {interpreter.reason}")
        key = (interpreter.python, threads, side.env)
        if key in self._workers and not self._workers[key].is_alive():
            self._workers.pop(key).close()
        if key not in self._workers:
            self._workers[key] = Worker(interpreter.python, threads, side.env)
        return self._workers[key]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()


class Runner:
    """
    A side with its best thread count, ready for timing.

    :param pool: the child processes
    :param side: the side
    :param effort: length of the trial of each thread count
    :raises WorkerFailed: it cannot run
    """

    def __init__(self, pool: Pool, side: Side, effort: Effort) -> None:
        self.side = side
        counts = sorted({min(count, os.cpu_count() or 1) for count in side.threads})
        if os.environ.get("BENCHMARK_CLOCK") == "cpu":
            # More threads never take fewer CPU seconds.
            counts = counts[:1]
        if len(counts) > 1:
            counts.sort(key=lambda count: self._try(pool.get(side, count), effort.seconds))
        self.threads = counts[0]
        self._worker = pool.get(side, self.threads)
        self._job = self._worker.ask(make=side.operation, args=side.args)["job"]

    def _try(self, worker: Worker, seconds: float) -> float:
        args = {**self.side.args, **(self.side.trial or {})}
        job = worker.ask(make=self.side.operation, args=args)["job"]
        taken = float(worker.ask(time=job, seconds=seconds)["seconds"])
        worker.ask(drop=job)
        return taken

    def time(self, seconds: float) -> float:
        """
        :param seconds: minimum length of the turn
        :return: seconds per unit of work
        """
        return float(self._worker.ask(time=self._job, seconds=seconds)["seconds"])

    def close(self) -> None:
        """Delete the job in the worker."""
        self._worker.ask(drop=self._job)


def baseline(ours: Side) -> Side:
    """
    :param ours: this package
    :return: the same work in the build that ``BASELINE`` names
    """
    # PYTHONPATH may lead to the package that is to be compared.
    env = (*ours.env, ("PYTHONPATH", ""))
    return dataclasses.replace(ours, label="the baseline's wheel", peer="baseline", env=env, reach=None)


def in_turn(runners: Sequence[Runner], effort: Effort) -> list[list[float]]:
    """
    :param runners: sides
    :param effort: how long
    :return: seconds per unit of each side in each turn
    """
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(effort.repeats):
        for runner, own in zip(runners, times, strict=True):
            # Meanwhile the threads of the previous side stop spinning.
            time.sleep(0.002)
            own.append(runner.time(effort.seconds))
    return times


def measure(pool: Pool, figure: Figure, effort: Effort) -> list[dict[str, Any]]:
    """
    :param pool: the child processes
    :param figure: the figure
    :param effort: length of the measurement, unless the figure has its own
    :return: a row per other side
    """
    effort = figure.effort or effort
    ours = Runner(pool, figure.ours, effort)
    runners, failures = [ours], {}
    others = [side for side in (baseline(figure.ours), *figure.others) if peers.is_wanted(side.peer)]
    for side in others:
        try:
            runners.append(Runner(pool, side, effort))
        except WorkerFailed as failure:
            failures[side.label] = str(failure)
    times = in_turn(runners, effort)
    measured = {runner.side.label: (runner, own) for runner, own in zip(runners[1:], times[1:], strict=True)}
    for runner in runners:
        runner.close()
    base = {
        "what": figure.what,
        "unit": figure.unit,
        "ours": statistics.median(times[0]),
        "threads": ours.threads,
    }
    rows = [] if others else [base]
    for side in others:
        row = {**base, "peer": side.label, "reach": side.reach}
        if side.label in failures:
            row["missing"] = failures[side.label]
        else:
            runner, own = measured[side.label]
            row |= compare(times[0], own) | {"peer_threads": runner.threads}
        rows.append(row)
    return rows


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """
    :param ours: seconds per unit of the package, turn by turn
    :param theirs: the same of the other side
    :return: the other side's median, and the median, minimum and maximum of the turns' ratios
    """
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return {
        "theirs": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
    }
