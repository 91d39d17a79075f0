"""Model files with bytes changed, cut or exchanged: read or refused, nothing else, and nothing big."""

import io
import tracemalloc
import warnings
import zipfile

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_baselines3 import SAC
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import ArchiveReader
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
from mlx_baselines3.common.save_util import ModelFileError, json_to_data, load_from_zip_file, save_to_zip_file
from mlx_baselines3.common.saving import checkpoint
from mlx_baselines3.common.saving.buffer_stream import read_buffer
from mlx_baselines3.common.saving.run_record import RunRecord
from mlx_baselines3.common.vec_env import NativeVecEnv
from support import DATA

SB3_FILE = DATA / "models" / "sac_pendulum.zip"
BOUND = 100 * 2**20
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def our_file():
    stream = io.BytesIO()
    data = {"observation_space": spaces.Box(-1.0, 1.0, (2,)), "seed": 3, "clip": (0.1, {1: np.float32(2)})}
    params = {"policy": {"w": mx.ones((4, 4))}, "policy.optimizer": {"state": {0: {"m": mx.zeros(3)}}}}
    save_to_zip_file(stream, data, params, {})
    return stream.getvalue()


OURS = our_file()
THEIRS = SB3_FILE.read_bytes()
with zipfile.ZipFile(SB3_FILE) as _archive:
    PTH = _archive.read("actor.optimizer.pth")
with zipfile.ZipFile(io.BytesIO(PTH)) as _archive:
    PICKLE = _archive.read("archive/data.pkl")
with zipfile.ZipFile(io.BytesIO(OURS)) as _archive:
    TENSORS, JSON = _archive.read("policy.safetensors"), _archive.read("data").decode()


def checkpoint_file():
    env = NativeVecEnv("Pendulum-v1", seed=0)
    model = SAC("MlpPolicy", env, buffer_size=4, learning_starts=9, policy_kwargs={"net_arch": [2]}).learn(3)
    stream = io.BytesIO()
    model.save_checkpoint(stream)
    return stream.getvalue()


def rezipped(archive, name, contents):
    """The same archive with another entry."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, contents if entry == name else old.read(entry))
    return stream.getvalue()


CHECKPOINT = checkpoint_file()
with zipfile.ZipFile(io.BytesIO(CHECKPOINT)) as _archive:
    RUN = _archive.read("checkpoint/run")
    BUFFER = _archive.read("checkpoint/replay_buffer.safetensors")


@st.composite
def mutations(draw, contents):
    """A few bytes changed, a piece cut out, a piece put twice, or the end missing."""
    mutated = bytearray(contents)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(mutated) - 1, 0)))
        length = draw(st.integers(0, 64))
        kind = draw(st.sampled_from(["set", "cut", "copy", "end"]))
        if kind == "set":
            new = draw(st.binary(min_size=1, max_size=8))
            mutated[at : at + len(new)] = new
        elif kind == "cut":
            del mutated[at : at + length]
        elif kind == "copy":
            mutated[at:at] = mutated[at : at + length]
        else:
            del mutated[at:]
    return bytes(mutated)


def survives(read, contents):
    """Reading ends in a value or in a refusal, within bounded memory."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(contents)
    except (ModelFileError, UnknownName):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < BOUND


def load_bytes(contents):
    return load_from_zip_file(io.BytesIO(contents))


@quick
@given(mutations(OURS))
def test_our_archive(contents):
    survives(load_bytes, contents)


@settings(quick, max_examples=30)
@given(mutations(THEIRS))
def test_sb3s_archive(contents):
    survives(load_bytes, contents)


@quick
@given(mutations(PTH))
def test_torch_file(contents):
    survives(lambda c: _torch_file.load(c, "file"), contents)


@quick
@given(mutations(PICKLE))
def test_pickle(contents):
    # Past the CRC, which would catch most of these inside a file
    survives(sb3_zip.read_pickle, contents)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_as_pickle(contents):
    survives(sb3_zip.read_pickle, contents)


@quick
@given(mutations(TENSORS))
def test_tensors(contents):
    survives(lambda c: _safetensors.loads(c, "file"), contents)


@quick
@given(mutations(JSON.encode()))
def test_json(contents):
    survives(lambda c: json_to_data(c.decode("utf-8", "replace")), contents)


def load_checkpoint(contents):
    archive = ArchiveReader(io.BytesIO(contents), "file")
    run, _ = checkpoint._tables(archive)
    RunRecord(run)
    buffer = ReplayBuffer(4, spaces.Box(-8.0, 8.0, (3,)), spaces.Box(-1.0, 1.0, (1,)))
    read_buffer(buffer, archive, "checkpoint/replay_buffer.safetensors")


@quick
@given(mutations(CHECKPOINT))
def test_checkpoint(contents):
    survives(load_checkpoint, contents)


@quick
@given(mutations(RUN))
def test_record_of_a_run(contents):
    # With a right CRC
    survives(lambda c: load_checkpoint(rezipped(CHECKPOINT, "checkpoint/run", c)), contents)


@quick
@given(mutations(BUFFER))
def test_buffer(contents):
    name = "checkpoint/replay_buffer.safetensors"
    survives(lambda c: load_checkpoint(rezipped(CHECKPOINT, name, c)), contents)


@pytest.mark.parametrize("position", range(0, len(OURS) - 1, 499))
def test_every_truncation_is_noticed(position):
    with pytest.raises(ModelFileError):
        load_bytes(OURS[:position])


@pytest.mark.parametrize("entry", ["data", "policy.safetensors", "policy.optimizer.safetensors"])
def test_every_flipped_bit_of_the_contents_is_noticed(entry):
    with zipfile.ZipFile(io.BytesIO(OURS)) as archive:
        contents = archive.read(entry)
    start = OURS.index(contents)
    for offset in range(0, len(contents), max(1, len(contents) // 40)):
        flipped = bytearray(OURS)
        flipped[start + offset] ^= 1 << (offset % 8)
        with pytest.raises(ModelFileError, match="damaged"):
            load_bytes(bytes(flipped))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@quick
@given(st.dictionaries(st.text(), json_values, max_size=4), st.integers(0, 2**32 - 1))
def test_whatever_is_saved_is_loaded(data, seed):
    rng = np.random.default_rng(seed)
    weights = {f"layer.{i}": rng.normal(size=rng.integers(0, 4, size=i)).astype(np.float32) for i in range(4)}
    stream = io.BytesIO()
    save_to_zip_file(stream, data, {"policy": weights})
    loaded, params, _ = load_from_zip_file(stream)
    assert loaded == data
    for name, array in weights.items():
        np.testing.assert_array_equal(np.array(params["policy"][name]), array)
