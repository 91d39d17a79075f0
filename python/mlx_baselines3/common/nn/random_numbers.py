"""Standard normals of MLX's generator, without the pages that its key would drag to a GPU and back."""

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.nn.interop import all_to_mlx

__all__ = ["standard_normal"]


def standard_normal(shape: tuple[int, ...]) -> mx.array:
    """
    ``mx.random.normal(shape)``: the same key, and the generator continues in the same way.

    On an NVIDIA GPU the generator's key would be computed there. A model reads it at the end of each call,
    and its page moves to the host and back.

    :param shape: any
    :return: float32 array on the default device
    """
    if not nvrtc.usable():
        return mx.random.normal(shape)
    with mx.stream(mx.cpu):
        both = np.asarray(mx.random.split(mx.random.state[0]))  # type: ignore[index]
    high, low = both[0].tolist()
    mx.random.seed(high << 32 | low)
    (key,) = all_to_mlx([both[1]])
    return mx.random.normal(shape, key=key)
