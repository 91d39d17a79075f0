"""TensorBoard's event files, written with only the ``tensorboard`` package; import from ``common.logger``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_baselines3.common.logger.formats import Excluded, KVWriter
from mlx_baselines3.common.logger.media import encode_gif, encode_png, image_to_hwc, needs, render_figure
from mlx_baselines3.common.logger.values import Figure, HParam, Image, Video, as_numpy, host_values

# TensorFlow's histogram buckets: from 1e-12 to 1e20 in steps of 10 %, mirrored for negative values.
_POSITIVE_LIMITS = 1e-12 * 1.1 ** np.arange(774)
_BUCKET_LIMITS = np.concatenate([-_POSITIVE_LIMITS[::-1], [0.0], _POSITIVE_LIMITS])


class SummaryWriter:
    """
    Writes one event file, with the methods of ``torch.utils.tensorboard.SummaryWriter`` that logging needs.
    ``TensorBoardOutputFormat.writer`` is one, so programs can add values that the logger does not support.

    :param log_dir: folder of the run
    :raises ImportError: tensorboard is not installed
    """

    def __init__(self, log_dir: str) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise needs("tensorboard", "Logging to TensorBoard", error) from error
        self.log_dir = str(log_dir)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._metadata = summary_pb2.SummaryMetadata
        self.file_writer = EventFileWriter(self.log_dir)

    def _add(self, step: int | None, tag: str, **value: Any) -> None:
        summary = self._summary(value=[self._summary.Value(tag=tag, **value)])
        event = self._event(wall_time=time.time(), summary=summary)
        if step is not None:
            event.step = int(step)
        self.file_writer.add_event(event)

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        """
        :param tag: name
        :param scalar_value: a number
        :param global_step: environment steps so far
        """
        self._add(global_step, tag, simple_value=float(scalar_value))

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        """
        :param tag: name
        :param text_string: Markdown
        :param global_step: environment steps so far
        """
        from tensorboard.compat.proto import tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorboard.plugins.text import metadata

        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, string_val=[text_string.encode()], tensor_shape=shape
        )
        plugin = metadata.create_summary_metadata(display_name="", description="")
        self._add(global_step, f"{tag}/text_summary", tensor=tensor, metadata=plugin)

    def add_histogram(self, tag: str, values: Any, global_step: int | None = None) -> None:
        """
        :param tag: name
        :param values: numbers, any shape
        :param global_step: environment steps so far
        :raises ValueError: there are no values
        """
        from tensorboard.compat.proto import summary_pb2

        flat = as_numpy(values).ravel().astype(np.float64)
        if flat.size == 0:
            raise ValueError(f"The histogram {tag!r} is empty: it needs at least one value.")
        counts, _ = np.histogram(flat, bins=_BUCKET_LIMITS)
        used = np.flatnonzero(counts)
        first, last = (used[0], used[-1]) if used.size else (0, 0)
        # An empty first bucket gives the first full one its lower limit.
        front = max(int(first) - 1, 0)
        histogram = summary_pb2.HistogramProto(
            min=np.min(flat),
            max=np.max(flat),
            num=flat.size,
            sum=flat.sum(),
            sum_squares=flat.dot(flat),
            bucket_limit=_BUCKET_LIMITS[front + 1 : last + 2].tolist(),
            bucket=counts[front : last + 1].tolist(),
        )
        self._add(global_step, tag, histo=histogram)

    def add_image(
        self, tag: str, img_tensor: Any, global_step: int | None = None, *, dataformats: str = "CHW"
    ) -> None:
        """
        :param tag: name
        :param img_tensor: uint8 in [0, 255] or float in [0, 1]
        :param global_step: environment steps so far
        :param dataformats: the axes
        """
        pixels = image_to_hwc(img_tensor, dataformats)
        height, width, channels = pixels.shape
        image = self._summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=encode_png(pixels)
        )
        self._add(global_step, tag, image=image)

    def add_figure(self, tag: str, figure: Any, global_step: int | None = None, close: bool = True) -> None:
        """
        :param tag: name
        :param figure: a matplotlib figure
        :param global_step: environment steps so far
        :param close: close it afterwards
        """
        self.add_image(tag, render_figure(figure, close), global_step, dataformats="HWC")

    def add_video(self, tag: str, vid_tensor: Any, global_step: int | None = None, fps: float = 4) -> None:
        """
        :param tag: name
        :param vid_tensor: ``(batch, time, channels, height, width)``
        :param global_step: environment steps so far
        :param fps: frames per second
        """
        gif, height, width = encode_gif(vid_tensor, fps)
        channels = int(vid_tensor.shape[2])
        image = self._summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=gif)
        self._add(global_step, tag, image=image)

    def _add_hparams_data(self, tag: str, content: Any) -> None:
        from tensorboard.plugins.hparams import metadata

        # Without a value, TensorBoard 2.x ignores the tag.
        self._add(None, tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)

    def add_hparams(
        self, hparam_dict: Mapping[str, bool | str | float | None], metric_dict: Mapping[str, float]
    ) -> None:
        """
        Describe the run in TensorBoard's HPARAMS tab. Unlike torch's method it does not open a second run.

        :param hparam_dict: name -> bool, str, number; ``None`` values are omitted
        :param metric_dict: its keys are the names of the scalars to compare runs by
        :raises ValueError: a hyperparameter is something else
        """
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        experiment, start = api_pb2.Experiment(), plugin_data_pb2.SessionStartInfo()
        for name, value in hparam_dict.items():
            if value is None:
                continue
            plain: bool | str | float
            if isinstance(value, (bool, np.bool_)):
                field, kind, plain = "bool_value", api_pb2.DATA_TYPE_BOOL, bool(value)
            elif isinstance(value, str):
                field, kind, plain = "string_value", api_pb2.DATA_TYPE_STRING, value
            elif isinstance(value, (int, float, np.number)):
                field, kind, plain = "number_value", api_pb2.DATA_TYPE_FLOAT64, float(value)
            else:
                raise ValueError(
                    f"Hyperparameter {name!r} is {value!r}: expected bool, str, int, float or None."
                )
            setattr(start.hparams[name], field, plain)
            experiment.hparam_infos.add(name=name, type=kind)
        for name in metric_dict:
            experiment.metric_infos.add(name=api_pb2.MetricName(tag=name))
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
        data = plugin_data_pb2.HParamsPluginData
        self._add_hparams_data(metadata.EXPERIMENT_TAG, data(experiment=experiment))
        self._add_hparams_data(metadata.SESSION_START_INFO_TAG, data(session_start_info=start))
        self._add_hparams_data(metadata.SESSION_END_INFO_TAG, data(session_end_info=end))

    def flush(self) -> None:
        """Write queued events to disk."""
        self.file_writer.flush()

    def close(self) -> None:
        """Write queued events and close the file."""
        self.file_writer.close()


class TensorBoardOutputFormat(KVWriter):
    """
    Writes TensorBoard's event files: numbers, text, histograms (arrays), images, videos, figures and
    hyperparameters. Values of other types are ignored.

    :param folder: folder of the run
    :raises ImportError: tensorboard is not installed
    """

    def __init__(self, folder: str) -> None:
        self.writer = SummaryWriter(log_dir=folder)
        self._is_closed = False

    def write(self, key_values: dict[str, Any], key_excluded: Excluded, step: int = 0) -> None:
        assert not self._is_closed, "The SummaryWriter was closed, please re-create one."
        for key, value in sorted(host_values(key_values).items(), key=lambda item: item[0]):
            if "tensorboard" not in (key_excluded.get(key) or ()):
                self._write_one(key, value, step)
        self.writer.flush()

    def _write_one(self, key: str, value: Any, step: int) -> None:
        if isinstance(value, str):
            self.writer.add_text(key, value, step)
        elif isinstance(value, np.ScalarType):
            self.writer.add_scalar(key, value, step)
        elif isinstance(value, np.ndarray):
            self.writer.add_histogram(key, value, step)
        elif isinstance(value, Video):
            self.writer.add_video(key, value.frames, step, value.fps)
        elif isinstance(value, Figure):
            self.writer.add_figure(key, value.figure, step, close=value.close)
        elif isinstance(value, Image):
            self.writer.add_image(key, value.image, step, dataformats=value.dataformats)
        elif isinstance(value, HParam):
            self.writer.add_hparams(value.hparam_dict, value.metric_dict)

    def close(self) -> None:
        self.writer.close()
        self._is_closed = True
