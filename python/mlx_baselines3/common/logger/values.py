"""Loggable values besides numbers and text; import the names from ``common.logger``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MplFigure


class Video:
    """
    A video; TensorBoard shows it as a GIF.

    :param frames: ``(batch, time, channels, height, width)`` with 1 or 3 channels, uint8 in [0, 255] or
        float in [0, 1]; the videos of a batch are tiled
    :param fps: frames per second
    """

    def __init__(self, frames: mx.array | np.ndarray, fps: float) -> None:
        self.frames = frames
        self.fps = fps


class Figure:
    """
    A matplotlib figure.

    :param figure: the figure
    :param close: close it after logging
    """

    def __init__(self, figure: MplFigure, close: bool) -> None:
        self.figure = figure
        self.close = close


class Image:
    """
    An image.

    :param image: uint8 in [0, 255] or float in [0, 1]
    :param dataformats: the axes: ``"HWC"`` (Gymnasium's renders), ``"CHW"``, ``"NCHW"``, ...
    """

    def __init__(self, image: mx.array | np.ndarray | str, dataformats: str) -> None:
        self.image = image
        self.dataformats = dataformats


class HParam:
    """
    Hyperparameters, and the metrics to compare runs by (TensorBoard's HPARAMS tab).

    :param hparam_dict: name -> bool, str, number; ``None`` values are omitted
    :param metric_dict: names of logged scalars -> initial value
    :raises Exception: no metric is given, because TensorBoard would show nothing
    """

    def __init__(
        self, hparam_dict: Mapping[str, bool | str | float | None], metric_dict: Mapping[str, float]
    ) -> None:
        self.hparam_dict = hparam_dict
        if not metric_dict:
            raise Exception(
                "`metric_dict` must not be empty to display hyperparameters to the HPARAMS tensorboard tab."
            )
        self.metric_dict = metric_dict


class FormatUnsupportedError(NotImplementedError):
    """
    A value that an output format does not support.

    :param unsupported_formats: names of the formats, for instance ``["stdout"]``
    :param value_description: kind of the value
    """

    def __init__(self, unsupported_formats: Sequence[str], value_description: str) -> None:
        many = len(unsupported_formats) > 1
        formats = f"format{'s' if many else ''} {', '.join(unsupported_formats)} {'are' if many else 'is'}"
        super().__init__(
            f"The {formats} not supported for the {value_description} value logged.\n"
            "You can exclude formats via the `exclude` parameter of the logger's `record` function."
        )


def refuse_media(value: Any, formats: Sequence[str]) -> None:
    """
    Reject objects that a text format cannot show.

    :param value: the value to log
    :param formats: names of the format
    :raises FormatUnsupportedError: the value is a video, figure, image or set of hyperparameters
    """
    if isinstance(value, (Video, Figure, Image, HParam)):
        raise FormatUnsupportedError(formats, type(value).__name__.lower())


def as_numpy(array: Any) -> np.ndarray:
    """
    :param array: an MLX array or anything NumPy can convert
    :return: a NumPy array; bfloat16, which NumPy lacks, becomes float32
    """
    if isinstance(array, mx.array) and array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    return np.asarray(array)


def host_values(key_values: dict[str, Any]) -> dict[str, Any]:
    """
    Copy all MLX arrays to the host at once.

    :param key_values: the logged values
    :return: the same with Python numbers for scalar MLX arrays and NumPy arrays for the others
    """
    arrays = {key: value for key, value in key_values.items() if isinstance(value, mx.array)}
    if not arrays:
        return key_values
    mx.eval(list(arrays.values()))
    read = {key: value.item() if value.shape == () else as_numpy(value) for key, value in arrays.items()}
    return {**key_values, **read}
