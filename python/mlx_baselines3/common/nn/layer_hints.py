"""
Error messages for torch's classes, or MLX's image layers, in a program written for SB3.

torch is not imported: its classes are recognised by the names of their modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim

__all__ = ["explained", "refuse_torch", "torch_class"]

_LAYERS = "mlx_baselines3.common.layers"
# Layers that MLX lacks, or that do not fit SB3's observations and names.
_OWN_LAYERS = ("Conv2d", "Flatten", "Module", "ModuleDict", "Sequential")
# torch's names with a different name in MLX.
_ELSEWHERE = {
    "ModuleList": "a Python list of layers",
    "Parameter": "an mlx.core.array",
    "Tensor": "an mlx.core.array",
    "BatchNorm1d": "mlx.nn.BatchNorm",
    "BatchNorm2d": f"{_LAYERS}.ChannelsLast(mlx.nn.BatchNorm(...))",
    "MaxPool2d": f"{_LAYERS}.ChannelsLast(mlx.nn.MaxPool2d(...))",
    "AvgPool2d": f"{_LAYERS}.ChannelsLast(mlx.nn.AvgPool2d(...))",
}
_MISSING = re.compile(r"module 'mlx\.nn[\w.]*' has no attribute '(\w+)'")


def torch_class(kind: type) -> type | None:
    """
    :param kind: any class
    :return: the torch class that it is or derives from, ``None`` if there is none
    """
    for base in kind.__mro__:
        if base.__module__ == "torch" or base.__module__.startswith("torch."):
            return base
    return None


def refuse_torch(value: Any, what: str, instead: str | None = None) -> None:
    """
    :param value: a class chosen by the user, or an object
    :param what: its argument name, for the message
    :param instead: the base class to use instead of a torch class
    :raises TypeError: it is torch's; the message names MLX's class
    """
    kind = value if isinstance(value, type) else type(value)
    found = torch_class(kind)
    if found is None:
        return
    package = "torch.optim" if found.__module__.startswith("torch.optim") else "torch.nn"
    name = f"{package}.{found.__name__}" if found.__module__ != "torch" else f"torch.{found.__name__}"
    if found is not kind:
        base = instead or _counterpart(found)
        raise TypeError(
            f"{what} is {kind.__qualname__}, which derives from {name}, but this package trains with MLX and "
            f"torch's classes cannot be used. Write it with MLX's layers, derived from {base}; "
            "docs/migration.md has a table."
        )
    raise TypeError(
        f"{what} is {name}, but this package trains with MLX and torch's classes cannot be used. "
        f"Use {_counterpart(found)}."
    )


def _counterpart(found: type) -> str:
    name = found.__name__
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    if found.__module__.startswith("torch.optim"):
        if isinstance(getattr(optim, name, None), type):
            return f"mlx.optimizers.{name}"
        return "one of mlx.optimizers, such as Adam, AdamW, RMSprop or SGD: MLX has no " + name
    if name in _OWN_LAYERS:
        return f"{_LAYERS}.{name}"
    if isinstance(getattr(nn, name, None), type):
        return f"mlx.nn.{name}"
    return f"MLX's counterpart, or a custom class derived from {_LAYERS}.Module: mlx.nn has no {name}"


@contextmanager
def explained() -> Iterator[None]:
    """
    Extend errors of a features extractor with the differences between MLX's and torch's layers.

    :raises AttributeError: ``mlx.nn`` lacks the layer; the message names an alternative
    :raises ValueError: a convolution did not fit the images; the message says where channels are expected
    """
    try:
        yield
    except AttributeError as error:
        missing = _MISSING.search(str(error))
        if missing is None:
            raise
        kind = type(missing[1], (), {"__module__": "torch.nn"})
        raise AttributeError(f"{error}. Use {_counterpart(kind)}.") from error
    except ValueError as error:
        if not str(error).startswith("[conv]"):
            raise
        raise ValueError(
            f"{error} mlx.nn.Conv2d takes images with their channels last, but observations have them first, "
            f"as in SB3: use {_LAYERS}.Conv2d, and {_LAYERS}.Flatten after it."
        ) from error
