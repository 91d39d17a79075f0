"""Advantages, replay and the memory of a replay buffer, compared with SB3."""

import importlib
import os
import subprocess
from typing import Any

import report
from timing import Figure, Side, Worker, WorkerFailed
from worker import Job

import peers

_LABELS = {"ours": "mlx_baselines3", "sb3": "SB3"}
_LIBRARIES = {"ours": "mlx_baselines3", "sb3": "stable_baselines3"}


def _sync(library: str) -> Any:
    """The function that evaluates lazy arrays; torch's are eager."""
    if library == "mlx_baselines3":
        return importlib.import_module("mlx.core").eval
    return lambda arrays: None


def _spaces(obs: int) -> tuple[Any, Any]:
    import numpy as np
    from gymnasium import spaces

    return spaces.Box(-np.inf, np.inf, (obs,), np.float32), spaces.Box(-2, 2, (1,), np.float32)


def gae(library: str, n_steps: int, n_envs: int) -> Job:
    """``RolloutBuffer.compute_returns_and_advantage``."""
    import numpy as np

    module = importlib.import_module(f"{library}.common.buffers")
    buffer = module.RolloutBuffer(n_steps, *_spaces(4), n_envs=n_envs, gamma=0.99, gae_lambda=0.95)
    rng = np.random.default_rng(0)
    buffer.rewards[:] = rng.normal(size=(n_steps, n_envs))
    buffer.values[:] = rng.normal(size=(n_steps, n_envs))
    buffer.episode_starts[:] = rng.random((n_steps, n_envs)) < 0.01
    last = rng.normal(size=n_envs).astype(np.float32)
    if library == "stable_baselines3":
        last = importlib.import_module("torch").as_tensor(last)
    dones = np.zeros(n_envs, bool)
    return Job(lambda: buffer.compute_returns_and_advantage(last, dones))


def _filled(library: str, rows: int, n_envs: int) -> tuple[Any, tuple[Any, ...]]:
    """A full replay buffer of Pendulum's spaces, and the arguments of another ``add``."""
    import numpy as np

    module = importlib.import_module(f"{library}.common.buffers")
    buffer = module.ReplayBuffer(rows, *_spaces(3), n_envs=n_envs)
    rng = np.random.default_rng(0)
    obs, new = (rng.normal(size=(n_envs, 3)).astype(np.float32) for _ in range(2))
    numbers = rng.normal(size=n_envs).astype(np.float32)
    infos: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    step = (obs, new, numbers.reshape(-1, 1), numbers, numbers > 1, infos)
    for _ in range(rows // n_envs):
        buffer.add(*step)
    return buffer, step


def replay_add(library: str, rows: int, n_envs: int) -> Job:
    """``ReplayBuffer.add`` of one step of all environments."""
    buffer, step = _filled(library, rows, n_envs)
    return Job(lambda: buffer.add(*step))


def replay_sample(library: str, rows: int, n_envs: int, batch_size: int) -> Job:
    """``ReplayBuffer.sample`` of one batch."""
    buffer, _ = _filled(library, rows, n_envs)
    sync = _sync(library)
    return Job(lambda: sync(list(buffer.sample(batch_size))))


def figures(quick: bool) -> list[Figure]:
    """
    :param quick: a smaller replay buffer
    :return: the lines of the table
    """
    rows = 10_000 if quick else 1_000_000
    work = (
        ("GAE of 2048 x 8", "gae", {"n_steps": 2048, "n_envs": 8}, 50),
        ("replay: add one step of 8 envs", "replay_add", {"rows": rows, "n_envs": 8}, 5),
        (
            f"replay: sample 256 of {rows:,}",
            "replay_sample",
            {"rows": rows, "n_envs": 8, "batch_size": 256},
            5,
        ),
    )
    found = []
    for what, function, args, reach in work:
        ours, sb3 = (
            Side(_LABELS[peer], peer, f"buffers:{function}", {"library": _LIBRARIES[peer], **args}, (1,))
            for peer in ("ours", "sb3")
        )
        found.append(Figure(what, "call", ours, (Side(**{**vars(sb3), "reach": reach}),)))
    return found


def _resident() -> int:
    """Resident memory of this process in bytes."""
    return 1024 * int(
        subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True).stdout
    )


def _array_bytes(buffer: Any) -> int:
    import numpy as np

    columns = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    arrays = [getattr(buffer, name) for name in columns]
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def memory_growth(library: str, rows: int) -> tuple[int, int]:
    """Growth of this process in bytes for a full buffer, and the size of the buffer's arrays."""
    # The first buffer includes the library's own memory.
    _filled(library, 1000, 8)
    before = _resident()
    buffer, _ = _filled(library, rows, 8)
    return _resident() - before, _array_bytes(buffer)


def memory(quick: bool) -> tuple[str, Any]:
    """
    :param quick: fewer transitions
    :return: table and numbers of what a full replay buffer costs
    """
    rows = 100_000 if quick else 1_000_000
    cells, found = [], []
    for peer, label in _LABELS.items():
        python = peers.python_of(peer)
        if python.python is None:
            cells.append((label, f"not measured: {python.reason}", "", ""))
            continue
        worker = Worker(python.python, 1)
        try:
            args = {"library": _LIBRARIES[peer], "rows": rows}
            grown, arrays = worker.ask(call="buffers:memory_growth", args=args)["value"]
        except WorkerFailed as failure:
            cells.append((label, f"not measured: {failure}", "", ""))
            continue
        finally:
            worker.close()
        found.append({"library": label, "rows": rows, "grown": grown, "arrays": arrays})
        more = 100 * (grown / arrays - 1)
        cells.append((label, f"{arrays / 1e6:.1f} MB", f"{grown / 1e6:.1f} MB", f"{more:+.1f} %"))
    head = (f"replay buffer of {rows:,} Pendulum transitions", "its arrays", "process grew by", "difference")
    return report.table(head, cells), found
