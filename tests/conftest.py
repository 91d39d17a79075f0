"""Settings that must be in place before MLX is imported."""

import getpass
import os
import pathlib
import random
import tempfile
from collections.abc import Iterator

# Parity with SB3 is checked to 2e-6: no TF32 products on GPUs that have them.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# mx.compile keeps the kernels that it builds for the CPU in the temporary directory, and two processes
# building the same one get in each other's way: each pytest-xdist worker has a directory of its own,
# which stays for the next run.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    folder = pathlib.Path(tempfile.gettempdir()) / f"mlx-baselines3-tests-{getpass.getuser()}" / worker
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

import numpy as np
import pytest

# The fast matrix product must be in place before a test module imports mlx.
import mlx_baselines3  # noqa: F401

# isort: split
import mlx.core as mx

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Whatever a test draws without a seed of its own is the same alone, in any order and on any worker."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  models without a seed draw from it
    mx.random.seed(0)


@pytest.fixture(scope="session")
def golden_updates() -> pathlib.Path:
    """Folder of the recorded SB3 updates."""
    return DATA / "updates"


@pytest.fixture(scope="session")
def golden_models() -> pathlib.Path:
    """Folder of the models that SB3 saved."""
    return DATA / "models"


@pytest.fixture
def mlx_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX computes all gradient steps, also those that Rust could."""
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", "mlx")


@pytest.fixture(params=["native", "mlx"])
def updates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who computes the gradient steps: first one, then the other."""
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", request.param)
    return request.param


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """The numbers do not depend on kernels, and building them takes seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
