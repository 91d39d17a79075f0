"""Settings that must be in place before MLX is imported."""

import os

# Parity with SB3 is checked to 2e-6: no TF32 products on GPUs that have them.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

import pathlib

import numpy as np
import pytest

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_updates() -> pathlib.Path:
    """Folder of the recorded SB3 updates."""
    return DATA / "updates"


@pytest.fixture(scope="session")
def golden_models() -> pathlib.Path:
    """Folder of the models that SB3 saved."""
    return DATA / "models"


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
