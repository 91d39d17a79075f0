"""
The process that runs measured work. ``timing.Worker`` starts it with a peer's Python, so it needs only the
standard library; each operation imports what it measures.

Requests and replies are lines of JSON:
``{"make": "module:function", "args": {}}`` -> ``{"job": 0}``, after a first call that is not counted;
``{"time": 0, "seconds": 0.1}`` -> ``{"seconds": per unit of work}``;
``{"drop": 0}``; ``{"call": "module:function", "args": {}}`` -> ``{"value": what it returns}``;
``{"versions": [names]}``.
"""

import dataclasses
import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

# CPU seconds of the whole process, for a machine with other load; otherwise wall-clock time.
clock = time.process_time if os.environ.get("BENCHMARK_CLOCK") == "cpu" else time.perf_counter


@dataclasses.dataclass
class Job:
    """
    Repeatable work.

    :param call: does the work; a returned number is used as its seconds instead of the clock's
    :param work: units of work per call
    :param warm: whether the first call is excluded from all figures
    :param finish: waits for pending computations of a call
    :param calls: calls per turn; None for as many as fill its time
    """

    call: Callable[[], Any]
    work: float = 1.0
    warm: bool = True
    finish: Callable[[], Any] | None = None
    calls: int | None = None
    estimate: float = 0.0

    def run(self, calls: int) -> float:
        """
        :param calls: number of calls
        :return: seconds per call
        """
        counted, call = 0.0, self.call
        start = clock()
        for _ in range(calls):
            own = call()
            if type(own) is float:
                counted += own
        if self.finish is not None:
            self.finish()
        self.estimate = (counted or clock() - start) / calls
        return self.estimate


def thread_count() -> int:
    """How many threads this process was given."""
    return int(os.environ.get("BENCHMARK_THREADS", "1"))


class _Desk:
    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "call" in request:
            return {"value": _function(request["call"])(**request["args"])}
        if "make" in request:
            job = _function(request["make"])(**request["args"])
            if job.warm:
                job.run(1)
            number = max(self.jobs, default=-1) + 1
            self.jobs[number] = job
            return {"job": number}
        if "time" in request:
            job = self.jobs[request["time"]]
            calls = job.calls
            if calls is None:
                calls = max(1, round(request["seconds"] / job.estimate)) if job.estimate else 1
            gc.collect()
            return {"seconds": job.run(calls) / job.work, "calls": calls}
        if "drop" in request:
            del self.jobs[request["drop"]]
            return {}
        return {name: _version(name) for name in request["versions"]}


def _function(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Reply until the input ends."""
    # Output of libraries must not mix with the replies.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Operations import this file by its name; both names are one module.
    sys.modules["worker"] = sys.modules["__main__"]
    desk = _Desk()
    for line in sys.stdin:
        try:
            answer = desk.answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
