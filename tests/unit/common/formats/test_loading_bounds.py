"""Files that are made to cost more than they are worth: memory, time, or a terminal. All are refused."""

import base64
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile

import pytest

from mlx_baselines3 import DQN, PPO
from mlx_baselines3.common.export import export_sb3
from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import ArchiveReader, printable
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
from mlx_baselines3.common.formats.vec_normalize import load_vec_normalize
from mlx_baselines3.common.save_util import ModelFileError, json_to_data, load_from_zip_file
from mlx_baselines3.common.saving.replay import load_replay_buffer
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize

OURS = {"_mlx_baselines3_version": b"0.2.0", "format": b"1"}
# Two bytes of text for sixty of memory, and half a million times so.
MANY = b"[" + b"[]," * 500_000 + b"[]]"
BOUND = 24 * 2**20


def zipped(entries, packing=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, contents in entries.items():
            archive.writestr(name, contents)
    return stream.getvalue()


def tensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(file, entry, change):
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries[entry] = json.dumps(change(json.loads(entries[entry]))).encode()
    return zipped(entries, zipfile.ZIP_STORED)


def load_statistics(path):
    return load_vec_normalize(path, VecNormalize)


def packed_json():
    yield "layout", load_replay_buffer, {**OURS, "replay_buffer/layout": MANY}
    statistics = {"vec_normalize/attributes": MANY, "vec_normalize/arrays.safetensors": tensors({})}
    yield "attributes", load_statistics, {**OURS, **statistics}
    yield "header", load_from_zip_file, {**OURS, "policy.safetensors": tensors(MANY)}
    structure = {"__metadata__": {"structure": MANY.decode()}}
    yield "structure", load_from_zip_file, {**OURS, "policy.safetensors": tensors(structure)}


def packed_opcodes():
    pickled = b"\x80\x02" + b"]" * 500_000 + b"."
    state = zipped({"archive/data.pkl": pickled})
    yield "state", load_from_zip_file, {"_stable_baselines3_version": b"2.9.2", "policy.pth": state}


@pytest.mark.parametrize(
    ("read", "entries"),
    [pytest.param(*case[1:], id=case[0]) for case in (*packed_json(), *packed_opcodes())],
)
def test_what_is_packed_makes_no_more_values_than_the_file_has_bytes(read, entries):
    file = zipped(entries)
    assert len(file) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"too many for a file|more than \d+ instructions"):
            read(io.BytesIO(file))
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


def test_a_packed_pickle_among_the_attributes_is_left_out():
    pickled = base64.b64encode(b"\x80\x02" + b"]" * 500_000 + b".").decode()
    data = json.dumps({"extra": {":type:": "x", ":serialized:": pickled}})
    file = zipped({"_stable_baselines3_version": b"2.9.2", "data": data})
    assert len(file) < 20_000
    with pytest.warns(UserWarning, match="instructions"):
        loaded, _, _ = load_from_zip_file(io.BytesIO(file))
    assert loaded == {}


def test_many_small_states_are_not_more_than_the_file():
    """Each unfolds to a megabyte, which one might."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\0\0\x04\0tQ"
    tensor = b"(" + storage + b"K\0J\0\0\x04\0\x85K\x01\x85t"
    pickled = b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n" + tensor + b"Rs."
    state = zipped({"archive/data.pkl": pickled, "archive/data/0": bytes(2**20)})
    assert list(_torch_file.load(state, "one")) == ["a"]
    file = zipped({"_stable_baselines3_version": b"2", **{f"s{number}.pth": state for number in range(60)}})
    with pytest.raises(ModelFileError, match="far more data than the file has"):
        load_from_zip_file(io.BytesIO(file))


# In a child that can be ended: hashing and writing out are not to be interrupted.
UNFOLDING = """
    import pickle, struct, sys
    from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
    from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
    from mlx_baselines3.common.formats.names import UnknownName
    from mlx_baselines3.common.save_util import ModelFileError
    pairs = b"X\\x01\\0\\0\\0a" + b"".join(b"q%ch%c\\x86" % (at, at) for at in range(60))
    storage = b"(X\\7\\0\\0\\0storagectorch\\nFloatStorage\\n" + pairs + b"X\\3\\0\\0\\0cpuK\\1tQ"
    start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    legacy = b"".join(pickle.dumps(part, 2) for part in start) + b"\\x80\\2" + storage + b"."
    filled = b"ccloudpickle.cloudpickle\\n_fill_function\\n" + b"cx\\ny\\n" * 2 + b")R\\x85R}("
    filled += b"X\\x08\\0\\0\\0qualname" + pairs
    filled += b"X\\6\\0\\0\\0moduleX\\x1e\\0\\0\\0stable_baselines3.common.utils"
    files = {
        "storage": lambda: _torch_file.load(legacy + pickle.dumps(["0"], 2) + bytes(8), "file"),
        "type": lambda: sb3_zip.read_pickle(
            b"\\x80\\2ccloudpickle.cloudpickle\\n_builtin_type\\n" + pairs + b"\\x85R)R."),
        "function": lambda: sb3_zip.read_pickle(
            b"\\x80\\2" + filled + b"X\\x0e\\0\\0\\0closure_values]u\\x86R."),
        "key": lambda: sb3_zip.read_pickle(b"\\x80\\2}" + pairs + b"K\\1s."),
    }
    try:
        files[sys.argv[1]]()
    except (ModelFileError, UnknownName) as error:
        print("refused", error)
"""


@pytest.mark.parametrize("place", ["storage", "type", "function", "key"])
def test_tuples_that_would_unfold_for_ever_are_neither_hashed_nor_written_out(place):
    command = [sys.executable, "-c", textwrap.dedent(UNFOLDING), place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("refused"), done.stderr[-1000:]


def test_thousands_of_integers_with_the_same_hash_are_no_keys():
    same = [number * (2**61 - 1) for number in range(1, 1100)]
    assert len({hash(number) for number in same}) == 1
    tuples = {(number, "a"): 1 for number in same}
    for table in (dict.fromkeys(same), tuples, set(same), frozenset(same)):
        with pytest.raises(UnknownName, match="60 bits"):
            sb3_zip.read_pickle(pickle.dumps(table))
    for tag in ("set", "frozenset"):
        with pytest.raises(ModelFileError, match="60 bits"):
            json_to_data(json.dumps({"a": {":type:": tag, "items": same}}))
    for tag in ("dict", "OrderedDict"):
        items = [[number, None] for number in same]
        with pytest.raises(ModelFileError, match="60 bits"):
            json_to_data(json.dumps({"a": {":type:": tag, "items": items}}))
    assert sb3_zip.read_pickle(pickle.dumps({2**61: {3}, "a": 2**70})) == {2**61: {3}, "a": 2**70}


def test_calls_of_a_long_name_take_no_longer_than_the_file_is_long():
    """Five seconds for each megabyte, when the name was copied for every call."""
    name = b"c" + b"m" * 4_000_000 + b"\nn\nq\x01"
    pickled = b"\x80\x02" + name + b"0" + b"h\x01)R0" * 40_000 + b"N."
    script = "import sys; from mlx_baselines3.common.formats.sb3.zip import read_pickle\n"
    script += "read_pickle(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", script], input=pickled, timeout=60, check=False)
    assert done.returncode == 0


def test_integers_of_thousands_of_digits_are_refused():
    """Python raises when they are to be written out, as in a message."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={"net_arch": [3]})
    stream = io.BytesIO()
    export_sb3(model, stream)
    value = {":type:": "int", ":serialized:": base64.b64encode(pickle.dumps(10**5000)).decode()}
    file = changed(stream.getvalue(), "data", lambda data: {**data, "n_steps": value})
    with pytest.warns(UserWarning, match="an integer of 16610 bits"):
        PPO.load(io.BytesIO(file))


@pytest.mark.parametrize("shape", [[0, 2**31], [0, 2**62, 2**62], [2**40, 0]])
def test_empty_tensors_of_impossible_shapes(shape):
    file = tensors({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    with pytest.raises(ModelFileError, match="tensor 'a' of shape"):
        _safetensors.loads(file, "file")


def test_messages_are_of_bounded_length_and_printable():
    place = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
    with pytest.raises(ModelFileError, match="lies at") as caught:
        _safetensors.loads(tensors({"a" * 10**6: place}, bytes(8)), "file")
    assert len(str(caught.value)) < 10_000
    with pytest.raises(ModelFileError) as caught:
        _safetensors.loads(tensors({"\ud800\x1b[2J": place}, bytes(8)), "file")
    assert r"\ud800\x1b[2J" in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.warns(UserWarning, match="Could not restore") as warned:
        json_to_data(json.dumps({"\x1b[2J" + "a" * 10**6: {":type:": "missing"}}))
    assert len(str(warned[0].message)) < 10_000
    assert str(warned[0].message).isprintable()


def test_printable_keeps_what_is():
    assert printable("größe\n\tx") == "größe\n\tx"
    assert printable("a\x07\u202eb") == r"a\x07\u202eb"


def test_the_printed_system_info_moves_no_cursor(capsys):
    file = zipped({**OURS, "system_info.txt": b"- OS: \x1b[2Jx\n- Python: 3\n", "data": b"{}"})
    load_from_zip_file(io.BytesIO(file), print_system_info=True)
    assert capsys.readouterr().out.endswith("- OS: \\x1b[2Jx\n- Python: 3\n\n")


@pytest.mark.parametrize("read", [load_from_zip_file, load_replay_buffer, load_statistics, PPO.load])
def test_pipes_and_devices_are_refused(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ModelFileError, match="is a pipe or a device"):
            read(path)
    with open("/dev/zero", "rb") as stream, pytest.raises(ModelFileError):
        read(stream)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "model.zip").write_bytes(zipped({**OURS, "data": b"{}"}))
    (tmp_path / "link.zip").symlink_to(tmp_path / "model.zip")
    assert load_from_zip_file(tmp_path / "link")[0] == {}


def test_an_open_pipe_is_refused():
    reader, writer = os.pipe()
    os.write(writer, b"PK\x03\x04")
    os.close(writer)
    with open(reader, "rb") as stream, pytest.raises(ModelFileError):
        load_replay_buffer(stream)


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(zipped({**OURS, "data": b"{" + b" " * 100_000 + b"}"}, zipfile.ZIP_STORED))
    with path.open("rb") as stream:
        archive = ArchiveReader(stream, "file")
        os.truncate(path, 50_000)
        with pytest.raises(ModelFileError):
            archive.read("data")


def test_gsde_where_a_policy_has_none():
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, policy_kwargs={"net_arch": [3]})
    stream = io.BytesIO()
    model.save(stream)
    file = changed(stream.getvalue(), "data", lambda data: {**data, "use_sde": True})
    with pytest.raises(ModelFileError, match="reset_noise"):
        DQN.load(io.BytesIO(file))


@pytest.fixture(scope="module")
def checkpoint():
    env = VecNormalize(NativeVecEnv("CartPole-v1", 2, seed=0))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [3]}).learn(16)
    stream = io.BytesIO()
    model.save_checkpoint(stream)
    return stream.getvalue()


@pytest.mark.parametrize("steps", [0, 2**52])
def test_environments_that_cannot_be_made(checkpoint, steps):
    def change(envs):
        envs["make"]["env_kwargs"]["max_episode_steps"] = steps
        return envs

    with pytest.raises(ModelFileError, match=f"max_episode_steps': {steps}"):
        PPO.load_checkpoint(io.BytesIO(changed(checkpoint, "checkpoint/env", change)))


def test_a_normalization_that_cannot_be_made(checkpoint):
    def change(envs):
        envs["layers"][0]["norm_obs_keys"]["value"] = ["a"]
        return envs

    with pytest.raises(ModelFileError, match="norm_obs_keys"):
        PPO.load_checkpoint(io.BytesIO(changed(checkpoint, "checkpoint/env", change)))


def test_an_algorithm_that_is_no_name(checkpoint):
    file = changed(checkpoint, "checkpoint/run", lambda run: {**run, "algorithm": ["PPO"]})
    with pytest.raises(ModelFileError, match="record of the run is damaged"):
        PPO.load_checkpoint(io.BytesIO(file))
