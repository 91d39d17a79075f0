"""Arrays and figures as image files; import the names from ``common.logger``."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from mlx_baselines3.common.logger.values import as_numpy


def needs(package: str, what: str, error: ImportError) -> ImportError:
    """
    :param package: the optional package
    :param what: the feature that needs it
    :param error: the import error
    :return: the error to raise, with the command that fixes it
    """
    message = f"{what} needs {package}, which is not installed: `pip install 'mlx-baselines3[extra]'`."
    return ImportError(message, name=error.name)


def _pillow() -> Any:
    try:
        from PIL import Image as pillow
    except ImportError as error:
        raise needs("Pillow", "Logging images", error) from error
    return pillow


def _as_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    scaled: np.ndarray = np.clip(pixels.astype(np.float32) * 255.0, 0, 255)
    return scaled.astype(np.uint8)


def _tile(images: np.ndarray) -> np.ndarray:
    """
    :param images: ``(n, height, width, channels)``
    :return: one image with rows of ``ceil(sqrt(n))`` tiles, padded with black
    """
    n, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = int(np.ceil(n / columns))
    blank = np.zeros((rows * columns - n, height, width, channels), images.dtype)
    grid = np.concatenate([images, blank]).reshape(rows, columns, height, width, channels)
    tiled: np.ndarray = grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return tiled


def image_to_hwc(image: Any, dataformats: str) -> np.ndarray:
    """
    Convert an image to ``(height, width, channels)``; a batch (axis N) is tiled.

    :param image: uint8 in [0, 255] or float in [0, 1]
    :param dataformats: the axes, for instance ``"NCHW"`` or ``"HW"``
    :return: uint8, 1, 3 or 4 channels
    :raises ValueError: the axes do not match the array, or it is not an image
    """
    axes, pixels = dataformats.upper(), as_numpy(image)
    if len(axes) != pixels.ndim or len(set(axes)) != len(axes) or not {"H", "W"} <= set(axes) <= set("NHWC"):
        raise ValueError(
            f"Image of shape {pixels.shape} with dataformats={dataformats!r}: expected one letter of "
            "N, H, W, C for each axis, H and W among them (a Gymnasium render is 'HWC')."
        )
    order = [axes.index(axis) for axis in "NHWC" if axis in axes]
    pixels = pixels.transpose(order)
    if "N" not in axes:
        pixels = pixels[None]
    if "C" not in axes:
        pixels = pixels[..., None]
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"An image has 1, 3 or 4 channels, this one has {pixels.shape[-1]} ({dataformats}).")
    return _as_uint8(_tile(pixels))


def encode_png(pixels: np.ndarray) -> bytes:
    """
    :param pixels: uint8 ``(height, width, 1, 3 or 4)``
    :return: a PNG file
    """
    file = io.BytesIO()
    _pillow().fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def encode_gif(frames: Any, fps: float) -> tuple[bytes, int, int]:
    """
    :param frames: ``(batch, time, channels, height, width)``, 1 or 3 channels; a batch is tiled
    :param fps: frames per second
    :return: a looping GIF file, its height and its width in pixels
    :raises ValueError: the shape is wrong
    """
    pixels = as_numpy(frames)
    if pixels.ndim != 5 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            "Video frames must have the shape (batch, time, channels, height, width) with 1 or 3 channels, "
            f"got {pixels.shape}."
        )
    pixels = _as_uint8(pixels).transpose(1, 0, 3, 4, 2)
    tiled = [_tile(batch) for batch in pixels]
    pillow = _pillow()
    images = [pillow.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame) for frame in tiled]
    file = io.BytesIO()
    images[0].save(
        file, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
    )
    return file.getvalue(), tiled[0].shape[0], tiled[0].shape[1]


def render_figure(figure: Any, close: bool) -> np.ndarray:
    """
    :param figure: a matplotlib figure
    :param close: close it afterwards
    :return: the rendered figure, uint8 ``(height, width, 3)``
    """
    try:
        from matplotlib import pyplot
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise needs("matplotlib", "Logging figures", error) from error
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if close:
        pyplot.close(figure)
    return pixels
