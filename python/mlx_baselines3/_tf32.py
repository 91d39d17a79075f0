"""
TF32, the reduced-precision matrix product of NVIDIA GPUs and newer Macs. MLX uses it for float32 products by
default; results then agree with SB3's to three digits only.
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["VARIABLE", "describe", "say_whether_it_took_effect", "switch_off"]

VARIABLE = "MLX_ENABLE_TF32"

# If MLX was imported first: whether a test product was computed in full float32.
_found_exact: bool | None = None


def switch_off() -> bool:
    """
    Request full float32 products from MLX, unless the user has set the variable.

    :return: whether the variable was set here; False if it was set already
    """
    if VARIABLE in os.environ:
        return False
    os.environ[VARIABLE] = "0"
    return True


def say_whether_it_took_effect() -> None:
    """
    MLX reads the variable once, at its first float32 product on a GPU. If MLX was imported before the
    variable was set, a test product shows whether it took effect, and GPUs with TF32 get a warning.
    """
    global _found_exact
    mx = importlib.import_module("mlx.core")
    if not _has_gpu(mx):
        return
    _found_exact = _is_exact(_gpu_product)
    if not _found_exact:
        warnings.warn(
            f"mlx.core was imported and used before mlx_baselines3, so {VARIABLE}=0, set only now, had no "
            "effect: this GPU multiplies float32 matrices in TF32, with 10 bits of fraction, not 23. "
            f"Import mlx_baselines3 first, or set {VARIABLE} before Python starts: to 0 for full float32, to "
            "1 for TF32 without this warning.",
            UserWarning,
            stacklevel=4,
        )
    elif _has_tf32(mx):
        warnings.warn(
            f"mlx.core was imported before mlx_baselines3, but {VARIABLE}=0, set only now, still took "
            "effect: this GPU multiplies float32 matrices in full float32. Import mlx_baselines3 first, or "
            f"set {VARIABLE} before Python starts, to silence this; 1 asks for TF32.",
            UserWarning,
            stacklevel=4,
        )


def describe(has_gpu: bool) -> str:
    """
    :param has_gpu: whether MLX has a GPU here
    :return: one line for the system information: whether MLX multiplies float32 matrices in TF32, and why
    """
    if not has_gpu:
        return "off (MLX has no GPU here)"
    if _found_exact is False:
        return f"on (MLX was used before {VARIABLE} was set)"
    value = os.environ.get(VARIABLE)
    if value is None:
        return f"on ({VARIABLE} is not set)"
    return f"{'on' if _reads_as_true(value) else 'off'} ({VARIABLE}={value})"


def _reads_as_true(value: str) -> bool:
    """As C's `atoi` does for MLX: "true" is 0, and so off."""
    number = re.match(r"\s*[+-]?\d+", value)
    return number is not None and int(number.group()) != 0


def _has_gpu(mx: Any) -> bool:
    # `mx.cuda` came after the oldest MLX that the package accepts
    cuda = getattr(mx, "cuda", None)
    return bool(mx.metal.is_available() or (cuda is not None and cuda.is_available()))


def _has_tf32(mx: Any) -> bool:
    """Whether this GPU is known to have TF32, or what Apple calls its neural accelerators."""
    # Older versions of MLX do not describe their device under this name.
    info: dict[str, Any] = getattr(mx, "device_info", dict)()
    if "compute_capability_major" in info:
        return int(info["compute_capability_major"]) >= 8
    generation = re.fullmatch(r"applegpu_g(\d+)[a-z]", str(info.get("architecture", "")))
    return generation is not None and int(generation.group(1)) >= 17


def _gpu_product(left: Any, right: Any) -> Any:
    mx = importlib.import_module("mlx.core")
    return mx.matmul(left, right, stream=mx.gpu)


def _is_exact(product: Callable[[Any, Any], Any]) -> bool:
    """Whether a product of float32 keeps more than ten bits of fraction: TF32 rounds this number to 1."""
    mx = importlib.import_module("mlx.core")
    numbers = mx.full((256, 256), 1 + 2.0**-12)
    return bool(mx.array_equal(product(numbers, mx.eye(256)), numbers).item())
