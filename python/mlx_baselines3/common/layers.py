"""Modules with SB3's parameter names and layouts, for custom networks."""

from mlx_baselines3.common.nn.layers import (
    ChannelsLast,
    Conv2d,
    Flatten,
    Linear,
    Module,
    ModuleDict,
    Sequential,
    call,
    is_exactly,
    named_parameters,
    orthogonal,
    set_named_parameters,
)

__all__ = [
    "ChannelsLast",
    "Conv2d",
    "Flatten",
    "Linear",
    "Module",
    "ModuleDict",
    "Sequential",
    "call",
    "is_exactly",
    "named_parameters",
    "orthogonal",
    "set_named_parameters",
]
