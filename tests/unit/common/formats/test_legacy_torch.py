"""Torch's format from before 1.6: what torch wrote, and files made by hand that are wrong in one place."""

import random
import struct

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import PPO
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3.pickle_writer import Global, Node, persistent, write
from support import DATA

FOLDER = DATA / "torch"
MACHINE = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
MAGIC = 0x1950A86A20F9469CFC6C


def storage(key, count, kind="FloatStorage", window=None):
    return persistent(("storage", Global("torch", kind), key, "cpu", count, window))


def tensor(stored, shape, strides, offset=0):
    arguments = (stored, offset, shape, strides, False, Node(Global("collections", "OrderedDict"), ()))
    return Node(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def file_of(root, storages, magic=MAGIC, version=1001, machine=MACHINE, keys=None, end=b""):
    """
    :param root: the object, in terms of nodes
    :param storages: the arrays by name
    """
    pickles = [magic, version, machine, root, list(storages) if keys is None else keys]
    data = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    return b"".join(write(value, protocol=2) for value in pickles) + data + end


NUMBERS = np.arange(6, dtype="<f4")
GOOD = file_of({"w": tensor(storage("0", 6), (2, 3), (3, 1))}, {"0": NUMBERS})


def test_what_torch_wrote():
    found = _torch_file.load((FOLDER / "legacy.pth").read_bytes(), "file")
    nested = found.pop("nested")
    assert float(nested[0]["step"]) == 3
    assert nested[0]["lr"] == 1e-3
    with np.load(FOLDER / "legacy.npz") as expected:
        assert set(found) == set(expected)
        for name, value in found.items():
            np.testing.assert_array_equal(np.array(value), expected[name], err_msg=name)
            assert value.shape == expected[name].shape
            assert np.array(value).dtype == expected[name].dtype


def test_a_model_whose_weights_are_such_files():
    model = PPO.load(FOLDER / "ppo_legacy.zip")
    with np.load(FOLDER / "ppo_legacy.npz") as expected:
        actions, _ = model.predict(expected["obs"], deterministic=True)
        np.testing.assert_array_equal(actions, expected["actions"])
    assert int(model.policy.optimizer.state_dict()["step"]) == 10


def test_a_file_made_by_hand():
    assert _torch_file.load(GOOD, "file")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_storages_that_are_windows_into_others():
    window = storage("0", 6, window=("0:1", 1, 4))
    found = _torch_file.load(file_of({"w": tensor(window, (2, 2), (2, 1))}, {"0": NUMBERS}), "file")
    assert found["w"].tolist() == [[1, 2], [3, 4]]
    for offset, size in ((3, 4), (-1, 2), (2**62, 2**62), (0, "x")):
        forged = storage("0", 6, window=("0:1", offset, size))
        with pytest.raises(ModelFileError, match="beyond"):
            _torch_file.load(file_of({"w": tensor(forged, (1,), (1,))}, {"0": NUMBERS}), "file")


def test_numbers_of_all_kinds():
    bits = np.array([0x3FC0, 0xC000], dtype="<u2")
    flags = np.array([0, 7], dtype=np.uint8)
    halves = np.array([1.5, -2], dtype="<f2")
    longs = np.array([2**40, -1], dtype="<i8")
    kinds = ("BFloat16Storage", "BoolStorage", "HalfStorage", "LongStorage")
    root = {kind: tensor(storage(kind, 2, kind), (2,), (1,)) for kind in kinds}
    found = _torch_file.load(
        file_of(root, dict(zip(kinds, (bits, flags, halves, longs), strict=True))), "file"
    )
    assert {kind: value.tolist() for kind, value in found.items()} == {
        "BFloat16Storage": [1.5, -2],
        "BoolStorage": [False, True],
        "HalfStorage": [1.5, -2],
        "LongStorage": [2**40, -1],
    }
    assert found["HalfStorage"].dtype == mx.float16


WRONG = {
    "another magic number": (file_of({}, {}, magic=MAGIC + 1), "neither a zip-file nor"),
    "no number": (file_of({}, {}, magic="x"), "neither a zip-file nor"),
    "not a file of torch's": (b"\x00" * 100, "neither a zip-file nor"),
    "nothing": (b"", "neither a zip-file nor"),
    "a newer version": (file_of({}, {}, version=1002), "version 1002"),
    "a big-endian machine": (file_of({}, {}, machine={**MACHINE, "little_endian": False}), "big-endian"),
    "a truncated storage": (GOOD[:-1], "truncated"),
    "more than it says": (GOOD + b"x", "longer"),
    "fewer numbers than the tensor has": (
        file_of({"w": tensor(storage("0", 7), (7,), (1,))}, {"0": NUMBERS}),
        "storage 0 has 24 bytes, not 7",
    ),
    "a tensor beyond its storage": (
        file_of({"w": tensor(storage("0", 6), (2, 3), (4, 1))}, {"0": NUMBERS}),
        "beyond its storage",
    ),
    "a shape that overflows": (
        file_of({"w": tensor(storage("0", 6), (2**40, 2**40), (0, 0))}, {"0": NUMBERS}),
        "beyond its storage",
    ),
    "a storage nobody has": (
        file_of({"w": tensor(storage("1", 6), (6,), (1,))}, {"0": NUMBERS}),
        "not those of its tensors",
    ),
    "a storage without numbers": (
        file_of({"w": tensor(storage("0", 6), (6,), (1,))}, {"0": NUMBERS}, keys=[]),
        "longer",
    ),
    "a storage twice": (
        file_of({"w": tensor(storage("0", 6), (6,), (1,))}, {"0": NUMBERS}, keys=["0", "0"]),
        "twice",
    ),
    "a storage of two kinds": (
        file_of([storage("0", 6), storage("0", 6, "IntStorage")], {"0": NUMBERS}),
        "'0' in two kinds",
    ),
    "an unknown kind": (
        file_of({"w": tensor(storage("0", 6, "QInt8Storage"), (6,), (1,))}, {"0": NUMBERS}),
        "unknown kind torch.QInt8Storage",
    ),
    "something else than tensors": (
        file_of(Node(Global("builtins", "print"), ("x",)), {}),
        "builtins.print",
    ),
    "an odd id": (file_of(persistent("x"), {}), "damaged"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_end_in_one_error(case):
    contents, said = WRONG[case]
    with pytest.raises(ModelFileError, match=said) as caught:
        _torch_file.load(contents, "file")
    assert "file" in str(caught.value)


def test_a_storage_of_a_size_that_is_not_there_allocates_nothing():
    root = {"w": tensor(storage("0", 2**60), (2**60,), (1,))}
    start = b"".join(write(value, protocol=2) for value in (MAGIC, 1001, MACHINE, root, ["0"]))
    with pytest.raises(ModelFileError, match="truncated"):
        _torch_file.load(start + struct.pack("<q", 2**60) + NUMBERS.tobytes(), "file")


@pytest.mark.parametrize("seed", range(4))
def test_mutations_end_in_tensors_or_one_error(seed):
    rng = random.Random(seed)
    sample = (FOLDER / "legacy.pth").read_bytes() if seed % 2 else GOOD
    read = 0
    for _ in range(100):
        mutated = bytearray(sample)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(mutated))
            if rng.random() < 0.3:
                del mutated[at : at + rng.choice((1, 4))]
            else:
                mutated[at : at + 1] = rng.randbytes(rng.choice((1, 1, 4)))
        try:
            _torch_file.load(bytes(mutated), "file")
            read += 1
        except ModelFileError:
            pass
    # Numbers may be others without anybody noticing.
    assert 0 < read < 100
