"""Processes that are killed while they train, and what another makes of their last checkpoint."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from support import checkpoint_runs
from support.checkpoint_runs import CASES, learn, make

# Where in the run: before anything was learned, in the middle of a rollout, near the end.
KILLS = {
    "ppo": (50, 170, 330),
    "ppo_normalized": (200,),
    "a2c": (130,),
    "dqn": (30, 240),
    "sac": (300,),
    "td3": (405,),
    "ddpg": (1500,),
}
POINTS = [(case, step) for case, steps in KILLS.items() for step in steps]


def start(case, folder, step):
    folder.mkdir()
    command = [sys.executable, checkpoint_runs.__file__, case, str(folder), str(step)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder that each killed process leaves behind; two of them run at a time."""
    base = tmp_path_factory.mktemp("killed")
    folders = {point: base / f"{point[0]}_{point[1]}" for point in POINTS}
    for first in range(0, len(POINTS), 2):
        running = [(point, start(point[0], folders[point], point[1])) for point in POINTS[first : first + 2]]
        for point, process in running:
            _, said = process.communicate(timeout=120)
            assert process.returncode == -signal.SIGKILL, f"{point}: {said}"
    return folders


def newest(folder):
    steps = [int(path.stem.split("_")[-2]) for path in folder.glob("*.zip")]
    return next(folder.glob(f"*_{max(steps)}_steps.zip"))


def assert_goes_on_as(case, folder, whole, rows):
    algorithm, *_, total = CASES[case]
    resumed = algorithm.load_checkpoint(newest(folder))
    before = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    later = learn(resumed, total - resumed.num_timesteps, fresh=False)
    assert before == rows[: len(before)]
    assert later == rows[len(rows) - len(later) :]
    assert len(before) + len(later) >= len(rows)
    ours, theirs = whole.get_parameters(), resumed.get_parameters()
    for name, arrays in ours.items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(
                np.array(theirs[name][key]), np.array(value), err_msg=f"{name} {key}"
            )


@pytest.mark.parametrize("case", KILLS)
def test_killed_runs_go_on_exactly(killed, case):
    whole = make(case)
    rows = learn(whole, CASES[case][-1])
    for step in KILLS[case]:
        folder = killed[case, step]
        if step == 30:
            # Killed before the log has anything.
            (folder / "log.jsonl").touch()
        assert newest(folder)
        assert_goes_on_as(case, folder, whole, rows)


def test_killed_at_any_moment(tmp_path):
    """From outside, while checkpoints are being written one after the other."""
    folder = tmp_path / "run"
    process = start("dqn", folder, 0)
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("dqn_*.zip"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    paths = list(folder.glob("dqn_*.zip"))
    assert len(paths) >= 3
    for path in paths:
        resumed = CASES["dqn"][0].load_checkpoint(path)
        assert f"_{resumed.num_timesteps}_steps" in path.name
    assert all(path.suffix in (".zip", ".tmp", ".jsonl") for path in pathlib.Path(folder).iterdir())
