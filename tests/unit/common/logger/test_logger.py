"""Tables, JSON, CSV and the logger itself. TensorBoard has a file of its own."""

import io
import json
import math
import sys
import types

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common import logger as log
from mlx_baselines3.common.logger import Figure, HParam, HumanOutputFormat, Image, Logger, Video


def table(values, excluded=None, **kwargs):
    file = io.StringIO()
    HumanOutputFormat(file, **kwargs).write(values, excluded or dict.fromkeys(values))
    return file.getvalue()


def test_table_to_the_character():
    values = {
        "train/loss": 0.123456,
        "rollout/ep_rew_mean": -1234.5678,
        "rollout/ep_len_mean": 200.0,
        "time/total_timesteps": 2048,
        "time/fps": 1234567,
        "train/explained_variance": 1.1920929e-07,
    }
    assert table(values) == (
        "-------------------------------------\n"
        "| rollout/              |           |\n"
        "|    ep_len_mean        | 200       |\n"
        "|    ep_rew_mean        | -1.23e+03 |\n"
        "| time/                 |           |\n"
        "|    fps                | 1234567   |\n"
        "|    total_timesteps    | 2048      |\n"
        "| train/                |           |\n"
        "|    explained_variance | 1.19e-07  |\n"
        "|    loss               | 0.123     |\n"
        "-------------------------------------\n"
    )


def test_values_of_other_types_in_a_table():
    values = {"a": np.float32(1.25), "b": "text", "c": mx.array(0.5), "d": True, "e": mx.array([1, 2])}
    lines = table(values).splitlines()
    assert lines[1:-1] == [
        "| a | 1.25     |",
        "| b | text     |",
        "| c | 0.5      |",
        "| d | True     |",
        "| e | [1 2]    |",
    ]


def test_long_names_and_values_are_cut():
    lines = table({"k" * 40: "v" * 40}).splitlines()
    assert lines[1] == f"| {'k' * 33}... | {'v' * 33}... |"
    assert len(lines[0]) == 79
    with pytest.raises(ValueError, match="Consider increasing `max_length`"):
        table({"k" * 40 + "1": 1, "k" * 40 + "2": 2})
    assert "k" * 40 in table({"k" * 40 + "1": 1, "k" * 40 + "2": 2}, max_length=50)


def test_excluded_values_leave_the_table():
    text = table({"a": 1, "b": 2, "c": 3}, {"a": ("stdout",), "b": ("log",), "c": ("csv",)})
    assert text == "---------\n| c | 3 |\n---------\n"
    with pytest.warns(UserWarning, match="empty key-value dict"):
        assert table({"a": 1}, {"a": "stdout"}) == ""


def test_human_output_needs_a_file():
    with pytest.raises(ValueError, match="Expected file or str"):
        HumanOutputFormat(42)
    written = []
    stand_in = types.SimpleNamespace(write=written.append, flush=lambda: None)
    HumanOutputFormat(stand_in).write_sequence(["a", "b"])
    assert written == ["a b\n"]


def test_a_progress_bar_is_moved_out_of_the_way(capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    calls = []
    monkeypatch.setattr(tqdm.tqdm, "write", lambda text, **kwargs: calls.append((text, kwargs)))
    console = types.SimpleNamespace(name="<stdout>", write=None, flush=lambda: None)
    HumanOutputFormat(console).write({"a": 1}, {"a": None})
    assert calls == [("---------\n| a | 1 |\n---------\n", {"file": sys.stdout, "end": ""})]


@pytest.mark.parametrize("name", ["stdout", "log", "json", "csv"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Video(np.zeros((1, 2, 3, 4, 4)), 10), "video"),
        (Figure(None, True), "figure"),
        (Image(np.zeros((4, 4, 3)), "HWC"), "image"),
        (HParam({"lr": 0.1}, {"loss": 0}), "hparam"),
    ],
)
def test_text_formats_refuse_media(tmp_path, name, value, kind):
    output = log.make_output_format(name, str(tmp_path))
    with pytest.raises(log.FormatUnsupportedError, match=rf"(?s){name}.*{kind}.*`exclude`"):
        output.write({"key": value}, {"key": ()})
    output.close()


def test_json_is_read_back(tmp_path):
    output = log.make_output_format("json", str(tmp_path), "_x")
    values = {
        "int": 1,
        "float32": np.float32(0.5),
        "one": np.array([3]),
        "nested": np.array([[1, 2], [3, 4]]),
        "mlx": mx.array(0.25),
        "mlx_list": mx.array([1.0, 2.0]),
        "text": 'a "quoted" ,\n line',
        "gone": 1,
    }
    output.write(values, {**dict.fromkeys(values), "gone": ("json",)})
    output.close()
    (line,) = (tmp_path / "progress_x.json").read_text().splitlines()
    assert json.loads(line) == {
        "int": 1,
        "float32": 0.5,
        "one": 3.0,
        "nested": [[1, 2], [3, 4]],
        "mlx": 0.25,
        "mlx_list": [1.0, 2.0],
        "text": 'a "quoted" ,\n line',
    }
    frame = log.read_json(str(tmp_path / "progress_x.json"))
    assert frame["mlx"].tolist() == [0.25]


def test_csv_columns_that_come_later(tmp_path):
    output = log.make_output_format("csv", str(tmp_path))
    rows = [
        {"a": 1, "text": 'tricky ", ;\n value'},
        {"a": mx.array(2.5), "text": "plain", "late": "x"},
        {"late": "y", "last": np.array([1, 2])},
    ]
    for row in rows:
        output.write(row, dict.fromkeys(row))
    output.close()
    frame = log.read_csv(str(tmp_path / "progress.csv"))
    assert list(frame.columns) == ["a", "text", "late", "last"]
    assert frame["text"].tolist()[:2] == ['tricky ", ;\n value', "plain"]
    assert frame["a"].tolist()[:2] == [1.0, 2.5]
    assert math.isnan(frame["a"][2])
    assert frame["late"].tolist()[1:] == ["x", "y"]
    assert frame["last"].tolist()[2] == "[1 2]"


def test_csv_bytes(tmp_path):
    output = log.make_output_format("csv", str(tmp_path))
    output.write({"b": 1.5, "a": "x"}, {"b": None, "a": None})
    output.write({"b": 2.5, "c": 3}, {"b": None, "c": None})
    output.close()
    assert (tmp_path / "progress.csv").read_text() == 'b,a,c\n1.5,"x",\n2.5,,3\n'


class Recorder(log.KVWriter):
    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((dict(key_values), dict(key_excluded), step))

    def close(self):
        self.rows.append("closed")


def test_dump_writes_one_row_and_starts_the_next():
    recorder = Recorder()
    logger = Logger(None, [recorder])
    logger.record("a", 1)
    logger.record("a", 2, exclude="csv")
    logger.record("m", mx.array(0.5))
    logger.dump(7)
    logger.record("b", 3, exclude=("csv", "json"))
    logger.dump(8)
    logger.close()
    assert recorder.rows == [
        ({"a": 2, "m": 0.5}, {"a": ("csv",), "m": ("",)}, 7),
        ({"b": 3}, {"b": ("csv", "json")}, 8),
        "closed",
    ]
    assert type(recorder.rows[0][0]["m"]) is float


def test_record_mean():
    recorder = Recorder()
    logger = Logger(None, [recorder])
    for value in [1.0, None, 2.0, 6.0]:
        logger.record_mean("x", value)
    logger.record_mean("y", mx.array(4.0))
    logger.record_mean("y", mx.array(8.0))
    logger.dump()
    logger.record_mean("x", 5.0)
    logger.dump()
    assert recorder.rows[0][0] == {"x": pytest.approx(3.0), "y": pytest.approx(6.0)}
    assert recorder.rows[1][0] == {"x": 5.0}


def test_disabled_logger_writes_nothing():
    recorder = Recorder()
    logger = Logger(None, [recorder])
    logger.set_level(log.DISABLED)
    logger.record("a", 1)
    logger.dump()
    assert recorder.rows == []


def test_levels(tmp_path, capsys):
    logger = log.configure(str(tmp_path), ["stdout"])
    logger.debug("too quiet")
    logger.info("one", 2)
    logger.set_level(log.ERROR)
    logger.warn("too quiet as well")
    logger.error("loud")
    assert capsys.readouterr().out == "one 2\nloud\n"
    assert (log.DEBUG, log.INFO, log.WARN, log.ERROR, log.DISABLED) == (10, 20, 30, 40, 50)


def test_configure_reads_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "from_env"))
    monkeypatch.setenv("SB3_LOG_FORMAT", "stdout,json")
    logger = log.configure()
    logger.close()
    assert logger.get_dir() == str(tmp_path / "from_env")
    assert [type(output).__name__ for output in logger.output_formats] == [
        "HumanOutputFormat",
        "JSONOutputFormat",
    ]
    assert capsys.readouterr().out == f"Logging to {logger.dir}\n"


def test_configure_default_formats_and_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SB3_LOGDIR", raising=False)
    monkeypatch.delenv("SB3_LOG_FORMAT", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logger = log.configure()
    logger.record("time/fps", 5)
    logger.dump()
    logger.close()
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("SB3-")
    assert {path.name for path in folder.iterdir()} == {"log.txt", "progress.csv"}
    assert "|    fps | 5 |" in (folder / "log.txt").read_text()
    assert log.configure(str(tmp_path), [""]).output_formats == []


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="Unknown format specified: yaml"):
        log.make_output_format("yaml", str(tmp_path))


def test_hparam_needs_metrics():
    with pytest.raises(Exception, match="must not be empty"):
        HParam({"lr": 0.1}, {})


@pytest.mark.parametrize("read", [log.read_csv, log.read_json])
def test_missing_pandas_is_named(tmp_path, monkeypatch, read):
    monkeypatch.setitem(sys.modules, "pandas", None)
    file = tmp_path / "empty"
    file.touch()
    with pytest.raises(ImportError, match=r"pandas.*mlx-baselines3\[extra\]"):
        read(str(file))
