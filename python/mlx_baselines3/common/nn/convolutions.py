"""
Convolutions on a CPU as matrix products of the patches that a kernel sees.

MLX's own ``conv2d`` takes ten times as long backwards as forwards: five times as long as all else in a
gradient step of a CNN.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import cast

import mlx.core as mx

__all__ = ["convolved"]

# Patches of so many bytes are made at once: they are many times as large as the images.
_PATCH_BYTES = 1 << 26

Pair = tuple[int, int]


def convolved(images: mx.array, weights: mx.array, stride: int | Pair, padding: int | Pair) -> mx.array:
    """
    :param images: (batch, height, width, in_channels)
    :param weights: (out_channels, kernel_height, kernel_width, in_channels)
    :param stride: in pixels: vertical and horizontal, or one number for both
    :param padding: zeros on each side, likewise
    :return: (batch, height', width', out_channels), as ``mx.conv2d`` gives
    """
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    sides = images.shape[1] + 2 * vertical, images.shape[2] + 2 * horizontal
    fits = all(kernel <= side for kernel, side in zip(weights.shape[1:3], sides, strict=True))
    # MLX says best what is wrong, and a GPU has its own convolutions.
    if (
        mx.default_device().type != mx.cpu
        or not fits
        or not images.size
        or images.shape[-1] != weights.shape[-1]
    ):
        return mx.conv2d(images, weights, stride, padding)
    if vertical or horizontal:
        images = mx.pad(images, [(0, 0), (vertical, vertical), (horizontal, horizontal), (0, 0)])
    return _function((stride, stride) if isinstance(stride, int) else (stride[0], stride[1]))(images, weights)


def _outputs(images: mx.array, kernel: Pair, stride: Pair) -> Pair:
    """Height and width of what a convolution gives."""
    height, width = ((images.shape[1 + axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1))
    return height, width


def _chunks(images: mx.array, kernel: Pair, stride: Pair) -> list[slice]:
    """Rows of a batch whose patches are made at once."""
    patch = math.prod(kernel) * images.shape[-1] * images.dtype.size
    size = max(_PATCH_BYTES // (math.prod(_outputs(images, kernel, stride)) * patch), 1)
    return [slice(start, start + size) for start in range(0, images.shape[0], size)]


def _patches(images: mx.array, kernel: Pair, stride: Pair) -> mx.array:
    """:return: (batch * height' * width', kernel_height * kernel_width * in_channels)"""
    images = mx.contiguous(images)
    count, height, width, channels = images.shape
    line = width * channels
    shape = (count, *_outputs(images, kernel, stride), *kernel, channels)
    strides = (height * line, stride[0] * line, stride[1] * channels, line, channels, 1)
    return mx.as_strided(images, shape, strides).reshape(-1, math.prod(kernel) * channels)


def _to_images(by_patches: mx.array, sides: Pair, stride: Pair) -> mx.array:
    """
    Add up the gradients of patches where they overlap.

    A kernel is cut into tiles of a stride's size. Tiles at the same place of all patches do not overlap, so
    that as few additions as a kernel has tiles do all.

    :param by_patches: (batch, height', width', kernel_height, kernel_width, channels)
    :param sides: height and width of the images
    :param stride: vertical and horizontal
    :return: (batch, height, width, channels)
    """
    count, down, across, *kernel, channels = by_patches.shape
    tiles = [-(-side // step) for side, step in zip(kernel, stride, strict=True)]
    missing = [(0, tile * step - side) for tile, step, side in zip(tiles, stride, kernel, strict=True)]
    by_tiles = mx.pad(by_patches, [(0, 0), (0, 0), (0, 0), *missing, (0, 0)])
    by_tiles = by_tiles.reshape(count, down, across, tiles[0], stride[0], tiles[1], stride[1], channels)
    lines, columns = down + tiles[0] - 1, across + tiles[1] - 1
    sums = mx.zeros((count, lines, stride[0], columns, stride[1], channels), by_patches.dtype)
    for i in range(tiles[0]):
        for j in range(tiles[1]):
            tile = by_tiles[:, :, :, i, :, j].transpose(0, 1, 3, 2, 4, 5)
            sums = sums.at[:, i : i + down, :, j : j + across].add(tile)
    images = sums.reshape(count, lines * stride[0], columns * stride[1], channels)
    images = images[:, : sides[0], : sides[1]]
    # Pixels that no patch reaches.
    rest = [(0, side - seen) for side, seen in zip(sides, images.shape[1:3], strict=True)]
    return mx.pad(images, [(0, 0), *rest, (0, 0)])


@lru_cache(maxsize=32)
def _function(stride: Pair) -> Callable[[mx.array, mx.array], mx.array]:
    """:return: the convolution with this stride, of images that have their padding"""

    def convolve(images: mx.array, weights: mx.array) -> mx.array:
        kernel = weights.shape[1], weights.shape[2]
        matrix = weights.reshape(weights.shape[0], -1).T
        parts = [_patches(images[rows], kernel, stride) @ matrix for rows in _chunks(images, kernel, stride)]
        out = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return out.reshape(images.shape[0], *_outputs(images, kernel, stride), weights.shape[0])

    def backward(
        primals: tuple[mx.array, mx.array], by_outputs: mx.array, outputs: mx.array
    ) -> tuple[mx.array, mx.array]:
        images, weights = primals
        kernel = weights.shape[1], weights.shape[2]
        matrix = weights.reshape(weights.shape[0], -1)
        sides = images.shape[1], images.shape[2]
        by_weights, by_images = [], []
        for rows in _chunks(images, kernel, stride):
            of_rows = by_outputs[rows].reshape(-1, weights.shape[0])
            by_weights.append(of_rows.T @ _patches(images[rows], kernel, stride))
            shape = (*by_outputs[rows].shape[:3], *kernel, images.shape[-1])
            by_images.append(_to_images((of_rows @ matrix).reshape(shape), sides, stride))
        whole = by_images[0] if len(by_images) == 1 else mx.concatenate(by_images)
        return whole, sum(by_weights[1:], by_weights[0]).reshape(weights.shape)

    function = mx.custom_function(convolve)
    function.vjp(backward)
    # MLX's stubs do not know what it gives.
    return cast(Callable[[mx.array, mx.array], mx.array], function)
