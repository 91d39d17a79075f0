"""CPU or GPU for ``device="auto"``, by the amount of work in a gradient step."""

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_baselines3.common.layers import named_parameters

__all__ = ["DeviceChoice", "choose_device"]

# A GPU's gradient step costs about half a millisecond of host work however small it is, and each action
# that MLX infers one more wait. A CPU core does about 40 million operations in a millisecond.
_ENOUGH = 100_000_000


class DeviceChoice(NamedTuple):
    """A device, and why."""

    device: mx.Device
    reason: str


def choose_device(network: nn.Module, batch_size: int) -> DeviceChoice:
    """
    Choose where to train on a machine that has a GPU.

    :param network: all that is trained
    :param batch_size: rows of a gradient step
    :return: the GPU for convolutions, and from 100 million operations a gradient step on (two for each weight
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
