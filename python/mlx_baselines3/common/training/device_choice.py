"""CPU or GPU for ``device="auto"``, by the amount of work in a gradient step."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_baselines3.common.native.interrupts import interrupts_deferred
from mlx_baselines3.common.nn.layers import named_parameters
from mlx_baselines3.common.policies.evaluated import ModelCall

__all__ = ["DeviceChoice", "choose_device", "on_own_device"]

Method = TypeVar("Method", bound=Callable[..., Any])

# Measured on an H200 beside 16 x86 cores (docs/notes/cpu-or-gpu.md), with the CPU's steps in Rust: up to 140
# million the CPU's `learn()` won at every point, about 200 it was mixed, from 500 on the GPU's won at every
# one. In between, slower GPUs than that one and the minute that a GPU first compiles speak for the CPU; four
# cores instead of 16 made little difference there. Where MLX computes the CPU's steps, too, a GPU pays from
# some 15 to 50 million on, and the user must say so: whether Rust has the steps is not known this early.
_ENOUGH = 300_000_000


class DeviceChoice(NamedTuple):
    """A device, and why."""

    device: mx.Device
    reason: str


def choose_device(network: nn.Module, batch_size: int) -> DeviceChoice:
    """
    Choose where to train on a machine that has a GPU.

    :param network: all that is trained
    :param batch_size: rows of a gradient step
    :return: the GPU for convolutions, and from 300 million operations a gradient step on (two for each weight
        and row forwards, four backwards); else the CPU
    """
    arrays = named_parameters(network).values()
    if any(array.ndim > 2 for array in arrays):
        return DeviceChoice(mx.Device(mx.gpu), "the network has convolutions")
    operations = 6 * batch_size * sum(array.size for array in arrays)
    size = f"a gradient step is about {operations / 1e6:.0f} million operations"
    if operations >= _ENOUGH:
        return DeviceChoice(mx.Device(mx.gpu), size)
    return DeviceChoice(mx.Device(mx.cpu), f"{size}, less than the {_ENOUGH // 10**6} million that pay")


def on_own_device(method: Method) -> Method:
    """
    For ``train()``, which programs with a loop of their own call outside of ``learn()``.

    :param method: method of something that has a ``device``
    :return: the same, computing there whatever MLX's default device is
    """

    @wraps(method)
    def on_device(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Ctrl-C waits while numbers, counters and log change; what computes lets it through.
        with interrupts_deferred(), ModelCall(self), mx.stream(self.device):
            return method(self, *args, **kwargs)

    return cast(Method, on_device)
