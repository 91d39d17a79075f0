"""The same operations in Rust (criterion), through the extension module and through the package's classes."""

import importlib
import json
import os
import pathlib
import statistics
from typing import Any

import environments
import report
from timing import Effort, Pool, Runner, Side
from worker import Job

import peers


def door_step(env_id: str, n_envs: int) -> Job:
    """``_native.EnvBatch.step``."""
    env = importlib.import_module("mlx_baselines3.common.vec_env").NativeVecEnv(env_id, n_envs, seed=0)
    env.reset()
    return environments.stepping(env._core.step, environments.actions(env_id, n_envs))


def door_gae(n_steps: int, n_envs: int) -> Job:
    """``_native.gae``."""
    import numpy as np

    importlib.import_module("mlx_baselines3")
    native = importlib.import_module("mlx_baselines3._native")
    columns = [np.zeros((n_steps, n_envs), np.float32) for _ in range(5)]
    ends = [np.zeros(n_envs, np.float32) for _ in range(2)]
    names = ("rewards", "values", "episode_starts", "advantages", "returns", "last_values", "dones")
    arrays = dict(zip(names, columns + ends, strict=True))
    return Job(lambda: native.gae(gamma=0.99, gae_lambda=0.95, **arrays))


def door_gather(rows: int, width: int, batch: int) -> Job:
    """``_native.gather`` of one column."""
    import numpy as np

    importlib.import_module("mlx_baselines3")
    native = importlib.import_module("mlx_baselines3._native")
    source, target = np.ones(rows * width, np.uint8), np.zeros(batch * width, np.uint8)
    picks = np.random.default_rng(0).integers(rows, size=batch)
    return Job(lambda: native.gather([source], [target], picks))


def predict(n_envs: int) -> Job:
    """``PPO.predict`` of a batch of CartPole's observations; unit: an observation."""
    import numpy as np

    model = importlib.import_module("mlx_baselines3").PPO("MlpPolicy", "CartPole-v1", seed=0)
    obs = np.full((n_envs, 4), 0.1, np.float32)
    return Job(lambda: model.predict(obs), n_envs)


def _step(env_id: str, n_envs: int) -> tuple[str, str, float, tuple[str, Any], tuple[str, Any]]:
    args = {"env_id": env_id, "n_envs": n_envs}
    return (
        f"{env_id}, {n_envs} envs, a step of one",
        f"{env_id}/{n_envs}",
        n_envs,
        ("boundary:door_step", args),
        ("environments:vec_env", args),
    )


# What, criterion's benchmark, units in one of its iterations, the door's operation, the class's.
_SIZES = {"n_steps": 2048, "n_envs": 8}
_LINES: list[tuple[str, str, float, tuple[str, Any] | None, tuple[str, Any] | None]] = [
    *(_step(env_id, n_envs) for env_id in environments.IDS for n_envs in (8, 1024)),
    (
        "PPO rollout 8 x 2048, CartPole, a step of one (Rust alone: 1.67 us to reach)",
        "rollout CartPole-v1/8",
        2048 * 8,
        None,
        ("rollouts:collect", {"env_id": "CartPole-v1", "kind": "NativeVecEnv", **_SIZES}),
    ),
    (
        "policy 4-64-64-2 tanh, 8 rows, one of them",
        "ppo 4-64-64-2 tanh/8",
        8,
        None,
        ("boundary:predict", {"n_envs": 8}),
    ),
    (
        "GAE of 2048 x 8",
        "gae/2048x8",
        1,
        ("boundary:door_gae", _SIZES),
        ("buffers:gae", {"library": "mlx_baselines3", **_SIZES}),
    ),
    (
        "gather of 256 rows of 16 bytes",
        "gather_256_rows/16B",
        1,
        ("boundary:door_gather", {"rows": 100_000, "width": 16, "batch": 256}),
        None,
    ),
]


def criterion(name: str) -> float | None:
    """
    :param name: folder of a benchmark among criterion's results
    :return: seconds of its iteration, or None if it has not been run
    """

    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", peers.ROOT / "target"))
    file = target / "criterion" / name / "new" / "estimates.json"
    return json.loads(file.read_text())["median"]["point_estimate"] / 1e9 if file.exists() else None


def _time(pool: Pool, operation: tuple[str, Any] | None, effort: Effort) -> float | None:
    if operation is None:
        return None
    runner = Runner(pool, Side("", "ours", operation[0], operation[1], (1,)), effort)
    seconds = statistics.median(runner.time(effort.seconds) for _ in range(effort.repeats))
    runner.close()
    return seconds


def measure_all(pool: Pool, effort: Effort) -> tuple[str, Any]:
    """
    :param pool: child processes
    :param effort: how long
    :return: table and numbers
    """
    cells, found = [], []
    for what, name, units, door, public in _LINES:
        rust = criterion(name)
        row = {
            "what": what,
            "rust": None if rust is None else rust / units,
            "door": _time(pool, door, effort),
            "public": _time(pool, public, effort),
        }
        found.append(row)
        last = row["public"] or row["door"]
        times = [report.duration(row[key]) if row[key] else "" for key in ("door", "public")]
        ratio = report.digits(last / row["rust"]) if last and row["rust"] else ""
        cells.append(
            (what, report.duration(row["rust"]) if row["rust"] else "run `cargo bench`", *times, ratio)
        )
    head = ("what", "Rust alone", "extension module", "public class", "last / Rust")
    return report.table(head, cells), found
