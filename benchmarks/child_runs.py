"""Runs in separate processes, so that concurrent ones share nothing."""

import os
import subprocess
import sys
import tempfile
import threading

_worker = threading.local()


def last_line(script: str, *arguments: str) -> str | None:
    """
    Run a script with this interpreter on one core.

    :param script: its path
    :param arguments: its arguments
    :return: the last line that it printed; None if it failed, and then its messages are printed
    """
    if not hasattr(_worker, "folder"):
        # Folder of MLX's kernel cache: one worker's runs share it, two workers must not.
        _worker.folder = tempfile.TemporaryDirectory()
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": _worker.folder.name}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    if done.returncode != 0:
        print(f"{' '.join(arguments)} failed:\n{done.stderr}", flush=True)
        return None
    return done.stdout.splitlines()[-1]
