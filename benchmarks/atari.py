"""Learning curves of PPO on Atari games with RL Zoo's settings, here and in SB3.

    python benchmarks/atari.py train [--games Pong Breakout] [--seeds 3] [--steps 500000] [--out FOLDER]
    python benchmarks/atari.py plot [--out FOLDER]

``train`` appends one JSON line per run, with its curve, to FOLDER/LIBRARY.jsonl and skips existing runs; the
log of a run, also of an unfinished one, is in FOLDER/LIBRARY-GAME-SEED. With ``--library stable_baselines3``
and a Python that has SB3 installed, the same script trains SB3 on the same seeds. RL Zoo's schedules of the
learning rate and the clip range go from their values to zero over the steps given. ale-py has the games.
"""

import argparse
import concurrent.futures
import csv
import importlib
import json
import os
import pathlib
import time
from typing import Any

import numpy as np
from child_runs import last_line
from returns import OURS, read_runs

POINTS = 100
# hyperparams/ppo.yml, `atari`; linear schedules are added below.
SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "n_epochs": 4,
    "batch_size": 256,
    "vf_coef": 0.5,
    "ent_coef": 0.01,
}
N_ENVS = 8


def train_one(library: str, game: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train, with the log of the run in a folder of its own, and return its curve."""
    package = importlib.import_module(library)
    common = {
        name: importlib.import_module(f"{library}.common.{name}")
        for name in ("env_util", "vec_env", "utils", "logger")
    }
    processes = common["vec_env"].SubprocVecEnv if args.subprocesses else None
    env = common["env_util"].make_atari_env(
        f"ale_py:{game}NoFrameskip-v4", N_ENVS, seed=seed, vec_env_cls=processes
    )
    env = common["vec_env"].VecFrameStack(env, 4)
    linear = common["utils"].LinearSchedule
    model = package.PPO(
        "CnnPolicy",
        env,
        seed=seed,
        device=args.device,
        learning_rate=linear(2.5e-4, 0.0, 1.0),
        clip_range=linear(0.1, 0.0, 1.0),
        **SETTINGS,
    )
    folder = args.out / f"{library}-{game}-{seed}"
    model.set_logger(common["logger"].configure(str(folder), ["csv"]))
    start = time.perf_counter()
    model.learn(args.steps)
    seconds = time.perf_counter() - start
    env.close()
    outcome = {"seconds": round(seconds), "device": args.device, "steps": args.steps}
    return {"game": game, "seed": seed, **outcome, "curve": curve(folder / "progress.csv")}


def curve(log: pathlib.Path) -> list[tuple[int, float]]:
    """Steps and mean score of the last 100 games, at most ``POINTS`` of them, evenly spaced."""
    with log.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("rollout/ep_rew_mean")]
    if not rows:
        return []
    chosen = np.unique(np.linspace(0, len(rows) - 1, POINTS).round().astype(int))
    points = [(rows[i]["time/total_timesteps"], rows[i]["rollout/ep_rew_mean"]) for i in chosen]
    return [(int(float(steps)), round(float(score), 3)) for steps, score in points]


def train(args: argparse.Namespace) -> None:
    """Train all chosen games on all seeds, ``--jobs`` at a time."""
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.library}.jsonl"
    done = {(run["game"], run["seed"]) for run in read_runs(file)}
    todo = [(game, seed) for seed in range(args.seeds) for game in args.games if (game, seed) not in done]

    def one(game: str, seed: int) -> None:
        settings = ["--library", args.library, "--device", args.device, "--steps", str(args.steps)]
        settings += ["--out", str(args.out), *(["--subprocesses"] if args.subprocesses else [])]
        line = last_line(__file__, "one", game, str(seed), *settings)
        if line is not None:
            with file.open("a") as stream:
                stream.write(line + "\n")
            print(line[:100], flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(one, *run) for run in todo]:
            future.result()


def plot(args: argparse.Namespace) -> None:
    """Print the scores at the end and draw the curves, a panel per game."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(args.games), figsize=(5 * len(args.games), 3.6), squeeze=False)
    for axis, game in zip(axes[0], args.games, strict=True):
        for file, color in zip(sorted(args.out.glob("*.jsonl")), ("tab:blue", "tab:orange"), strict=False):
            runs = [run for run in read_runs(file) if run["game"] == game and run["curve"]]
            runs.sort(key=lambda run: run["seed"])
            for i, run in enumerate(runs):
                steps, scores = zip(*run["curve"], strict=True)
                axis.plot(steps, scores, color=color, label=file.stem if i == 0 else None, alpha=0.8)
            last = ", ".join(f"{run['curve'][-1][1]:.1f}" for run in runs)
            print(f"| {game} | {file.stem} | {last} |")
        axis.set(title=game, xlabel="steps", ylabel="mean score of the last 100 games")
        axis.legend()
    figure.tight_layout()
    figure.savefig(args.out / "atari.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["train", "plot", "one"])
    parser.add_argument("rest", nargs="*", help="for `one`: game and seed")
    parser.add_argument("--library", default=OURS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--games", nargs="+", default=["Pong", "Breakout"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--subprocesses", action="store_true", help="environments in processes of their own")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/atari"))
    args = parser.parse_args()
    if args.command == "train":
        train(args)
    elif args.command == "plot":
        plot(args)
    else:
        print(json.dumps(train_one(args.library, args.rest[0], int(args.rest[1]), args)))


if __name__ == "__main__":
    main()
