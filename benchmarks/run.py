"""
Measure this package on this machine; each figure is a ratio of two interleaved measurements.

    python benchmarks/run.py [--peers] [--quick] [--only PART ...] [--out FOLDER] [--write docs/benchmarks.md]

Tables go to FOLDER/tables.md and the console, all numbers to FOLDER/figures.json. ``--write`` puts each
measured part's table between its marks in a page. ``docs/benchmarks.md`` says what is measured and how.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import boundary
import buffers
import environments
import first_learn
import masks_and_memory
import report
import rollouts
import sweep
import updates
import whole_runs
from timing import Effort, Figure, Pool, WorkerFailed, measure

import peers

Part = Callable[["Session"], tuple[str, Any]]


class Session:
    """
    State shared by the parts.

    :param pool: child processes
    :param quick: measure shortly
    :param out: folder of the results
    """

    def __init__(self, pool: Pool, quick: bool, out: pathlib.Path) -> None:
        self.pool, self.quick, self.out = pool, quick, out
        self.effort = Effort(3, 0.01) if quick else Effort(7, 0.1)

    @functools.cached_property
    def bare_loop(self) -> peers.Interpreter:
        """The Rust core alone, built when first needed."""
        return peers.bare_loop()

    def compare(self, figures: list[Figure], effort: Effort | None = None) -> tuple[str, Any]:
        """Measure figures one after the other."""
        rows = []
        for figure in figures:
            print(figure.what, file=sys.stderr, flush=True)
            rows += measure(self.pool, figure, effort or self.effort)
        return report.comparisons(rows), rows


def machine(session: Session) -> tuple[str, Any]:
    """Description of the machine."""
    seen = {
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {platform.platform()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0],
        "versions": _versions(session.pool),
    }
    versions = "; ".join(
        f"{name}: {', '.join(f'{package} {version}' for package, version in found.items())}"
        if isinstance(found, dict)
        else f"{name}: {found}"
        for name, found in seen["versions"].items()
    )
    load = f"Load when the run began: {seen['load']:.1f}."
    if os.environ.get("BENCHMARK_CLOCK") == "cpu":
        load += " **CPU seconds on one thread, not wall-clock time.**"
    if session.quick:
        load += " **A quick run: the figures are rough.**"
    return f"{seen['machine']}, Python {seen['python']}, {seen['date']}. {load}\n\n{versions}.", seen


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def _versions(pool: Pool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, peer in peers.PEERS.items():
        if not peers.is_wanted(name):
            continue
        try:
            side = environments.Side(name, name, "")
            answer = pool.get(side, 1).ask(versions=peer.packages)
            found[name] = {package: version for package, version in answer.items() if version}
        except WorkerFailed as failure:
            found[name] = str(failure)
    return found


def environment_steps(session: Session) -> tuple[str, Any]:
    """Environment steps."""
    effort = session.effort
    text, rows = session.compare(environments.figures(session.bare_loop.python, effort.seconds))
    if session.bare_loop.python is None:
        text += f"\n\nBare Rust loop: not measured, {session.bare_loop.reason}."
    return text, rows


PARTS: dict[str, Part] = {
    "machine": machine,
    "environments": environment_steps,
    "rollouts": lambda s: s.compare(rollouts.figures(s.quick)),
    "buffers": lambda s: s.compare(buffers.figures(s.quick)),
    "memory": lambda s: buffers.memory(s.quick),
    "updates": lambda s: updates.measure_all(s.pool, s.effort if s.quick else Effort(5, 0.2), s.quick),
    "first_learn": lambda s: first_learn.measure_all(s.quick),
    "whole_runs": lambda s: s.compare(whole_runs.figures(s.quick)),
    "masks_and_memory": lambda s: s.compare(masks_and_memory.figures(s.quick)),
    "boundary": lambda s: boundary.measure_all(s.pool, s.effort),
    "sweep": lambda s: sweep.measure_all(s.pool, s.effort, s.bare_loop, s.out, s.quick),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument(
        "--peers", action="store_true", help="measure the peers that need their own environments"
    )
    parser.add_argument(
        "--quick", action="store_true", help="see that everything runs; the figures are rough"
    )
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds, on one thread each")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"))
    parser.add_argument("--write", type=pathlib.Path, metavar="PAGE", help="put the tables into a page")
    return parser.parse_args()


def main() -> None:
    """Measure the requested parts."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.peers:
        peers.enable()
    if args.cpu_time:
        os.environ["BENCHMARK_CLOCK"] = "cpu"
    results: dict[str, Any] = {}
    texts = []
    with Pool() as pool:
        session = Session(pool, args.quick, args.write.parent if args.write else args.out)
        for name in args.only:
            start = time.perf_counter()
            text, results[name] = PARTS[name](session)
            texts.append(f"## {name.replace('_', ' ').capitalize()}\n\n{text}\n")
            print(f"{texts[-1]}\n({time.perf_counter() - start:.0f} s)\n", flush=True)
            if args.write:
                report.write_marked(args.write, name, text)
            (args.out / "figures.json").write_text(json.dumps(results, indent=1))
            (args.out / "tables.md").write_text("\n".join(texts))


if __name__ == "__main__":
    main()
