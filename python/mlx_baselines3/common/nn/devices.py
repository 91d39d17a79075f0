"""Selection of the device."""

import re

import mlx.core as mx

__all__ = ["get_device"]


def _gpu_is_usable() -> bool:
    # `is_available` is missing in the oldest supported MLX.
    if hasattr(mx, "is_available"):
        return bool(mx.is_available(mx.Device(mx.gpu)))
    return bool(mx.metal.is_available())


def get_device(device: mx.Device | str = "auto") -> mx.Device:
    """
    Select the device. As in SB3, the CPU replaces a missing GPU.

    :param device: ``"auto"`` (MLX's default device), ``"cpu"``, ``"gpu"``, SB3's ``"cuda"`` and ``"mps"``
        as other names for the GPU, each with an optional index (``"cuda:1"``), or an ``mx.Device``
    :return: the device; its ``type`` is ``mx.DeviceType.cpu`` or ``mx.DeviceType.gpu``
    :raises ValueError: the name is none of these
    """
    if isinstance(device, mx.DeviceType):
        device = mx.Device(device)
    if not isinstance(device, mx.Device):
        # str() also takes torch.device, whose text is "cuda:0"
        text = str(device)
        if text == "auto":
            return mx.default_device()
        match = re.fullmatch(r"(cpu|gpu|cuda|mps)(?::(\d+))?", text)
        if match is None:
            raise ValueError(
                f"Unknown device {device!r}: expected 'auto', 'cpu', 'gpu' (or 'cuda', 'mps') "
                "with an optional index as in 'gpu:0', or an mx.Device."
            )
        kind = mx.cpu if match[1] == "cpu" else mx.gpu
        device = mx.Device(kind, int(match[2] or 0))
    if device.type == mx.gpu and not _gpu_is_usable():
        return mx.Device(mx.cpu)
    return device
