"""Ctrl-C in native stretches and updates: soon obeyed, with a sound model left."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mlx_baselines3.common.native import interrupts as _interrupts
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from support import interrupted_runs

# About one is what is meant; the machine may be busy. Without the checks each takes ten or more.
SECONDS = 5.0


@pytest.fixture(autouse=True)
def _heard():
    """A job in the background of a shell ignores Ctrl-C; its tests are to hear it all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", interrupted_runs.SCENARIOS)
def test_a_run_is_interrupted_and_goes_on(name):
    updates = "mlx" if name.endswith("MLX") else "native"
    done = subprocess.run(
        [sys.executable, interrupted_runs.__file__, name],
        env={**os.environ, "MLX_BASELINES3_UPDATES": updates},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts.pop("seconds") < SECONDS
    assert all(facts.values()), facts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    # The handler runs before the next line of the main thread, unless it waits.
    time.sleep(0)


def change(done: list[str]) -> None:
    with interrupts_deferred():
        interrupt()
        done.append("first")
        with interrupts_deferred():
            interrupt()
            done.append("second")


def compute_and_change(done: list[str]) -> None:
    with interrupts_deferred():
        with interrupts_allowed():
            interrupt()
            done.append("computed")
        done.append("changed")


def change_and_compute(done: list[str]) -> None:
    with interrupts_deferred():
        interrupt()
        done.append("changed")
        with interrupts_allowed():
            done.append("computed")


@pytest.mark.parametrize(
    ("work", "expected"),
    [(change, ["first", "second"]), (compute_and_change, []), (change_and_compute, ["changed"])],
)
def test_an_interrupt_waits_for_the_end_of_a_change_and_for_nothing_else(work, expected):
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(done)
    assert done == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_is_set_meanwhile_stays():
    def own(*_):
        return None

    before = signal.getsignal(signal.SIGTERM)
    try:
        with interrupts_deferred():
            signal.signal(signal.SIGTERM, own)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interrupt_at_the_very_start_leaves_the_next_ones_as_they_were(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    begin = _interrupts._Deferral.begin

    def begin_and_raise(deferral):
        begin(deferral)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_interrupts._Deferral, "begin", begin_and_raise)
        with pytest.raises(KeyboardInterrupt), interrupts_deferred():
            pass
    assert signal.getsignal(signal.SIGINT) is before
    assert _interrupts._current is None
