"""What a bug report needs to know about the machine. Reached through ``common.utils.get_system_info``."""

from __future__ import annotations

import platform
import re
from typing import Any

import cloudpickle
import gymnasium as gym
import mlx.core as mx
import numpy as np

from mlx_baselines3 import _backend, _tf32
from mlx_baselines3._version import __version__


def _installed(distribution: str) -> str | None:
    # Not at the top: it would be a twentieth of importing the package.
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _mlx_backend() -> str:
    if mx.metal.is_available():
        return "Metal"
    # `mx.cuda` came after the oldest MLX that the package accepts
    cuda: Any = getattr(mx, "cuda", None)
    return "CUDA" if cuda is not None and cuda.is_available() else "CPU"


def _blas_line() -> tuple[str, str]:
    """
    :return: the version of the Rust core, and who multiplies matrices on the CPU
    """
    state = _backend.blas_state()
    if state.active:
        return __version__, f"{state.library} ({state.calls} calls)"
    return __version__, f"MLX's own ({state.reason})"


def get_system_info(print_info: bool = True) -> tuple[dict[str, str], str]:
    """
    Describe the operating system, Python and the libraries that matter.

    :param print_info: also print the description
    :return: the version of each part by name, and the same as text, one line each
    """
    core, blas = _blas_line()
    backend = _mlx_backend()
    info = {
        # "#42" in a kernel name would link to an issue when pasted on GitHub
        "OS": re.sub(r"#(\d)", r"# \1", f"{platform.platform()} {platform.version()}"),
        "Python": platform.python_version(),
        # the two differ when an old build of the core lies beside newer Python files
        "MLX-Baselines3": _installed("mlx-baselines3") or core,
        "Rust core": core,
        "MLX": _installed("mlx") or "unknown",
        "MLX backend": f"{backend}, default device {mx.default_device()}",
        "GPU Enabled": str(backend != "CPU"),
        "TF32": _tf32.describe(has_gpu=backend != "CPU"),
        "BLAS": blas,
        "Numpy": np.__version__,
        "Cloudpickle": cloudpickle.__version__,
        "Gymnasium": gym.__version__,
    }
    old_gym = _installed("gym")
    if old_gym is not None:
        info["OpenAI Gym"] = old_gym
    text = "".join(f"- {key}: {value}\n" for key, value in info.items())
    if print_info:
        print(text)
    return info, text
