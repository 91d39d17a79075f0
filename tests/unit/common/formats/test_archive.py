"""A model file as a whole: what is in it, how it is written, and which files are refused."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
import zipfile

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.save_util import (
    ModelFileError,
    is_json_serializable,
    load_from_pkl,
    load_from_zip_file,
    open_path,
    recursive_getattr,
    recursive_setattr,
    save_to_pkl,
    save_to_zip_file,
)


class Plain:
    """Something with attributes."""


PARAMS = {
    "policy": {
        "mlp_extractor.policy_net.0.weight": mx.arange(6, dtype=mx.float32).reshape(2, 3),
        "log_std": mx.zeros(()),
    },
    "policy.optimizer": {
        "step": 12,
        "learning_rate": np.array(3e-4, dtype=np.float64),
        "state": {0: {"exp_avg": mx.ones((2,), mx.bfloat16)}, 1: None},
        "groups": [{"betas": (0.9, 0.999), "name": "adam"}],
    },
}


def check_params(params):
    assert list(params) == ["policy", "policy.optimizer"]
    weight = params["policy"]["mlp_extractor.policy_net.0.weight"]
    assert weight.dtype == mx.float32
    np.testing.assert_array_equal(np.array(weight), [[0, 1, 2], [3, 4, 5]])
    optimizer = params["policy.optimizer"]
    assert optimizer["step"] == 12
    assert optimizer["learning_rate"].dtype == np.float64
    assert optimizer["learning_rate"] == 3e-4
    assert optimizer["state"][0]["exp_avg"].dtype == mx.bfloat16
    assert optimizer["state"][1] is None
    assert optimizer["groups"] == [{"betas": (0.9, 0.999), "name": "adam"}]


def test_model_survives_a_file_and_a_stream(tmp_path):
    stream = io.BytesIO()
    for target in (tmp_path / "model", str(tmp_path / "other.zip"), stream):
        save_to_zip_file(target, {"gamma": 0.99}, PARAMS, {"log_ent_coef": mx.array([-0.5])})
    assert sorted(os.listdir(tmp_path)) == ["model.zip", "other.zip"]
    for source in (tmp_path / "model", str(tmp_path / "model.zip"), tmp_path / "other", stream):
        data, params, variables = load_from_zip_file(source)
        assert data == {"gamma": 0.99}
        check_params(params)
        assert variables["log_ent_coef"].item() == -0.5
    assert not stream.closed


def test_archive_is_a_stored_zip_of_json_and_safetensors(tmp_path):
    path = tmp_path / "model.zip"
    save_to_zip_file(path, {"gamma": 0.99}, {"policy": PARAMS["policy"]}, {})
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        assert {"data", "policy.safetensors", "variables.safetensors", "format", "system_info.txt"} < set(
            infos
        )
        assert "_mlx_baselines3_version" in infos
        assert {info.compress_type for info in infos.values()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("data")) == {"gamma": 0.99}
        archive.extract("policy.safetensors", tmp_path)
    read_by_mlx = mx.load(str(tmp_path / "policy.safetensors"))
    assert read_by_mlx["mlp_extractor.policy_net.0.weight"].shape == (2, 3)


def test_absent_parts_are_none(tmp_path):
    save_to_zip_file(tmp_path / "m.zip")
    assert load_from_zip_file(tmp_path / "m.zip") == (None, {}, None)
    save_to_zip_file(tmp_path / "m.zip", {"a": 1}, None, {})
    assert load_from_zip_file(tmp_path / "m.zip") == ({"a": 1}, {}, {})
    assert load_from_zip_file(tmp_path / "m.zip", load_data=False) == (None, {}, {})


def test_system_info_is_printed(tmp_path, capsys):
    save_to_zip_file(tmp_path / "m.zip", {})
    load_from_zip_file(tmp_path / "m.zip", print_system_info=True)
    printed = capsys.readouterr().out
    assert printed.startswith("== SAVED MODEL SYSTEM INFO ==\n")
    assert "Numpy" in printed


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "variables", ".hidden", "c:x"])
def test_params_with_unusable_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name an entry"):
        save_to_zip_file(tmp_path / "m.zip", {}, {name: {}})
    assert os.listdir(tmp_path) == []


def test_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.zip"
    save_to_zip_file(path, {"a": 1})
    with pytest.raises(TypeError):
        save_to_zip_file(path, {"a": 2}, {"policy": {"x": object()}})
    with pytest.raises(AttributeError, match=r"Can't pickle|lambda"):
        save_to_pkl(path, lambda: 0)
    assert load_from_zip_file(path)[0] == {"a": 1}
    assert os.listdir(tmp_path) == ["m.zip"]


def test_killed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.zip"
    path.write_bytes(b"old")
    script = """
        import os, signal, sys
        from mlx_baselines3.common.formats.archive import atomic_open
        with atomic_open(sys.argv[1]) as stream:
            stream.write(b"new" * 10_000)
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_overwriting_keeps_mode_and_follows_links(tmp_path):
    path, link = tmp_path / "m.pkl", tmp_path / "link.pkl"
    save_to_pkl(path, 1)
    path.chmod(0o640)
    link.symlink_to(path)
    save_to_pkl(link, 2)
    assert link.is_symlink()
    assert load_from_pkl(path) == 2
    assert path.stat().st_mode & 0o777 == 0o640


def test_paths_get_suffix_folder_and_warning(tmp_path):
    with pytest.warns(UserWarning, match="does not exist. Will create it"):
        save_to_pkl(tmp_path / "new" / "thing", "foo")
    assert load_from_pkl(tmp_path / "new" / "thing.pkl") == "foo"
    with pytest.warns(UserWarning, match="not found. Attempting"):
        assert load_from_pkl(str(tmp_path / "new" / "thing"), verbose=2) == "foo"
    (tmp_path / "folder.pkl").mkdir()
    with pytest.warns(UserWarning, match="is a folder. Will save instead to"):
        save_to_pkl(tmp_path / "folder.pkl", "bar")
    assert load_from_pkl(tmp_path / "folder.pkl_2") == "bar"
    with pytest.warns(UserWarning, match="exists, will overwrite it"):
        save_to_pkl(tmp_path / "new" / "thing", "baz", verbose=2)
    with pytest.raises(FileNotFoundError):
        load_from_zip_file(tmp_path / "nowhere")


def test_open_path_checks_streams(tmp_path):
    with pytest.raises(TypeError, match="123"):
        open_path(123, "r")
    with (tmp_path / "f").open("wb") as stream:
        assert open_path(stream, "w") is stream
        for mode in ("r", "rubbish"):
            with pytest.raises(ValueError, match="Expected"):
                open_path(stream, mode)
    with pytest.raises(ValueError, match="closed"):
        open_path(stream, "w")
    with pytest.raises(ValueError, match="mode"):
        open_path(tmp_path / "f", "rubbish")
    with open_path(tmp_path / "g", "write", suffix="pkl") as opened:
        opened.write(b"x")
    assert (tmp_path / "g.pkl").exists()


def test_recursive_access():
    model = Plain()
    model.actor = Plain()
    recursive_setattr(model, "actor.optimizer", 3)
    recursive_setattr(model, "gamma", 1)
    assert recursive_getattr(model, "actor.optimizer") == 3
    assert recursive_getattr(model, "gamma") == 1
    assert recursive_getattr(model, "nothing", None) is None
    with pytest.raises(AttributeError):
        recursive_getattr(model, "actor.nothing")


def test_is_json_serializable():
    assert is_json_serializable({"a": [1, None]})
    assert not is_json_serializable(np.zeros(1))


def test_ordinary_model_saves_without_a_word(tmp_path):
    data = {
        "observation_space": spaces.Discrete(3),
        "policy_kwargs": {"activation_fn": nn.ReLU},
        "seed": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_to_zip_file(tmp_path / "m", data, PARAMS)
        assert load_from_zip_file(tmp_path / "m")[0] == data


def zip_of(entries, **kwargs):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **kwargs) as archive:
        for name, contents in entries:
            archive.writestr(name, contents)
    return stream


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(ModelFileError, match="wasn't a zip-file"):
        load_from_zip_file(tmp_path / "text.zip")
    for entries in ([("readme", b"hello")], [("../data", b"{}")], [("/data", b"{}")], [("C:\\data", b"{}")]):
        with pytest.raises(ModelFileError):
            load_from_zip_file(zip_of(entries))


def test_newer_format_is_refused_with_advice():
    with pytest.raises(ModelFileError, match=r"format '2'.*9\.9.*Update"):
        load_from_zip_file(zip_of([("_mlx_baselines3_version", "9.9"), ("format", "2")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_twice_the_same_entry_is_refused():
    marks = [("_mlx_baselines3_version", "1"), ("format", "1")]
    with pytest.raises(ModelFileError, match="twice"):
        load_from_zip_file(zip_of([*marks, ("data", "{}"), ("data", "{}")]))


def test_compressed_archive_is_read_but_a_bomb_is_not():
    marks = [("_mlx_baselines3_version", "1"), ("format", "1")]
    small = zip_of([*marks, ("data", '{"a": 1}')], compression=zipfile.ZIP_DEFLATED)
    assert load_from_zip_file(small)[0] == {"a": 1}
    bomb = zip_of([*marks, ("data", b" " * 40_000_000)], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="claim"):
        load_from_zip_file(bomb)


def test_entry_that_understates_its_size_is_cut_off():
    marks = [("_mlx_baselines3_version", "1"), ("format", "1")]
    stream = zip_of([*marks, ("data", b" " * 8_000_000)], compression=zipfile.ZIP_DEFLATED)
    forged = stream.getvalue().replace((8_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(ModelFileError, match=r"'data' is (damaged|not as long)"):
        load_from_zip_file(io.BytesIO(forged))


class TestPolicyFiles:
    def test_other_files_end_in_one_error(self, tmp_path):
        from mlx_baselines3 import PPO

        model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
        model.save(tmp_path / "model")
        model.policy.save(tmp_path / "policy")
        kind = type(model.policy)
        assert isinstance(kind.load(tmp_path / "policy"), kind)
        save_to_zip_file(tmp_path / "weights", params={"policy": model.policy.state_dict()})
        save_to_zip_file(tmp_path / "arguments", data={"observation_space": model.observation_space})
        save_to_zip_file(tmp_path / "odd", data={"net_arch": 3}, params={"policy": model.policy.state_dict()})
        for name in ("model", "weights", "arguments", "odd"):
            with pytest.raises(ModelFileError, match=f"{name}.*{kind.__name__}"):
                kind.load(tmp_path / name)
