"""Every kind of value that a model file keeps comes back, and a forged one runs nothing."""

import collections
import enum
import json
import pathlib
import sys
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from mlx_baselines3.common.running_mean_std import RunningMeanStd
from mlx_baselines3.common.save_util import (
    ModelFileError,
    data_to_json,
    json_to_data,
)
from mlx_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from mlx_baselines3.her.goal_selection_strategy import GoalSelectionStrategy


class Colour(enum.Enum):
    RED = "r"


class Pair(NamedTuple):
    left: int
    right: float


class Offers:
    """A class that would like to be restored by code of its own."""

    def __archive_state__(self):
        return 1

    @classmethod
    def __from_archive_state__(cls, state):
        raise AssertionError("a file ran code")


class Plain:
    """A class of which files know nothing."""


def halve(progress_remaining):
    return progress_remaining / 2


def there_and_back(value, name="x"):
    return json_to_data(data_to_json({name: value}))[name]


PLAIN_VALUES = [
    None,
    True,
    -3,
    2**70,
    0.1,
    float("inf"),
    "text",
    b"\x00\xff",
    [1, [2, "three"]],
    (1, (2.5, None)),
    {1, 2},
    frozenset({"a"}),
    {"a": {"b": [1]}},
    {1: "int key", (2, 3): "tuple key"},
    {":type:": "not ours"},
    collections.OrderedDict(b=1, a=2),
    pathlib.Path("logs/run"),
    np.dtype("float32"),
    mx.float16,
    GoalSelectionStrategy.FUTURE,
    TrainFreq(4, TrainFrequencyUnit.STEP),
    int,
    np.float32,
]


@pytest.mark.parametrize("value", PLAIN_VALUES, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_values_come_back_equal_and_of_the_same_type(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back():
    assert np.isnan(there_and_back(float("nan")))
    assert "NaN" not in data_to_json({"x": float("nan")})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        np.array(3.5),
        np.zeros((0, 4), dtype=np.bool_),
        np.array(["one", "three"]),
        np.array([1 + 2j], dtype=np.complex64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_numpy_arrays_keep_dtype_shape_and_values(array):
    back = there_and_back(array)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


@pytest.mark.parametrize(
    "scalar", [np.float32(0.1), np.float64("nan"), np.int64(-7), np.bool_(True), np.str_("s")]
)
def test_numpy_scalars_keep_their_type(scalar):
    back = there_and_back(scalar)
    assert type(back) is type(scalar)
    np.testing.assert_array_equal(back, scalar)


def test_mlx_arrays_keep_their_dtype():
    for array in (mx.array([1.5, -2.0], mx.bfloat16), mx.array([[1, 2]], mx.int16), mx.array(True)):
        back = there_and_back(array)
        assert back.dtype == array.dtype
        assert mx.array_equal(back, array)


def test_deque_keeps_its_bound():
    back = there_and_back(collections.deque([{"r": 1.0, "l": 3}], maxlen=100))
    assert back == collections.deque([{"r": 1.0, "l": 3}])
    assert back.maxlen == 100


SPACES = [
    spaces.Box(-1.0, np.array([1.0, np.inf], dtype=np.float32)),
    spaces.Box(0, 255, (2, 3, 1), np.uint8),
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Text(5, min_length=2, charset="abc"),
    spaces.Dict({"z": spaces.Discrete(2), "a": spaces.Dict(b=spaces.MultiBinary(2))}),
    spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,)))),
    spaces.Sequence(spaces.Discrete(3)),
    spaces.Graph(spaces.Box(0.0, 1.0, (2,)), None),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_spaces_come_back_equal(space):
    back = there_and_back(space)
    assert back == space
    assert type(back) is type(space)


def test_dict_space_keeps_the_order_of_its_keys():
    space = spaces.Dict(collections.OrderedDict(z=spaces.Discrete(2), a=spaces.Discrete(3)))
    assert list(there_and_back(space).spaces) == ["z", "a"]


def test_integer_box_remembers_that_it_is_unbounded():
    space = spaces.Box(-np.inf, 3, (2,), np.int32)
    back = there_and_back(space)
    assert not back.is_bounded("below")
    assert back.is_bounded("above")


@pytest.mark.parametrize("space", [spaces.Discrete(1000), spaces.Dict(a=spaces.Box(0.0, 1.0, (3,)))], ids=str)
def test_space_goes_on_sampling_where_it_was(space):
    space.seed(7)
    space.sample()
    back = there_and_back(space)
    for _ in range(3):
        expected, got = space.sample(), back.sample()
        np.testing.assert_equal(got, expected)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_generators_continue(kind):
    generator = np.random.Generator(kind(5))
    generator.random(3)
    assert there_and_back(generator).random() == generator.random()


def test_schedules_and_statistics_come_back():
    # Half way: 1 + 0.5 * (0.2 - 1) / 0.8 = 0.5
    linear = there_and_back(FloatSchedule(LinearSchedule(1.0, 0.2, 0.8)))
    assert linear(0.5) == pytest.approx(0.5)
    constant = there_and_back(FloatSchedule(0.25))
    assert isinstance(constant.value_schedule, ConstantSchedule)
    assert constant(0.0) == 0.25
    statistics = RunningMeanStd(shape=(2,))
    statistics.mean = np.array([1.0, 2.0])
    np.testing.assert_array_equal(there_and_back(statistics).mean, [1.0, 2.0])


def test_action_noise_comes_back_where_it_was():
    walk = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2), theta=0.5, dt=0.1)
    walk()
    back = there_and_back(VectorizedActionNoise(walk, 2))
    assert [type(noise) for noise in back.noises] == [OrnsteinUhlenbeckActionNoise] * 2
    np.testing.assert_array_equal(there_and_back(walk).noise_prev, walk.noise_prev)
    normal = there_and_back(NormalActionNoise(np.full(2, 3.0), np.zeros(2)))
    np.testing.assert_array_equal(normal(), np.full(2, 3, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("activation_fn", nn.Tanh), ("optimizer_class", optim.Adam), ("activation_fn", nn.ReLU)],
)
def test_classes_come_back_where_they_belong(name, kind):
    assert there_and_back({name: kind, "rest": [1]}, "policy_kwargs") == {name: kind, "rest": [1]}


@pytest.mark.parametrize(
    "value",
    [
        *(lambda x: x, Plain(), {"deep": [Plain()]}, np.array([None], dtype=object)),
        *(halve, nn.relu, FloatSchedule(halve), Colour.RED, Pair(1, 2.0), Plain, nn.Tanh, Offers()),
    ],
    # Not repr: two test workers would have other addresses in their names.
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_kept_is_named_twice(value):
    with pytest.warns(UserWarning, match="`clip` cannot be kept.*custom_objects") as warned:
        text = data_to_json({"clip": value, "n": 1})
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="`clip`.*custom_objects"):
        assert json_to_data(text) == {"n": 1}
    replaced = json_to_data(text, custom_objects={"clip": 0.2, "absent": 1})
    assert replaced == {"clip": 0.2, "n": 1}


def test_value_that_contains_itself_is_not_kept():
    ring: list = []
    ring.append(ring)
    with pytest.warns(UserWarning, match="contains itself"):
        data_to_json({"ring": ring})


def test_pickles_need_consent_on_both_sides():
    text = data_to_json({"f": lambda x: x + 1, "g": lambda x: x, "n": 1}, allow_pickle=True)
    with pytest.warns(
        UserWarning, match=r"`f`.*`g`.*allow_pickle=True.*custom_objects=\{'f': \.\.\."
    ) as warned:
        assert json_to_data(text) == {"n": 1}
    assert len(warned) == 1
    assert json_to_data(text, custom_objects={"f": 2, "g": 3}) == {"f": 2, "g": 3, "n": 1}
    with pytest.warns(UserWarning, match="Opening pickles.*any code: `f`, `g`") as warned:
        assert json_to_data(text, allow_pickle=True)["f"](2) == 3
    assert len(warned) == 1


def test_broken_pickle_is_reported():
    text = data_to_json({"f": lambda x: x + 1}, allow_pickle=True)
    entries = json.loads(text)
    entries["f"][":serialized:"] = "AAAA"
    with (
        pytest.warns(UserWarning, match="Opening pickles"),
        pytest.warns(UserWarning, match="`f`.*unpickling it failed.*custom_objects"),
    ):
        assert json_to_data(json.dumps(entries), allow_pickle=True) == {}


@pytest.mark.parametrize(
    "path",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "mlx_baselines3.common.save_util:os.system",
        "mlx_baselines3.common.save_util:load_from_pkl",
        "gymnasium.envs.registration:make",
        "numpy:load",
        "cloudpickle.cloudpickle:dumps",
        "a_module_that_nobody_imported:Thing",
        "mlx.nn.layers.base:Module.load_weights",
        "",
    ],
)
def test_forged_paths_are_not_followed(path):
    before = set(sys.modules)
    for kind in ("class", "function"):
        text = json.dumps({"x": {":type:": kind, "path": path}})
        with pytest.warns(UserWarning, match="Could not restore `x`"):
            assert json_to_data(text) == {}
    assert set(sys.modules) == before


def test_loading_never_imports():
    name = "colorsys_twin_for_this_test"
    text = json.dumps({"x": {":type:": "enum", "class": f"{name}:Colour", "name": "RED"}})
    with pytest.warns(UserWarning, match="not imported"):
        json_to_data(text)
    assert name not in sys.modules


@pytest.mark.parametrize(
    "entry",
    [
        {":type:": "unheard of"},
        {":type:": 3},
        {":type:": "ndarray", "dtype": "<f4", "shape": [2**40], "base64": ""},
        {":type:": "ndarray", "dtype": "|O8", "shape": [1], "base64": "AAAAAAAAAAA="},
        {":type:": "space", "class": "Box", "state": {}},
        {":type:": "space", "class": "Space", "state": {}},
        {":type:": "object", "class": "mlx_baselines3.common.utils:FloatSchedule", "state": {"__class__": 1}},
        {":type:": "enum", "class": "mlx_baselines3.common.utils:FloatSchedule", "name": "x"},
        {":type:": "namedtuple", "class": "mlx_baselines3.common.type_aliases:TrainFreq", "items": [1]},
        {":type:": "dict", "items": [[[], 1]]},
        {":type:": "mlx.dtype", "value": "load"},
        {":type:": "pickle", ":serialized:": "?"},
    ],
    ids=lambda e: str(e[":type:"]),
)
def test_damaged_values_are_refused(entry):
    with pytest.raises(ModelFileError, match="`x`"):
        json_to_data(json.dumps({"x": entry}))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, "1" * 5000, '{"x": ' + "[" * 5000 + "]" * 5000 + "}"]
)
def test_json_that_is_not_a_model_is_refused(text):
    with pytest.raises(ModelFileError):
        json_to_data(text)


def test_custom_objects_must_be_a_dict():
    with pytest.raises(ValueError, match="custom_objects argument must be a dict or None, not list"):
        json_to_data("{}", custom_objects=[1])
