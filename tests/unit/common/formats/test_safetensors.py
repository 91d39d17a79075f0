"""The safetensors reader against bytes written by hand and against MLX, and against headers that lie."""

import json
import struct

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.safetensors import dumps, loads


def by_hand(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_reads_bytes_written_by_hand():
    contents = by_hand(
        {
            "__metadata__": {"who": "me"},
            "b": {"dtype": "I16", "shape": [2], "data_offsets": [4, 8]},
            "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
            "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [8, 8]},
            "half": {"dtype": "BF16", "shape": [1], "data_offsets": [8, 10]},
            "wide": {"dtype": "F64", "shape": [1], "data_offsets": [10, 18]},
        },
        struct.pack("<fhhHd", 1.5, -1, 300, 0x3FC0, 0.1),
    )
    tensors, metadata = loads(contents, "file")
    assert metadata == {"who": "me"}
    assert tensors["a"].item() == 1.5
    assert tensors["b"].tolist() == [-1, 300]
    assert tensors["none"].shape == (0, 3)
    assert tensors["half"].dtype == mx.bfloat16
    assert tensors["half"].item() == 1.5
    assert isinstance(tensors["wide"], np.ndarray)
    assert tensors["wide"][0] == 0.1


def test_mlx_reads_what_is_written(tmp_path):
    arrays = {
        "x": mx.arange(6).reshape(2, 3),
        "bf": mx.array([0.5], mx.bfloat16),
        "flag": mx.array([True, False]),
        "np": np.asfortranarray(np.arange(4, dtype=np.float16).reshape(2, 2)),
    }
    (tmp_path / "t.safetensors").write_bytes(dumps(arrays, {"k": "v"}))
    read, metadata = mx.load(str(tmp_path / "t.safetensors"), return_metadata=True)
    assert metadata == {"k": "v"}
    for name, array in arrays.items():
        assert mx.array_equal(read[name], mx.array(array))


def test_reads_what_mlx_writes(tmp_path):
    path = str(tmp_path / "t.safetensors")
    mx.save_safetensors(path, {"w": mx.array([[1.0, 2.0]]), "n": mx.array([7], mx.uint64)})
    with open(path, "rb") as stream:
        tensors, _ = loads(stream.read(), "file")
    assert tensors["w"].tolist() == [[1.0, 2.0]]
    assert tensors["n"].tolist() == [7]


def one(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63) + b"{}",
        by_hand(b"nope"),
        by_hand(b"[" * 100_000),
        by_hand(b"[]"),
        by_hand({"a": 1}),
        by_hand({"__metadata__": {"k": 1}}),
        by_hand(one(dtype="F31"), b"0000"),
        by_hand(one(dtype=["F32"]), b"0000"),
        by_hand(one(shape=(-1,)), b"0000"),
        by_hand(one(shape=(1.0,)), b"0000"),
        by_hand(one(shape=(True,)), b"0000"),
        by_hand(one(shape=(2**31, 2**31, 4), offsets=(0, 0))),
        by_hand(one(shape=(1,) * 40), b"0000"),
        by_hand(one(shape=(2**40,), offsets=(0, 2**42)), b"0000"),
        by_hand(one(offsets=(2**40, 2**40 + 4)), b"0000"),
        by_hand(one(offsets=(4, 0)), b"0000"),
        by_hand(one(offsets=(0, 4, 8)), b"0000"),
        by_hand(one(), b"000"),
        by_hand(one(), b"00000"),
        by_hand(one() | {"b": one()["a"]}, b"0000"),
    ],
)
def test_lying_headers_are_refused(contents):
    with pytest.raises(ModelFileError, match=r"^file: "):
        loads(contents, "file")


def test_dtypes_without_a_name_are_refused():
    with pytest.raises(TypeError, match="complex128"):
        dumps({"z": np.zeros(1, np.complex128)})
