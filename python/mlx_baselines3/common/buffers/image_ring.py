"""
A second copy of a replay buffer's images, on an NVIDIA GPU: batches are gathered there.

The host's columns stay what files, callbacks and other devices read. Where memory is one for both, as on a
Mac, a second copy would gain nothing, and there is none.
"""

import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.buffers._fields import not_cut
from mlx_baselines3.common.buffers.replay import ReplayBuffer
from mlx_baselines3.common.cuda import nvrtc
from mlx_baselines3.common.nn.interop import all_to_mlx
from mlx_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

__all__ = ["ImageRing", "ring_of"]

# Bytes of images that are sent at once.
_PORTION = 1 << 26
# The part of the GPU's memory that rings may take: networks and batches need the rest.
_SHARE = 0.6
_COLUMNS = ("observations", "next_observations")


class ImageRing:
    """
    A buffer's images on the GPU, as MLX convolves them: channels last, a row for each transition.

    :param buffer: the buffer
    """

    def __init__(self, buffer: ReplayBuffer):
        space = buffer.observation_space
        self._transposed = is_image_space_channels_first(space)  # type: ignore[arg-type]
        channels, height, width = buffer.observations.shape[2:]
        self._image = (height, width, channels) if self._transposed else (channels, height, width)
        size = channels * height * width
        # Words are gathered faster than bytes.
        self._dtype = mx.uint8 if size % 4 else mx.uint32
        words = size if size % 4 else size // 4
        count = buffer.buffer_size * buffer.n_envs
        self._rings = {name: mx.zeros((count, words), self._dtype) for name in _COLUMNS}
        mx.eval(self._rings)
        self._seen: tuple[Any, ...] = ()
        self._added = self._pos = 0

    def update(self, buffer: ReplayBuffer) -> None:
        """
        Send what was added since. Rows that anyone else than ``add`` has written are seen if the columns are
        other arrays, or the position is another than so many calls of ``add`` explain.

        :param buffer: the buffer
        """
        size, new = buffer.buffer_size, buffer._added - self._added
        columns = tuple(getattr(buffer, name) for name in _COLUMNS)
        known = len(self._seen) == len(columns) and all(
            a is b for a, b in zip(columns, self._seen, strict=True)
        )
        if not known or new >= size or (self._pos + new) % size != buffer.pos:
            spans = [(0, buffer.size())]
        elif buffer.pos >= new:
            spans = [(buffer.pos - new, buffer.pos)]
        else:
            spans = [(size - new + buffer.pos, size), (0, buffer.pos)]
        for start, stop in spans:
            self._send(columns, start, stop, buffer.n_envs)
        self._seen, self._added, self._pos = columns, buffer._added, buffer.pos

    def _send(self, columns: tuple[np.ndarray, ...], start: int, stop: int, n_envs: int) -> None:
        step = max(_PORTION // (2 * columns[0][:1].nbytes), 1)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            parts = all_to_mlx([column[first:last] for column in columns])
            for name, part in zip(_COLUMNS, parts, strict=True):
                images = part.reshape(-1, *part.shape[2:])
                if self._transposed:
                    images = images.transpose(0, 2, 3, 1)
                rows = images.reshape(len(images), -1).view(self._dtype)
                self._rings[name][first * n_envs : last * n_envs] = rows
            mx.eval(self._rings)

    def take(self, name: str, rows: mx.array) -> mx.array:
        """
        :param name: column
        :param rows: (batch,) numbers of transitions
        :return: (batch, ...) images as the observation space has them
        """
        images = self._rings[name][rows].view(mx.uint8).reshape(-1, *self._image)
        return images.transpose(0, 3, 1, 2) if self._transposed else images

    def batches(self, buffer: ReplayBuffer, count: int, batch_size: int) -> Iterator[dict[str, mx.array]]:
        """
        Draw batches, as :meth:`ReplayBuffer.sample_many` does.

        :param buffer: the buffer
        :param count: number of batches
        :param batch_size: transitions in each
        :return: dictionaries of the fields of :class:`ReplayBufferSamples`
        """
        self.update(buffer)
        draws = []
        for _ in range(count):
            rows = buffer._draw_rows(batch_size)
            draws.append((rows, buffer._draw_envs(rows)))
        rows, envs = (np.concatenate(parts) for parts in zip(*draws, strict=True))
        columns = buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts
        actions, rewards, dones, timeouts = buffer._take(rows, envs, *columns)
        places = (rows % buffer.buffer_size * buffer.n_envs + envs).astype(np.uint32)
        fields = {
            "places": places,
            "actions": actions,
            "dones": not_cut(dones, timeouts).reshape(-1, 1),
            "rewards": rewards.reshape(-1, 1),
        }
        sent = dict(zip(fields, all_to_mlx([*fields.values()]), strict=True))
        for i in range(count):
            batch = {name: value[i * batch_size : (i + 1) * batch_size] for name, value in sent.items()}
            rows_ = batch.pop("places")
            yield {**{name: self.take(name, rows_) for name in _COLUMNS}, **batch}


def _is_for(buffer: Any) -> bool:
    """Whether a buffer holds images, and no one has changed how it stores or samples them."""
    return (
        type(buffer) is ReplayBuffer
        and not buffer.optimize_memory_usage
        and is_image_space(buffer.observation_space)
        and not {"add", "sample", "sample_many", "_get_samples", "to_torch", "_draw_rows"}
        & vars(buffer).keys()
    )


_rings: "weakref.WeakKeyDictionary[Any, ImageRing | None]" = weakref.WeakKeyDictionary()


def _memory() -> int:
    """:return: bytes of the GPU's memory that are still to be had"""
    info = mx.device_info(mx.gpu)
    total = int(info.get("total_memory", info.get("memory_size", 0)))
    return int(total * _SHARE) - mx.get_active_memory()


def ring_of(buffer: Any) -> ImageRing | None:
    """
    :param buffer: any replay buffer
    :return: its images on the GPU; None where batches are gathered on the host: other observations, other
        devices, or too little memory, which is said once
    """
    if not nvrtc.usable() or not _is_for(buffer):
        return None
    if buffer not in _rings:
        needed, there = sum(getattr(buffer, name).nbytes for name in _COLUMNS), _memory()
        if needed > there:
            warnings.warn(
                f"The replay buffer's images take {needed / 1e9:.1f} GB, and the GPU has {there / 1e9:.1f} "
                "for them: batches are gathered on the host, which takes longer. Try a smaller buffer_size.",
                stacklevel=2,
            )
        _rings[buffer] = None if needed > there else ImageRing(buffer)
    return _rings[buffer]
