"""Train every tuned setting on several seeds and compare the returns with RL Zoo's.

    python benchmarks/returns.py train [--cells REGEX] [--seeds 5] [--jobs 2] [--out FOLDER]
    python benchmarks/returns.py table [--out FOLDER]

``train`` appends one JSON line per run to FOLDER/LIBRARY.jsonl and skips existing runs. With
``--library stable_baselines3`` and a Python that has SB3 installed, the same script trains SB3 on the same
seeds. ``table`` writes FOLDER/returns.md and FOLDER/returns.png from all existing runs.
"""

import argparse
import concurrent.futures
import importlib
import json
import os
import pathlib
import re
import time
from typing import Any

import numpy as np
from child_runs import last_line
from tuned_contrib import CONTRIB_CELLS
from tuned_settings import CELLS as SB3_CELLS
from tuned_settings import Cell, Library

OURS = "mlx_baselines3"
CELLS = [*SB3_CELLS, *CONTRIB_CELLS]
EPISODES = 100


def load_library(name: str) -> Library:
    """Import a package with SB3's layout, and the one with sb3-contrib's algorithms."""
    package = importlib.import_module(name)
    contrib = importlib.import_module("mlx_baselines3.contrib" if name == OURS else "sb3_contrib")
    nn = importlib.import_module("mlx.nn" if name == OURS else "torch.nn")
    return Library(
        package,
        importlib.import_module(f"{name}.common.utils"),
        importlib.import_module(f"{name}.common.noise"),
        {name: getattr(module, name) for module in (package, contrib) for name in module.__all__},
        nn.ReLU,
    )


def make_env(library: str, cell: Cell, n_envs: int, seed: int) -> Any:
    """Native environments here, Gymnasium's in SB3 and below a wrapper."""
    env_util = importlib.import_module(f"{library}.common.env_util")
    vec_env = importlib.import_module(f"{library}.common.vec_env")
    native = None if cell.wrapper else getattr(vec_env, "NativeVecEnv", None)
    wrapped = {"wrapper_class": cell.wrapper, "vec_env_cls": native}
    return env_util.make_vec_env(cell.env_id, n_envs, seed=seed, **wrapped)


def train_one(library: str, cell: Cell, seed: int, device: str) -> dict[str, Any]:
    """Train, then evaluate the deterministic policy on separate environments."""
    lib = load_library(library)
    vec_env = importlib.import_module(f"{library}.common.vec_env")
    evaluation = importlib.import_module(f"{library}.common.evaluation")
    env = make_env(library, cell, cell.n_envs, seed)
    test_env = make_env(library, cell, 10, seed + 10_000)
    kwargs = cell.kwargs(lib)
    if cell.normalize:
        env = vec_env.VecNormalize(env, norm_reward=cell.norm_reward, gamma=kwargs.get("gamma", 0.99))
        test_env = vec_env.VecNormalize(test_env, training=False, norm_reward=False)
    algorithm = lib.algorithms[cell.algorithm]
    start = time.perf_counter()
    model = algorithm(cell.policy, env, seed=seed, device=device, **kwargs).learn(cell.steps)
    seconds = time.perf_counter() - start
    if cell.normalize:
        vec_env.sync_envs_normalization(env, test_env)
    mean, std = evaluation.evaluate_policy(model, test_env, n_eval_episodes=EPISODES)
    outcome = {"mean": float(mean), "std": float(std), "seconds": seconds, "device": device}
    return {"cell": cell.name, "seed": seed, **outcome}


def read_runs(file: pathlib.Path) -> list[dict[str, Any]]:
    """The runs in a file; none if it does not exist."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run_in_child(library: str, device: str, cell: Cell, seed: int, file: pathlib.Path) -> None:
    """One run in a separate process; its line is added to the file."""
    settings = ["--library", library, "--device", device]
    line = last_line(__file__, "one", cell.name, str(seed), *settings)
    if line is not None:
        with file.open("a") as stream:
            stream.write(line + "\n")
        print(line, flush=True)


def train(args: argparse.Namespace) -> None:
    """Train all chosen cells on all seeds, the longest first."""
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.library}.jsonl"
    done = {(run["cell"], run["seed"]) for run in read_runs(file)}
    cells = [cell for cell in CELLS if re.search(args.cells, cell.name)]
    cells.sort(key=lambda cell: (cell.algorithm in ("SAC", "TD3"), cell.steps), reverse=True)
    todo = [(c, s) for c in cells for s in range(args.seeds) if (c.name, s) not in done]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for future in [
            pool.submit(run_in_child, args.library, args.device, cell, seed, file) for cell, seed in todo
        ]:
            future.result()


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis, the outer runs counted in part."""
    ordered = np.sort(values, axis=-1)
    n = ordered.shape[-1]
    edges = np.arange(n + 1)
    weights = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0, None)
    return ordered @ weights / weights.sum()


def summarize(means: list[float]) -> tuple[float, float, float]:
    """Interquartile mean over seeds and its 95 % bootstrap interval."""
    values = np.array(means)
    draws = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(interquartile_mean(draws), [0.025, 0.975])
    return float(interquartile_mean(values)), float(low), float(high)


def table(args: argparse.Namespace) -> None:
    """Write the Markdown table and the plot."""
    runs = {file.stem: read_runs(file) for file in sorted(args.out.glob("*.jsonl"))}
    lines = [
        "| cell | steps | RL Zoo (one run) | "
        + " | ".join(f"{library}: IQM [95 %] | seeds | s a run" for library in runs)
        + " |",
        "|---" * (3 + 3 * len(runs)) + "|",
    ]
    points = []
    for cell in CELLS:
        columns = []
        for library, results in runs.items():
            mine = [run for run in results if run["cell"] == cell.name]
            if not mine:
                columns.append("- | 0 | -")
                continue
            middle, low, high = summarize([run["mean"] for run in mine])
            seconds = f"{np.median([run['seconds'] for run in mine]):.0f}"
            if (device := mine[0].get("device", "cpu")) != "cpu":
                seconds += f" ({device})"
            columns.append(f"{middle:.1f} [{low:.1f}, {high:.1f}] | {len(mine)} | {seconds}")
            points.append((cell, library, middle, low, high))
        mean, std = cell.reference
        lines.append(
            f"| {cell.name} | {cell.steps // 1000}k | {mean:.1f} ± {std:.1f} | {' | '.join(columns)} |"
        )
    text = "\n".join(lines)
    (args.out / "returns.md").write_text(text + "\n")
    print(text)
    plot(points, args.out / "returns.png")


def plot(points: list[tuple[Cell, str, float, float, float]], file: pathlib.Path) -> None:
    """Intervals in units of the reference's standard deviation, so that all tasks fit on one axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [cell.name for cell in CELLS if any(point[0] is cell for point in points)]
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(names) + 1.5))
    libraries = sorted({point[1] for point in points})
    for offset, library in enumerate(libraries):
        chosen = [point for point in points if point[1] == library]
        scale = np.array([max(cell.reference[1], 0.01 * abs(cell.reference[0])) for cell, *_ in chosen])
        zero = np.array([cell.reference[0] for cell, *_ in chosen])
        middle, low, high = ((np.array([p[i] for p in chosen]) - zero) / scale for i in (2, 3, 4))
        rows = [names.index(cell.name) + 0.2 * offset for cell, *_ in chosen]
        axes.errorbar(middle, rows, xerr=[middle - low, high - middle], fmt="o", label=library)
    axes.axvline(0, color="grey", linewidth=1)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="return minus RL Zoo's, in its deviations")
    axes.set_xscale("symlog", linthresh=2)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["train", "table", "one"])
    parser.add_argument("rest", nargs="*", help="for `one`: cell and seed")
    parser.add_argument("--library", default=OURS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cells", default="", help="regular expression on names such as ppo-CartPole-v1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/returns"))
    args = parser.parse_args()
    if args.command == "train":
        train(args)
    elif args.command == "table":
        table(args)
    else:
        cell = next(cell for cell in CELLS if cell.name == args.rest[0])
        print(json.dumps(train_one(args.library, cell, int(args.rest[1]), args.device)))


if __name__ == "__main__":
    main()
