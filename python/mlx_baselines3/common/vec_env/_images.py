"""Tiling of rendered frames."""

from collections.abc import Sequence

import numpy as np


def tile_images(images_nhwc: Sequence[np.ndarray]) -> np.ndarray:
    """
    Tile ``N`` images row by row on a grid that is as close to square as possible.

    :param images_nhwc: ``N`` images of one shape ``(H, W, C)``
    :return: one image ``(rows * H, columns * W, C)``; cells without an image are black
    """
    images = np.asarray(images_nhwc)
    n_images, height, width, channels = images.shape
    rows = int(np.ceil(np.sqrt(n_images)))
    columns = int(np.ceil(n_images / rows))
    cells = np.zeros((rows * columns, height, width, channels), dtype=images.dtype)
    cells[:n_images] = images
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return np.asarray(grid.reshape(rows * height, columns * width, channels))
