"""A short run of ``tests/fuzz/fuzz_native.py``: random calls of ``_native`` never end the process."""

import pathlib
import subprocess
import sys

FUZZ = pathlib.Path(__file__).parents[1] / "fuzz" / "fuzz_native.py"


def test_random_calls_return_or_raise():
    command = [sys.executable, str(FUZZ), "--count", "16000", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert "16000 calls" in done.stdout
