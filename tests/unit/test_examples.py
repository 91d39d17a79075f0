"""Each example runs as a user would run it, shortened, without a warning, and says what it reached."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
MEAN_RETURN = r"Mean return over 20 episodes: -?\d+\.\d \+/- \d+\.\d"

# Steps, the line that must be printed, and the files that must be there afterwards.
RUNS = {
    "a2c": (400, MEAN_RETURN, []),
    "callback_and_evaluation": (
        1100,
        r"Longest episode: \d+ steps\. Checkpoints: rl_model_\d+_steps\.zip",
        ["watched/best_model.zip", "watched/evaluations.npz"],
    ),
    "custom_env": (300, r"Mean return over 20 episodes: -\d+\.\d before training, -\d+\.\d after", []),
    "custom_features_extractor": (300, MEAN_RETURN, []),
    "ddpg": (1100, MEAN_RETURN, []),
    "dqn": (1300, MEAN_RETURN, []),
    "her": (600, r"Solved \d+ of 100 episodes of 10 bits", []),
    "masked_game": (300, MEAN_RETURN, []),
    "memory": (300, MEAN_RETURN, []),
    "normalized_vec_env": (300, MEAN_RETURN, ["normalized/model.zip", "normalized/statistics.pkl"]),
    "sac": (300, MEAN_RETURN, ["sac_pendulum/model.zip", "sac_pendulum/replay_buffer.pkl"]),
    "td3": (1100, MEAN_RETURN, []),
    "train_cartpole": (300, MEAN_RETURN, ["cartpole/ppo_cartpole.zip", "cartpole/learning_curve.png"]),
}


def test_every_example_is_run():
    assert set(RUNS) == {file.stem for file in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_example(name, tmp_path):
    steps, line, files = RUNS[name]
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), "--steps", str(steps)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(line, done.stdout), done.stdout
    for file in files:
        assert (tmp_path / file).stat().st_size > 0
