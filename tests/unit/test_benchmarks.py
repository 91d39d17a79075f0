"""The benchmark scripts run, and their tables say what was measured."""

import json
import os
import pathlib
import re
import subprocess
import sys

import gymnasium
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import buffers
    import environments
    import report
    import timing
    import updates

    modules = (buffers, environments, report, timing, updates)
    yield {module.__name__: module for module in modules}
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) and pathlib.Path(module.__file__).parent == FOLDER:
            del sys.modules[name]


def test_a_quick_run_writes_tables_numbers_and_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- machine -->\nold\n<!-- /machine -->\n<!-- buffers -->\n<!-- /buffers -->\nafter\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, FOLDER / "run.py", "--quick", "--only", "machine", "buffers"]
    # PYTHONPATH: the children import the package as this process does.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, "--out", out, "--write", page], check=True, capture_output=True, env=env)
    results = json.loads((out / "figures.json").read_text())
    assert next(row["what"] for row in results["buffers"]) == "GAE of 2048 x 8"
    assert all(0 < row["ours"] < 1 for row in results["buffers"])
    text = page.read_text()
    assert "GAE of 2048 x 8" in text
    assert "old" not in text
    assert (text[:7], text[-6:]) == ("before\n", "after\n")


def test_a_peer_that_fails_is_named_with_the_reason(scripts):
    timing, report = scripts["timing"], scripts["report"]
    ours = timing.Side("here", "ours", "environments:vec_env", {"env_id": "CartPole-v1", "n_envs": 2})
    broken = timing.Side("broken", "gymnasium", "environments:vec_env", {"env_id": "No-v0", "n_envs": 2})
    with timing.Pool() as pool:
        figure = timing.Figure("steps", "step", ours, (broken, ours))
        rows = timing.measure(pool, figure, timing.Effort(3, 0.001))
    assert "No" in rows[0]["missing"]
    assert rows[1]["ratio_low"] <= rows[1]["ratio"] <= rows[1]["ratio_high"]
    assert "| broken | " + rows[0]["missing"] in report.comparisons(rows)


def test_an_early_gymnasium_is_named(scripts, monkeypatch):
    monkeypatch.delattr(gymnasium, "VectorizeMode", raising=False)
    with pytest.raises(RuntimeError, match=rf"Gymnasium {re.escape(gymnasium.__version__)} does not export"):
        scripts["environments"].gymnasium_vector("CartPole-v1", 2)


def test_ratios_are_taken_turn_by_turn(scripts):
    compared = scripts["timing"].compare([1.0, 2.0, 4.0], [3.0, 4.0, 20.0])
    assert compared == {"theirs": 4.0, "ratio": 3.0, "ratio_low": 2.0, "ratio_high": 5.0}


@pytest.mark.parametrize(
    ("ratio", "reach", "words"),
    [
        (120.0, 100.0, "100: reached"),
        (0.5, 4.0, "4: **not reached**; the other side is faster"),
        (0.9, 0.8, "0.8: reached"),
        (0.9, None, "the other side is faster"),
        (1.1, None, ""),
    ],
)
def test_a_lost_comparison_is_said(scripts, ratio, reach, words):
    assert scripts["report"].verdict({"ratio": ratio, "reach": reach}) == words


def test_a_page_without_marks_is_refused(scripts, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="sweep"):
        scripts["report"].write_marked(page, "sweep", "text")
    assert page.read_text() == "nothing\n"


def test_sac_has_half_a_gigaflop(scripts):
    assert scripts["updates"].sac_operations() == pytest.approx(0.55e9, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.50 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 us"), (7e-9, "7.00 ns")],
)
def test_durations_have_three_digits(scripts, seconds, text):
    assert scripts["report"].duration(seconds) == text


def test_gpu_steps_run_and_a_missing_peer_is_named(tmp_path):
    # Tiny sizes on the CPU, uncompiled; a peer that is there would ask for a GPU.
    command = [sys.executable, FOLDER / "gpu.py", "--quick", "--tf32", "off", "--out", tmp_path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "BENCHMARK_DEVICE": "cpu"}
    env |= {"MLX_BASELINES3_UPDATES": "mlx", "MLX_DISABLE_COMPILE": "1"}
    subprocess.run([*command, "--sides", "ours", "bare", "torch"], check=True, capture_output=True, env=env)
    results = json.loads((tmp_path / "gpu.json").read_text())
    table = results["tf32_off"]
    names = {"PPO 32", "SAC 8, 2 steps in a call", "NatureCNN DQN 2", "NatureCNN PPO 16"}
    assert table["ours"].keys() == table["bare"].keys() == names
    assert all(
        0 < seconds < 10 for side in ("ours", "bare") for times in table[side].values() for seconds in times
    )
    assert all(isinstance(reason, str) for reason in table["torch"].values())
    assert results["learn"]["cpu"][0] > 0
    assert results["first"]["full"] > 0
    assert "| PPO 32 | " in (tmp_path / "gpu.md").read_text()


def test_a_column_has_medians_and_ranges_in_microseconds(scripts):
    import gpu

    assert gpu.cell([2e-6, 1e-6, 1.5e-3]) == "2 (1 to 1,500)"
    assert gpu.cell("no torch") == "no torch"
    assert gpu.cell(None) == ""


def test_a_baseline_is_measured_in_turn_with_the_same_work(scripts, monkeypatch, tmp_path):
    timing, peers = scripts["timing"], scripts["timing"].peers
    ours = timing.Side("here", "ours", "environments:vec_env", {"env_id": "CartPole-v1", "n_envs": 2})
    figure = timing.Figure("steps", "step", ours, ())
    monkeypatch.delenv("BASELINE", raising=False)
    with timing.Pool() as pool:
        assert "peer" not in timing.measure(pool, figure, timing.Effort(1, 0.001))[0]
        monkeypatch.setenv("BASELINE", str(tmp_path / "none.whl"))
        assert (
            "expected the path of a wheel"
            in timing.measure(pool, figure, timing.Effort(1, 0.001))[0]["missing"]
        )
        monkeypatch.setattr(timing, "baseline", lambda side: timing.dataclasses.replace(side, label="old"))
        row = timing.measure(pool, figure, timing.Effort(3, 0.001))[0]
    assert row["peer"] == "old"
    assert row["ratio"] > 0
    assert not peers.is_wanted("sb3")
