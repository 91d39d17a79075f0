"""
Helpers that several test modules share; they import one as ``from support.random_env import RandomEnv``.

pytest puts ``tests/`` on the path (``pythonpath`` in pyproject.toml), and processes that a test starts with
``spawn`` inherit the path. Programs that a test starts in another way get the folder as ``TESTS``.
"""

import pathlib

TESTS = pathlib.Path(__file__).resolve().parents[1]
DATA = TESTS / "data"
ROOT = TESTS.parent
