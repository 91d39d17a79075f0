"""SB3's pickles and torch's files, made by hand: what is understood, and what is refused and not run."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import cloudpickle
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common import utils
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
from mlx_baselines3.common.formats.sb3.pickle_writer import Global, Node, write
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

PROTOCOLS = [2, 4, 5]


def glob(module, name):
    """The opcode that names a class or function."""
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "x", b"\x80", 2**80], (1, 2): {3}},
        collections.OrderedDict(b=1, a=2),
        collections.deque([{"r": 1.0}], maxlen=5),
        frozenset({1}),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(0, 2, 1),
        np.array([True]),
        np.float64(0.1),
        np.int64(3),
        spaces.Box(-1.0, 1.0, (2,)),
        spaces.Dict(b=spaces.Discrete(3), a=spaces.MultiDiscrete([2, 3])),
        spaces.Tuple([spaces.MultiBinary(3), spaces.Text(4, charset="ab")]),
        np.float32,
    ],
    ids=lambda v: str(v)[:30] if not isinstance(v, int) else str(v),
)
def test_ordinary_pickles_are_read_without_unpickling(value, protocol):
    back = sb3_zip.read_pickle(pickle.dumps(value, protocol))
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_space_keeps_its_generator(protocol):
    space = spaces.Discrete(1000)
    space.seed(3)
    back = sb3_zip.read_pickle(pickle.dumps(space, protocol))
    assert [back.sample() for _ in range(5)] == [space.sample() for _ in range(5)]


def test_spaces_of_old_gym_become_gymnasium_ones():
    state = {"n": 4, "_shape": (), "shape": None, "dtype": None, "_np_random": None}
    body = pickle.dumps(state, 2)[2:-1]
    back = sb3_zip.read_pickle(
        b"\x80\x02" + glob("gym.spaces.discrete", "Discrete") + b")\x81" + body + b"b."
    )
    assert back == spaces.Discrete(4)


@pytest.mark.parametrize(
    ("module", "name", "twin"),
    [
        ("torch.nn.modules.activation", "Tanh", nn.Tanh),
        ("torch.nn.modules.activation", "ReLU", nn.ReLU),
        ("torch.nn.modules.activation", "LeakyReLU", nn.LeakyReLU),
        ("torch.optim.adam", "Adam", optim.Adam),
        ("torch.optim.adamw", "AdamW", optim.AdamW),
        ("torch.optim.rmsprop", "RMSprop", optim.RMSprop),
        ("stable_baselines3.common.utils", "FloatSchedule", utils.FloatSchedule),
        ("stable_baselines3.common.type_aliases", "TrainFreq", TrainFreq),
    ],
)
def test_classes_have_twins(module, name, twin):
    assert sb3_zip.read_pickle(glob(module, name) + b".") is twin


def test_train_freq_and_its_unit():
    unit = glob("stable_baselines3.common.type_aliases", "TrainFrequencyUnit") + b"(X\x04\x00\x00\x00steptR"
    pickled = glob("stable_baselines3.common.type_aliases", "TrainFreq") + b"(I4\n" + unit + b"t\x81."
    assert sb3_zip.read_pickle(pickled) == TrainFreq(4, TrainFrequencyUnit.STEP)
    member = b"cbuiltins\ngetattr\n(" + glob("stable_baselines3.common.type_aliases", "TrainFrequencyUnit")
    assert sb3_zip.read_pickle(member + b"X\x07\x00\x00\x00EPISODEtR.") is TrainFrequencyUnit.EPISODE


def test_action_noise_of_sb3():
    state = {"_mu": np.full(2, 3.0), "_sigma": np.zeros(2), "_dtype": np.float32}
    made = glob("stable_baselines3.common.noise", "NormalActionNoise") + b")\x81"
    noise = sb3_zip.read_pickle(made + pickle.dumps(state, 4)[:-1] + b"b.")
    assert isinstance(noise, NormalActionNoise)
    np.testing.assert_array_equal(noise(), np.full(2, 3, dtype=np.float32))


OLD_UTILS = """
def get_schedule_fn(value_schedule):
    if isinstance(value_schedule, (float, int)):
        value_schedule = constant_fn(float(value_schedule))
    return lambda progress_remaining: float(value_schedule(progress_remaining))

def constant_fn(val):
    def func(_):
        return val
    return func

def get_linear_fn(start, end, end_fraction):
    def func(progress_remaining):
        if (1 - progress_remaining) > end_fraction:
            return end
        return start + (1 - progress_remaining) * (end - start) / end_fraction
    return func

def other_fn(command):
    def func(_):
        return command
    return func
"""


@pytest.fixture
def old_utils(monkeypatch):
    """A module that cloudpickle takes for SB3's utils of the days when schedules were closures."""
    module = types.ModuleType("stable_baselines3.common.utils")
    exec(OLD_UTILS, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("protocol", [4, 5])
def test_schedules_that_were_closures_become_objects(old_utils, protocol):
    constant = sb3_zip.read_pickle(cloudpickle.dumps(old_utils.constant_fn(0.2), protocol))
    assert isinstance(constant, utils.ConstantSchedule)
    assert constant(0.5) == 0.2
    linear = sb3_zip.read_pickle(cloudpickle.dumps(old_utils.get_linear_fn(1.0, 0.05, 0.1), protocol))
    assert isinstance(linear, utils.LinearSchedule)
    # 1 + 0.05 * (0.05 - 1) / 0.1
    assert linear(0.95) == pytest.approx(0.525)
    assert linear(0.5) == 0.05
    wrapped = sb3_zip.read_pickle(cloudpickle.dumps(old_utils.get_schedule_fn(0.3), protocol))
    assert isinstance(wrapped, utils.FloatSchedule)
    assert wrapped(0.7) == 0.3


def test_other_functions_are_refused_by_name(old_utils):
    with pytest.raises(UnknownName, match=r"other_fn\.<locals>\.func"):
        sb3_zip.read_pickle(cloudpickle.dumps(old_utils.other_fn("x")))
    with pytest.raises(UnknownName, match="<lambda>"):
        sb3_zip.read_pickle(cloudpickle.dumps(lambda progress: 2 * progress))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("builtins", "getattr"),
        ("torch", "load"),
    ],
)
def test_calls_are_refused_and_not_made(module, name, tmp_path):
    witness = tmp_path / "witness"
    command = f"touch {witness}".encode()
    pickled = glob(module, name) + b"(X" + struct.pack("<I", len(command)) + command + b"tR."
    with pytest.raises(UnknownName):
        sb3_zip.read_pickle(pickled)
    with pytest.raises(ModelFileError):
        _torch_file.load(torch_file(pickled), "file")
    assert not witness.exists()


@pytest.mark.parametrize(
    "name", [("torch.nn.modules.activation", "Hardshrink"), ("os", "system"), ("my_nets", "Net")]
)
def test_unknown_names_are_named(name):
    with pytest.raises(UnknownName, match=f"{name[0]}.{name[1]}|{name[0]}"):
        sb3_zip.read_pickle(glob(*name) + b".")


def laugh(open_, close, depth=60):
    """Containers, each of which holds the one before it twice."""
    return b"(l" + b"".join(b"q\x00" + open_ + b"h\x00h\x00" + close for _ in range(depth)) + b"."


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"N",
        b"0.",
        b"t.",
        b"(.",
        b"h\x05.",
        b"\x80\x05\x95",
        b"NNR.",
        b"]q\x00h\x00a.",
        b"]" * 200 + b"a" * 199 + b".",
        b"r\xff\xff\xff\x7f.",
        b"B\xff\xff\xff\x7fx.",
        b"\x8e" + b"\xff" * 7 + b"\x7f.",
        b"(NNNd.",
        b"(]Nd.",
        b"I" + b"9" * 10_000 + b"\n.",
        laugh(b"(", b"l"),
        laugh(b"(", b"t"),
        b"(" + laugh(b"(", b"t")[:-1] + b"Nd.",
        glob("collections", "deque") + b"(" + laugh(b"(", b"t")[:-1] + b"tR.",
        glob("numpy", "dtype") + b"(" + laugh(b"(", b"t")[:-1] + b"tR.",
        glob("numpy", "dtype") + b"(X\x02\x00\x00\x00O8tR.",
    ],
)
def test_damaged_and_malicious_pickles_end_quickly(pickled):
    with pytest.raises(UnknownName):
        sb3_zip.read_pickle(pickled)
    with pytest.raises(ModelFileError):
        _torch_file.load(torch_file(pickled), "file")


def test_one_array_referred_to_often_does_not_fill_the_memory():
    array = np.zeros(100_000, dtype=np.uint8)
    once = pickle.dumps(array, 2)
    buffer = array.tobytes().decode("latin-1").encode()
    assert len(once) > len(buffer)
    head = b"X" + struct.pack("<I", len(buffer)) + buffer + b"q\x000]"
    one = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tRq\x010"
    dtype = glob("numpy", "dtype") + b"(X\x02\x00\x00\x00u1tRq\x020"
    each = (
        glob("numpy.core.numeric", "_frombuffer")
        + b"(h\x01h\x02(J"
        + struct.pack("<i", 100_000)
        + b"tX\x01\x00\x00\x00CtRa"
    )
    few = head[:-1] + one + dtype + b"]" + each * 2 + b"."
    assert [len(part) for part in sb3_zip.read_pickle(few)] == [100_000, 100_000]
    with pytest.raises(UnknownName, match="more data than the file has"):
        sb3_zip.read_pickle(head[:-1] + one + dtype + b"]" + each * 1000 + b".")


def torch_file(pickled, storages=(), order="little", prefix="archive/"):
    """A file as torch.save lays it out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{prefix}data.pkl", pickled)
        archive.writestr(f"{prefix}byteorder", order)
        for key, contents in storages:
            archive.writestr(f"{prefix}data/{key}", contents)
    return stream.getvalue()


class Storage:
    """Stands for a storage in a pickle."""

    def __init__(self, kind, key, count):
        self.id = ("storage", kind, key, "cpu", count)


class Named:
    """Pickles as the bare name of something in torch."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, storage, offset, shape, strides):
        self.args = (storage, offset, shape, strides, False, collections.OrderedDict())


def pickle_of_tensors(value):
    """What torch.save writes, in which torch's names are put by hand."""
    names = {"rebuild": ("torch._utils", "_rebuild_tensor_v2")}

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing):
            return thing.id if isinstance(thing, Storage) else None

        def save(self, thing, save_persistent_id=True):
            if isinstance(thing, Named):
                self.write(glob(thing.module, thing.name))
            elif isinstance(thing, Tensor):
                self.write(glob(*names["rebuild"]))
                super().save(thing.args)
                self.write(pickle.REDUCE)
            else:
                super().save(thing, save_persistent_id)

    stream = io.BytesIO()
    Pickler(stream, 2).dump(value)
    return stream.getvalue()


def load_tensor(kind, contents, count, offset, shape, strides, order="little"):
    storage = Storage(Named("torch", kind), "0", count)
    pickled = pickle_of_tensors({"w": Tensor(storage, offset, shape, strides)})
    return _torch_file.load(torch_file(pickled, [("0", contents)], order), "file")["w"]


def test_tensors_are_rebuilt_from_strides():
    six = np.arange(6, dtype="<f4").tobytes()
    assert load_tensor("FloatStorage", six, 6, 0, (2, 3), (3, 1)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert load_tensor("FloatStorage", six, 6, 1, (2, 2), (1, 2)).tolist() == [[1, 3], [2, 4]]
    assert load_tensor("FloatStorage", six, 6, 5, (), ()).item() == 5
    assert load_tensor("FloatStorage", six, 6, 0, (0, 3), (3, 1)).shape == (0, 3)
    assert load_tensor(
        "FloatStorage", np.arange(2, dtype=">f4").tobytes(), 2, 0, (2,), (1,), "big"
    ).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("LongStorage", "<i8", mx.int64),
        ("HalfStorage", "<f2", mx.float16),
        ("ByteStorage", "u1", mx.uint8),
        ("BoolStorage", "?", mx.bool_),
    ],
)
def test_storages_keep_their_dtype(kind, dtype, expected):
    array = load_tensor(kind, np.array([0, 1], dtype).tobytes(), 2, 0, (2,), (1,))
    assert array.dtype == expected
    assert array.tolist() == [0, 1]


def test_wide_and_narrow_floats():
    wide = load_tensor("DoubleStorage", struct.pack("<d", 0.1), 1, 0, (1,), (1,))
    assert isinstance(wide, np.ndarray)
    assert wide[0] == 0.1
    # The upper half of 1.5's bits
    assert load_tensor("BFloat16Storage", struct.pack("<H", 0x3FC0), 1, 0, (1,), (1,)).tolist() == [1.5]


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (7, 0, (6,), (1,)),
        (-6, 0, (6,), (1,)),
        (6, 1, (6,), (1,)),
        (6, -1, (6,), (1,)),
        (6, 0, (2, 3), (4, 1)),
        (6, 0, (2, 3), (-3, 1)),
        (6, 0, (1000, 1000), (0, 0)),
        (6, 0, (2**62, 4), (1, 1)),
        (6, 0, (2,), (1, 1)),
        (6, 0, (2.0,), (1,)),
        (6, 6, (), ()),
    ],
)
def test_tensors_beyond_their_storage_are_refused(count, offset, shape, strides):
    with pytest.raises(ModelFileError, match=r"^file"):
        load_tensor("FloatStorage", bytes(24), count, offset, shape, strides)


def test_unknown_storages_and_files_are_refused():
    with pytest.raises(ModelFileError, match=r"torch\.QInt8Storage"):
        load_tensor("QInt8Storage", bytes(2), 2, 0, (2,), (1,))
    with pytest.raises(ModelFileError, match="zip"):
        _torch_file.load(b"\x80\x02\x8a\x0al\xfc\x9cF", "file")
    pickled = pickle_of_tensors(Tensor(Storage(Named("torch", "FloatStorage"), "9", 1), 0, (1,), (1,)))
    with pytest.raises(ModelFileError, match="'archive/data/9' is missing"):
        _torch_file.load(torch_file(pickled), "file")


def _old_function(form, qualname, values, names=("a", "b")):
    """A closure of SB3's as cloudpickle wrote it before 1.5 ("filled"), or before 2.0 ("lambda")."""
    pickled = "cloudpickle.cloudpickle"
    code_type = Node(Global(pickled, "_builtin_type"), ("CodeType",))
    code = Node(code_type, (1, 0, 1, 1, 19, b"", (None,), names, ("_",), "utils.py", "func", 1, b""))
    module = "stable_baselines3.common.utils"
    if form == "filled":
        slots = {"closure_values": list(values), "module": module, "qualname": qualname, "name": "func"}
        skeleton = Node(Global(pickled, "_make_skel_func"), (code, len(values), {}))
        return write(Node(Global(pickled, "_fill_function"), (skeleton, slots)))
    cells = tuple(Node(Global(pickled, "_make_cell"), (value,)) for value in values)
    function = Node(Node(Global(pickled, "_builtin_type"), ("LambdaType",)), (code, {}, None, None, ()))
    function.state = ({}, {"__qualname__": qualname, "__module__": module, "__closure__": cells})
    return write(function)


@pytest.mark.parametrize("form", ["filled", "lambda"])
def test_schedules_as_early_versions_of_cloudpickle_wrote_them(form):
    constant = sb3_zip.read_pickle(_old_function(form, "constant_fn.<locals>.func", (0.25,)))
    assert isinstance(constant, utils.ConstantSchedule)
    assert constant(0.5) == 0.25
    names = ("end", "end_fraction", "start")
    line = _old_function(form, "get_linear_fn.<locals>.func", (0.1, 0.5, 1.0), names)
    assert sb3_zip.read_pickle(line)(0.75) == pytest.approx(0.55)
    with pytest.raises(UnknownName, match="functions are not run"):
        sb3_zip.read_pickle(_old_function(form, "other.<locals>.func", (0.25,)))
