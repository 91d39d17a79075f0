"""Models that sb3-contrib saved load without torch, act as they did there, go on learning, and go back."""

import base64
import json
import pickletools
import warnings
import zipfile

import numpy as np
import pytest

from mlx_baselines3 import contrib
from mlx_baselines3.common.save_util import load_from_zip_file
from mlx_baselines3.export import export_sb3
from support.contrib_updates import CONTRIB, read_case

MODELS = {
    "ars_linear": contrib.ARS,
    "crossq_warmup": contrib.CrossQ,
    "qrdqn": contrib.QRDQN,
    "tqc_auto": contrib.TQC,
    "trpo_continuous": contrib.TRPO,
}
# What contrib makes anew when it loads a file: views of its networks, and ARS's weights, its policy's.
MADE_ANEW = {"batch_norm_stats", "batch_norm_stats_target", "weights"}


def load(name, which=""):
    path = CONTRIB / "models" / f"{name}{which}.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return MODELS[name].load(path)


def recorded(name):
    with np.load(CONTRIB / "models" / f"{name}.npz") as data:
        return dict(data)


@pytest.mark.parametrize("which", [".before", ""])
@pytest.mark.parametrize("name", MODELS)
def test_it_acts_as_in_contrib(name, which):
    model, seen = load(name, which), recorded(name)
    actions, _ = model.predict(seen["obs"], deterministic=True)
    expected = seen["actions_before" if which else "actions"]
    if actions.dtype.kind == "i":
        np.testing.assert_array_equal(actions, expected)
    else:
        np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", [".before", ""])
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_attributes_are_those_of_the_file(name, which):
    model, case = load(name, which), read_case(name)
    for key, value in case.group("before" if which else "after").items():
        np.testing.assert_array_equal(np.array(model.policy.state_dict()[key]), value, err_msg=key)
    with zipfile.ZipFile(CONTRIB / "models" / f"{name}{which}.zip") as archive:
        stored = json.loads(archive.read("data"))
    for key, value in stored.items():
        if not (isinstance(value, dict) and ":serialized:" in value):
            assert getattr(model, key) == value, key


@pytest.mark.parametrize("name", MODELS)
def test_it_goes_back_with_contribs_names(name, tmp_path):
    """The file has the entries, the names and the numbers of contrib's own."""
    model = load(name)
    export_sb3(model, tmp_path / "back.zip")
    original, back = CONTRIB / "models" / f"{name}.zip", tmp_path / "back.zip"
    with zipfile.ZipFile(original) as theirs, zipfile.ZipFile(back) as ours:
        assert set(ours.namelist()) == set(theirs.namelist())
        stored, written = (json.loads(archive.read("data")) for archive in (theirs, ours))
    assert stored.keys() - written.keys() <= MADE_ANEW
    assert _names(written["policy_class"]) == _names(stored["policy_class"])
    _, theirs, _ = load_from_zip_file(original)
    _, ours, _ = load_from_zip_file(back)
    assert theirs.keys() == ours.keys()
    for key in theirs:
        _assert_equal(ours[key], theirs[key], key)


def _names(entry):
    pickled = base64.b64decode(entry[":serialized:"])
    texts = [text for _, text, _ in pickletools.genops(pickled) if isinstance(text, str)]
    return " ".join(texts).split()


def _assert_equal(ours, theirs, where):
    if isinstance(theirs, dict):
        # Newer than the layout that is written; torch adds it.
        assert theirs.keys() - ours.keys() <= {"decoupled_weight_decay"}, where
        if where.endswith("optimizer.state"):
            # TRPO's actor has no gradient in its optimizer: torch keeps no state, ours is 0.
            for key in ours.keys() - theirs.keys():
                assert not any(np.any(np.asarray(ours[key][slot])) for slot in ("exp_avg", "exp_avg_sq"))
            ours = {key: ours[key] for key in theirs}
        assert ours.keys() <= theirs.keys(), where
        for key in ours:
            _assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs, strict=True):
            _assert_equal(left, right, where)
    elif theirs is None or isinstance(theirs, (bool, str)):
        assert ours == theirs, where
    else:
        # A learning rate of ours is float32.
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), 1e-7, err_msg=where)


@pytest.mark.parametrize("name", MODELS)
def test_its_own_format_keeps_every_number(name, tmp_path):
    model = load(name)
    model.save(tmp_path / "own")
    again = MODELS[name].load(tmp_path / "own")
    for key, state in model.get_parameters().items():
        for field, array in state.items():
            np.testing.assert_array_equal(np.array(again.get_parameters()[key][field]), np.array(array))
