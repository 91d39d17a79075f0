"""Event files, read back with TensorBoard's own reader."""

import io
import sys

import matplotlib
import mlx.core as mx
import numpy as np
import pytest
from PIL import Image as pillow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from mlx_baselines3.common.logger import Figure, HParam, Image, TensorBoardOutputFormat, Video
from mlx_baselines3.common.logger.media import image_to_hwc

matplotlib.use("Agg")


@pytest.fixture
def write(tmp_path):
    """Write rows, read the folder back."""

    def write_rows(*rows, excluded=None):
        output = TensorBoardOutputFormat(str(tmp_path))
        for step, row in enumerate(rows):
            output.write(row, excluded or dict.fromkeys(row), step * 10)
        output.close()
        reader = EventAccumulator(str(tmp_path))
        reader.Reload()
        return reader

    return write_rows


def test_scalars_and_steps(write):
    reader = write({"train/loss": 0.5, "n": 3, "flag": True}, {"train/loss": mx.array(0.25)})
    events = reader.Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(0, 0.5), (10, 0.25)]
    assert reader.Scalars("n")[0].value == 3.0
    assert reader.Scalars("flag")[0].value == 1.0


def test_excluded_and_unknown_values_are_left_out(write):
    reader = write({"a": 1, "b": 2, "c": [1, 2]}, excluded={"a": ("tensorboard",), "b": None, "c": None})
    assert reader.Tags()["scalars"] == ["b"]
    assert reader.Tags()["histograms"] == []


def test_text(write):
    reader = write({"note": "héllo **world**"})
    (event,) = reader.Tensors("note/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "héllo **world**"


@pytest.mark.parametrize("convert", [np.asarray, mx.array])
def test_histogram(write, convert):
    values = np.array([-2.0, 0.5, 0.5, 0.0, 3.0], np.float32)
    (event,) = write({"h": convert(values)}).Histograms("h")
    histogram = event.histogram_value
    assert (histogram.min, histogram.max, histogram.num) == (-2.0, 3.0, 5.0)
    assert histogram.sum == pytest.approx(2.0)
    assert histogram.sum_squares == pytest.approx(4 + 0.25 + 0.25 + 9)
    # each value lies between the limits of its bucket
    limits = np.array(histogram.bucket_limit)
    counts = np.array(histogram.bucket)
    assert counts.sum() == 5
    half = np.searchsorted(limits, 0.5)
    assert counts[half] == 2
    assert limits[half - 1] <= 0.5 < limits[half]
    assert limits[-2] <= 3.0 < limits[-1]


def test_histogram_of_equal_and_of_no_values(write, tmp_path):
    (event,) = write({"h": np.ones(4, int)}).Histograms("h")
    assert sum(event.histogram_value.bucket) == 4
    output = TensorBoardOutputFormat(str(tmp_path))
    with pytest.raises(ValueError, match="'h' is empty"):
        output.write({"h": np.zeros(0)}, {"h": None})
    output.close()


def decode(event):
    return np.asarray(pillow.open(io.BytesIO(event.encoded_image_string)))


def test_image_in_any_order_of_axes(write):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    reader = write(
        {
            "hwc": Image(pixels, "HWC"),
            "chw": Image(mx.array(pixels.transpose(2, 0, 1)), "chw"),
            "float": Image(pixels[..., 0] / 255.0, "HW"),
        }
    )
    for tag in ["hwc", "chw"]:
        (event,) = reader.Images(tag)
        assert (event.height, event.width) == (2, 3)
        np.testing.assert_array_equal(decode(event), pixels)
    np.testing.assert_array_equal(decode(reader.Images("float")[0]), pixels[..., 0])


def test_images_of_a_batch_are_tiled():
    batch = np.stack([np.full((2, 2, 1), value, np.uint8) for value in (1, 2, 3)])
    tiled = image_to_hwc(batch, "NHWC")[..., 0]
    assert tiled[::2, ::2].tolist() == [[1, 2], [3, 0]]
    assert tiled.shape == (4, 4)


@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 2), "HWC"), ((2, 2, 3), "HHC"), ((2, 2, 3), "HXC"), ((2, 2, 2), "HWC")]
)
def test_wrong_images_are_explained(shape, axes):
    with pytest.raises(ValueError, match=r"channels|one letter"):
        image_to_hwc(np.zeros(shape), axes)


@pytest.mark.parametrize("convert", [np.asarray, mx.array])
def test_video_is_a_looping_gif(write, convert):
    frames = np.zeros((1, 3, 3, 8, 6), np.float32)
    for t in range(3):
        frames[0, t, t] = 1.0  # red, green, blue
    (event,) = write({"v": Video(convert(frames), fps=20)}).Images("v")
    gif = pillow.open(io.BytesIO(event.encoded_image_string))
    assert (gif.format, gif.n_frames, gif.size) == ("GIF", 3, (6, 8))
    assert gif.info["duration"] == 50
    assert gif.info["loop"] == 0
    colours = []
    for t in range(3):
        gif.seek(t)
        colours.append(gif.convert("RGB").getpixel((2, 2)))
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_video_of_another_shape_is_refused(write):
    with pytest.raises(ValueError, match=r"\(batch, time, channels, height, width\).*\(2, 3, 8, 8\)"):
        write({"v": Video(np.zeros((2, 3, 8, 8)), 10)})


@pytest.mark.parametrize("close", [True, False])
def test_figure(write, close):
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(2, 1), dpi=50, facecolor="red")
    (event,) = write({"f": Figure(figure, close)}).Images("f")
    assert (event.width, event.height) == (100, 50)
    assert decode(event)[0, 0].tolist() == [255, 0, 0]
    assert plt.fignum_exists(figure.number) is not close
    plt.close("all")


def test_hyperparameters(write):
    values = {"lr": np.float32(0.5), "n": 3, "name": "x", "flag": False, "none": None}
    reader = write({"hparams": HParam(values, {"train/loss": 0.0})})
    plugin = reader.summary_metadata[metadata.EXPERIMENT_TAG].plugin_data
    experiment = metadata.parse_experiment_plugin_data(plugin.content)
    assert [info.name for info in experiment.hparam_infos] == ["lr", "n", "name", "flag"]
    assert [info.name.tag for info in experiment.metric_infos] == ["train/loss"]
    plugin = reader.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data
    hparams = metadata.parse_session_start_info_plugin_data(plugin.content).hparams
    assert hparams["lr"].number_value == 0.5
    assert hparams["n"].number_value == 3.0
    assert hparams["name"].string_value == "x"
    assert hparams["flag"].HasField("bool_value")
    assert metadata.SESSION_END_INFO_TAG in reader.Tags()["tensors"]


def test_a_hyperparameter_of_another_type_is_named(write):
    with pytest.raises(ValueError, match=r"'arch' is \[64, 64\]"):
        write({"hparams": HParam({"arch": [64, 64]}, {"loss": 0})})


def test_the_writer_is_open_to_programs(tmp_path):
    output = TensorBoardOutputFormat(str(tmp_path))
    output.writer.add_text("direct access", "a value", 5)
    output.writer.flush()
    output.close()
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert reader.Tensors("direct access/text_summary")[0].step == 5
    with pytest.raises(AssertionError, match="closed"):
        output.write({"a": 1}, {"a": None})


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(ImportError, match=r"tensorboard, which is not installed.*mlx-baselines3\[extra\]"):
        TensorBoardOutputFormat(str(tmp_path))


def test_missing_pillow_is_named(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"Pillow, which is not installed"):
        write({"i": Image(np.zeros((2, 2, 3)), "HWC")})
