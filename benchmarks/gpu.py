"""
Gradient steps on one GPU: this package through its public ``train()``, MLX in a bare script, torch as CUDA
graphs, JAX as scans.

    python benchmarks/gpu.py [--quick] [--only WORD ...] [--sides SIDE ...] [--out FOLDER]

Each side has a process of its own, and one side runs after the other: no other process holds the GPU then.
Times are microseconds a gradient step: the median, and the least and greatest of the turns. A side that is
not installed is named with the reason. Two tables: TF32 products on for all sides, and off for all.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import report
from timing import Effort, Pool, Runner, Side, Worker, WorkerFailed

# Columns: label, module of this folder.
SIDES = {
    "ours": ("mlx_baselines3", "gpu_ours"),
    "bare": ("MLX, bare script", "gpu_mlx"),
    "torch": ("torch, CUDA graph", "gpu_torch"),
    "jax": ("JAX, scan", "gpu_jax"),
}
TF32 = {"on": "1", "off": "0"}
_THREADS = (os.cpu_count() or 1,)
Work = tuple[str, str, dict[str, Any], tuple[str, ...]]


def rows(quick: bool) -> list[Work]:
    """
    :param quick: tiny sizes, to see that everything runs
    :return: name, operation, its arguments, the sides that have it
    """
    everyone = tuple(SIDES)
    if quick:
        return [
            ("PPO 32", "ppo", {"total": 64, "rows": 32, "epochs": 2}, everyone),
            ("SAC 8, 2 steps in a call", "sac", {"batch": 8, "steps": 2, "capacity": 20}, everyone),
            ("NatureCNN DQN 2", "dqn", {"batch": 2, "steps": 2, "capacity": 8, "size": 36}, everyone),
            ("NatureCNN PPO 16", "ppo_cnn", {"total": 32, "rows": 16, "epochs": 1, "size": 36}, everyone),
        ]
    found: list[Work] = []
    for size, total, epochs in ((64, 2048, 4), (2048, 16384, 4), (16384, 131072, 4), (131072, 524288, 4)):
        found.append((f"PPO {size:,}", "ppo", {"total": total, "rows": size, "epochs": epochs}, everyone))
    sac = {"batch": 256, "capacity": 10000}
    found.append(("SAC 256, 64 steps in a call", "sac", {**sac, "steps": 64}, everyone))
    found.append(("SAC 256, one step in a call", "sac", {**sac, "steps": 1}, everyone))
    for batch in (32, 256):
        args = {"batch": batch, "steps": 16, "capacity": 5000}
        found.append((f"NatureCNN DQN {batch}", "dqn", args, everyone))
    args = {"total": 2048, "rows": 2048, "epochs": 4}
    found.append(("NatureCNN PPO 2,048", "ppo_cnn", args, everyone))
    return found


def _side(name: str, operation: str, args: dict[str, Any], tf32: str) -> Side:
    label, module = SIDES[name]
    # The name of the side keeps each in a process of its own.
    env = (("BENCHMARK_SIDE", name), ("MLX_ENABLE_TF32", TF32[tf32]))
    return Side(label, "ours", f"{module}:{operation}", args, _THREADS, env)


def measure_side(key: str, works: list[Work], effort: Effort, tf32: str) -> dict[str, Any]:
    """
    :param key: key of :data:`SIDES`
    :param works: lines of :func:`rows`
    :param effort: turns and their length
    :param tf32: key of :data:`TF32`
    :return: name of the line -> seconds a gradient step, turn by turn, or why there are none
    """
    found: dict[str, Any] = {}
    with Pool() as pool:
        for name, operation, args, have in works:
            if key not in have:
                continue
            print(f"{key}: {name}", file=sys.stderr, flush=True)
            try:
                runner = Runner(pool, _side(key, operation, args, tf32), effort)
                found[name] = [runner.time(effort.seconds) for _ in range(effort.repeats)]
                runner.close()
            except WorkerFailed as failure:
                found[name] = str(failure)
    return found


def cell(times: Any) -> str:
    """
    :param times: seconds of several turns, or why there are none, or None
    :return: microseconds: median and range
    """
    if times is None or isinstance(times, str):
        return times or ""
    least, middle, most = (f"{x * 1e6:,.0f}" for x in (min(times), statistics.median(times), max(times)))
    return f"{middle} ({least} to {most})"


def table(found: dict[str, dict[str, Any]], works: list[Work]) -> str:
    """
    :param found: side -> what :func:`measure_side` gave
    :param works: lines
    :return: Markdown
    """
    head = ("microseconds a gradient step", *(SIDES[key][0] for key in found))
    lines = [(work[0], *(cell(times.get(work[0])) for times in found.values())) for work in works]
    return report.table(head, lines)


def learning(pool: Pool, effort: Effort, quick: bool) -> dict[str, Any]:
    """Steps per second of ``learn()`` of PPO, rollouts and updates, on the GPU and the CPU."""
    args = {"n_envs": 4096, "n_steps": 128, "batch": 131072, "epochs": 4}
    if quick:
        args = {"n_envs": 4, "n_steps": 16, "batch": 32, "epochs": 1}
    found: dict[str, Any] = {"what": "learn(), PPO, {n_envs} CartPoles x {n_steps}".format(**args)}
    for device in ("gpu", "cpu"):
        env = (("BENCHMARK_SIDE", f"learn-{device}"), ("BENCHMARK_DEVICE", device), ("MLX_ENABLE_TF32", "1"))
        side = Side(device, "ours", "gpu_ours:learn", args, _THREADS, env)
        try:
            runner = Runner(pool, side, effort)
            found[device] = [1 / runner.time(effort.seconds) for _ in range(effort.repeats)]
        except WorkerFailed as failure:
            found[device] = str(failure)
    return found


def first_update(quick: bool) -> dict[str, Any]:
    """Seconds of the first gradient step of SAC, with an empty cache of kernels and a full one."""
    args = {"batch": 8 if quick else 256, "capacity": 16 if quick else 1000}
    found: dict[str, Any] = {"what": f"first update of SAC {args['batch']}, seconds"}
    with tempfile.TemporaryDirectory() as folder:
        env = (("MLX_PTX_CACHE_DIR", folder), ("TMPDIR", folder), ("CUDA_CACHE_PATH", folder))
        for when in ("empty", "full"):
            worker = Worker(sys.executable, _THREADS[0], env)
            try:
                found[when] = worker.ask(call="gpu_ours:sac_first", args=args)["value"]
            except WorkerFailed as failure:
                found[when] = str(failure)
            finally:
                worker.close()
    return found


def _wanted(name: str, words: list[str] | None) -> bool:
    return words is None or any(word.lower() in name.lower() for word in words)


def _texts(args: argparse.Namespace, results: dict[str, Any]) -> Iterator[str]:
    effort = Effort(2, 0.001) if args.quick else Effort(5, 0.15)
    works = [work for work in rows(args.quick) if _wanted(work[0], args.only)]
    for tf32 in args.tf32 if works else ():
        found = results[f"tf32_{tf32}"] = {}
        for key in args.sides:
            found[key] = measure_side(key, works, effort, tf32)
        yield f"TF32 {tf32} on all sides:\n\n{table(found, works)}"
    if _wanted("learn", args.only):
        with Pool() as pool:
            row = results["learn"] = learning(pool, effort, args.quick)
        rates = {
            key: row[key]
            if isinstance(row[key], str)
            else f"{statistics.median(row[key]) / 1e6:.2f} M steps/s"
            for key in ("gpu", "cpu")
        }
        yield f"{row['what']}: {rates['gpu']} on the GPU, {rates['cpu']} on the CPU."
    if _wanted("first", args.only):
        row = results["first"] = first_update(args.quick)
        times = [row[key] if isinstance(row[key], str) else f"{row[key]:.1f}" for key in ("empty", "full")]
        yield f"{row['what']}: {times[0]} with an empty cache of kernels, {times[1]} with a full one."


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="rows whose names hold one of these words")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--tf32", nargs="+", choices=list(TF32), default=list(TF32))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    texts = []
    for text in _texts(args, results):
        texts.append(text)
        print(f"{text}\n", flush=True)
        (args.out / "gpu.json").write_text(json.dumps(results, indent=1))
        (args.out / "gpu.md").write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
