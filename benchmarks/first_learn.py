"""Time of the first update, with an empty kernel cache and with a full one."""

import importlib
import sys
import tempfile
import time
from typing import Any

import report
from timing import Worker
from updates import MLX_STEPS

_REACH = {"cold": 10.0, "warm": 1.0}
# Steps after which the first update is done, by algorithm.
_RUNS = {
    "PPO": ("CartPole-v1", 2048),
    "A2C": ("CartPole-v1", 5),
    "DQN": ("CartPole-v1", 104),
    "SAC": ("Pendulum-v1", 101),
    "TD3": ("Pendulum-v1", 102),
}

_STEPS = {"Rust": (), "MLX": MLX_STEPS}


def learn(algorithm: str, env_id: str, steps: int) -> float:
    """Seconds of the first ``learn()`` of a process, with default settings."""
    package = importlib.import_module("mlx_baselines3")
    model = getattr(package, algorithm)("MlpPolicy", env_id, seed=0)
    start = time.perf_counter()
    model.learn(steps)
    return time.perf_counter() - start


def _seconds(algorithm: str, folder: str, env: tuple[tuple[str, str], ...]) -> float:
    """Measure in a separate process with its own kernel cache."""
    env_id, steps = _RUNS[algorithm]
    worker = Worker(sys.executable, 1, (("TMPDIR", folder), *env))
    try:
        args = {"algorithm": algorithm, "env_id": env_id, "steps": steps}
        return float(worker.ask(call="first_learn:learn", args=args)["value"])
    finally:
        worker.close()


def measure_all(quick: bool) -> tuple[str, Any]:
    """
    :param quick: A2C alone
    :return: table and numbers
    """
    cells, found = [], []
    runs = [(name, steps) for steps in _STEPS for name in (["A2C"] if quick else _RUNS)]
    for algorithm, steps in runs:
        # MLX's kernel cache is in the folder for temporary files.
        with tempfile.TemporaryDirectory() as folder:
            times = {when: _seconds(algorithm, folder, _STEPS[steps]) for when in _REACH}
        found.append({"algorithm": algorithm, "steps": steps, **times})
        verdicts = [
            f"{report.duration(times[when])} ({'reached' if times[when] <= reach else '**not reached**'})"
            for when, reach in _REACH.items()
        ]
        cells.append((algorithm, steps, *verdicts))
    head = (
        "first `learn()`, to the end of its first `train()`",
        "gradient steps by",
        "never compiled; to reach: 10 s",
        "compiled; 1 s",
    )
    return report.table(head, cells), found
