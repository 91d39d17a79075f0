"""Seeds, schedules, devices, space checks, averages."""
# ruff: noqa: NPY002  the global generator is what is tested

import math
import random
from collections import deque

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

import mlx_baselines3
from mlx_baselines3.common import utils
from mlx_baselines3.common.logger import HumanOutputFormat, TensorBoardOutputFormat
from mlx_baselines3.common.nn import devices
from mlx_baselines3.common.type_aliases import ReplayBufferSamples, TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule


def test_set_random_seed_repeats_all_three_generators():
    draws = []
    for _ in range(2):
        utils.set_random_seed(7)
        draws.append((random.random(), np.random.random(), mx.random.uniform().item()))
    assert draws[0] == draws[1]
    # CPython's and NumPy's documented streams for seed 7
    assert draws[0][0] == 0.32383276483316237
    assert draws[0][1] == 0.07630828937395717


def test_a_refused_seed_changes_no_generator():
    random.seed(1)
    with pytest.raises(ValueError, match="Seed must be between"):
        utils.set_random_seed(-1)
    assert random.random() == 0.13436424411240122


@pytest.mark.parametrize(
    ("progress_remaining", "value"), [(1.0, 1.0), (0.95, 0.525), (0.9, 0.05), (0.5, 0.05), (0.0, 0.05)]
)
def test_linear_schedule_reaches_its_end_after_a_tenth(progress_remaining, value):
    schedule = LinearSchedule(1.0, 0.05, 0.1)
    assert schedule(progress_remaining) == pytest.approx(value)
    assert FloatSchedule(schedule)(progress_remaining) == pytest.approx(value)
    with pytest.warns(UserWarning, match="deprecated"):
        old = utils.get_linear_fn(1.0, 0.05, 0.1)
    assert old(progress_remaining) == pytest.approx(value)


def test_float_schedule_wraps_constants_and_functions_and_returns_floats():
    assert FloatSchedule(3)(0.2) == 3.0
    assert isinstance(FloatSchedule(lambda p: np.float32(p))(0.5), float)
    inner = FloatSchedule(lambda p: 2 * p)
    assert FloatSchedule(inner).value_schedule is inner.value_schedule
    assert repr(FloatSchedule(LinearSchedule(1.0, 0.0, 0.5))) == (
        "FloatSchedule(LinearSchedule(start=1.0, end=0.0, end_fraction=0.5))"
    )
    assert repr(FloatSchedule(0.1)) == "FloatSchedule(ConstantSchedule(val=0.1))"
    with pytest.raises(AssertionError, match="must be a float or a callable"):
        FloatSchedule("linear")


def test_deprecated_schedule_functions_warn():
    with pytest.warns(UserWarning, match="FloatSchedule"):
        assert utils.get_schedule_fn(0.25)(0.9) == 0.25
    with pytest.warns(UserWarning, match="ConstantSchedule"):
        assert utils.constant_fn(0.5)(0.1) == 0.5
    assert ConstantSchedule(0.5)(0.1) == 0.5


def test_explained_variance_by_hand():
    y = np.array([1.0, 2.0, 3.0, 4.0])  # variance 1.25
    assert utils.explained_variance(y, y) == 1.0
    assert utils.explained_variance(np.full(4, 2.5), y) == 0.0
    # residuals 0, 0, 0, 1: variance 3/16, so 1 - 0.1875 / 1.25
    assert utils.explained_variance(np.array([1.0, 2.0, 3.0, 3.0]), y) == pytest.approx(0.85)
    assert math.isnan(utils.explained_variance(y, np.ones(4)))
    with pytest.raises(AssertionError, match=r"\(2, 2\)"):
        utils.explained_variance(y.reshape(2, 2), y)


def test_update_learning_rate_stores_an_array():
    optimizer = optim.Adam(learning_rate=0.1)
    utils.update_learning_rate(optimizer, np.float64(0.025))
    assert isinstance(optimizer.state["learning_rate"], mx.array)
    assert optimizer.state["learning_rate"].dtype == mx.float32
    assert optimizer.learning_rate.item() == pytest.approx(0.025)


class TestGetDevice:
    @pytest.mark.parametrize("name", ["cpu", "cpu:0", mx.cpu, mx.Device(mx.cpu)])
    def test_cpu(self, name):
        assert utils.get_device(name).type == mx.cpu

    def test_auto_is_mlx_default(self):
        assert utils.get_device() == mx.default_device()

    @pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:0", "mps", mx.gpu])
    @pytest.mark.parametrize("usable", [True, False])
    def test_gpu_names_fall_back_to_the_cpu_as_in_sb3(self, monkeypatch, name, usable):
        monkeypatch.setattr(devices, "_gpu_is_usable", lambda: usable)
        assert utils.get_device(name).type == (mx.gpu if usable else mx.cpu)

    def test_index_is_kept(self, monkeypatch):
        monkeypatch.setattr(devices, "_gpu_is_usable", lambda: True)
        assert utils.get_device("cuda:1") == mx.Device(mx.gpu, 1)

    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"'tpu'.*'auto', 'cpu', 'gpu'"):
            utils.get_device("tpu")


def test_latest_run_id(tmp_path):
    assert utils.get_latest_run_id(str(tmp_path / "missing"), "PPO") == 0
    for name in ["PPO_1", "PPO_10", "PPO_2", "PPO_x", "PPO_big_30", "A2C_99"]:
        (tmp_path / name).mkdir()
    assert utils.get_latest_run_id(str(tmp_path), "PPO") == 10
    assert utils.get_latest_run_id(tmp_path, "PPO_big") == 30
    assert utils.get_latest_run_id(str(tmp_path), "SAC") == 0


class TestConfigureLogger:
    def test_silent_and_stdout(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))
        assert utils.configure_logger(verbose=0).output_formats == []
        (output,) = utils.configure_logger(verbose=1).output_formats
        assert isinstance(output, HumanOutputFormat)

    def test_tensorboard_runs_are_numbered(self, tmp_path):
        folders = []
        for reset in [True, True, False]:
            logger = utils.configure_logger(1, str(tmp_path), "run", reset)
            folders.append(logger.dir)
            assert [type(output) for output in logger.output_formats] == [
                HumanOutputFormat,
                TensorBoardOutputFormat,
            ]
            logger.close()
        assert folders == [str(tmp_path / name) for name in ["run_1", "run_2", "run_2"]]

    def test_missing_tensorboard_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setattr(utils, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"tensorboard is not installed.*mlx-baselines3\[extra\]"):
            utils.configure_logger(0, str(tmp_path), "run")
        assert list(tmp_path.iterdir()) == []


def test_check_for_correct_spaces():
    class Env:
        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Discrete(2)

    utils.check_for_correct_spaces(Env(), Env.observation_space, spaces.Discrete(2))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        utils.check_for_correct_spaces(Env(), spaces.Box(-1, 1, (3,)), Env.action_space)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        utils.check_for_correct_spaces(Env(), Env.observation_space, spaces.Discrete(3))


def test_spaces_of_early_gymnasium_are_those_of_today():
    far = np.finfo(np.float32).max
    early = spaces.Box(np.array([-1, -far], np.float32), np.array([1, far], np.float32))
    today = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))

    class Env:
        observation_space: spaces.Space = today
        action_space = spaces.Discrete(2)

    utils.check_for_correct_spaces(Env(), early, Env.action_space)
    Env.observation_space = spaces.Dict({"a": today})
    utils.check_for_correct_spaces(Env(), spaces.Dict({"a": early}), Env.action_space)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        utils.check_for_correct_spaces(Env(), spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), Env.action_space)


def test_check_shape_equal():
    box22, box33 = spaces.Box(0, 1, (2, 2)), spaces.Box(0, 1, (3, 3))
    utils.check_shape_equal(box22, spaces.Box(-5, 5, (2, 2)))
    utils.check_shape_equal(spaces.Dict({"a": box22}), spaces.Dict({"a": spaces.Box(-5, 5, (2, 2))}))
    with pytest.raises(AssertionError, match=r"\(2, 2\) != \(3, 3\)"):
        utils.check_shape_equal(spaces.Dict({"a": box22}), spaces.Dict({"a": box33}))
    with pytest.raises(AssertionError, match="same keys"):
        utils.check_shape_equal(spaces.Dict({"a": box22}), spaces.Dict({"b": box22}))
    with pytest.raises(AssertionError, match="same type"):
        utils.check_shape_equal(spaces.Dict({"a": box22}), box22)


BOX, DISCRETE = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
MULTI, BINARY = spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)
DICT = spaces.Dict({"box": BOX, "discrete": DISCRETE})


@pytest.mark.parametrize(
    ("space", "observation", "vectorized"),
    [
        (BOX, np.ones(2), False),
        (BOX, np.ones((1, 2)), True),
        (DISCRETE, 1, False),
        (DISCRETE, np.array(1), False),
        (DISCRETE, np.ones(3, np.int8), True),
        (MULTI, np.ones(2, np.int8), False),
        (MULTI, np.ones((5, 2), np.int8), True),
        (BINARY, np.ones(3, np.int8), False),
        (BINARY, np.ones((1, 3), np.int8), True),
        (spaces.MultiBinary([2, 3]), np.ones((4, 2, 3), np.int8), True),
        (DICT, {"box": np.ones(2), "discrete": np.array(1)}, False),
        (DICT, {"box": np.ones((3, 2)), "discrete": np.ones(3, int)}, True),
    ],
)
def test_is_vectorized_observation(space, observation, vectorized):
    assert utils.is_vectorized_observation(observation, space) is vectorized


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (BOX, np.ones(3), r"\(3,\) for Box environment, please use \(2,\) or \(n_env, 2\)"),
        (DISCRETE, np.ones((1, 1), int), r"please use \(\) or \(n_env,\)"),
        (MULTI, np.ones((2, 1), int), r"please use \(2,\) or \(n_env, 2\)"),
        (BINARY, np.ones((2, 1), int), r"please use \(3,\) or \(n_env, 3\)"),
        (DICT, {"box": np.ones(2), "discrete": np.ones(1, int)}, "mix of vectorized and non-vectorized"),
        (DICT, {"box": np.ones((1, 2)), "discrete": np.array(1)}, "for key discrete"),
        (DICT, {"box": np.ones((1, 2, 2)), "discrete": np.ones(1, int)}, "for key box"),
        (spaces.Text(3), np.ones(1), "Cannot determine"),
    ],
)
def test_wrong_observation_shapes_name_what_was_expected(space, observation, message):
    with pytest.raises(ValueError, match=message):
        utils.is_vectorized_observation(observation, space)


def test_safe_mean():
    assert math.isnan(utils.safe_mean([]))
    assert utils.safe_mean(deque([1, 2, 6], maxlen=3)) == 3.0
    assert type(utils.safe_mean(np.array([1.0, 2.0], np.float32))) is float


def test_zip_strict():
    assert list(utils.zip_strict([1, 2], "ab")) == [(1, "a"), (2, "b")]
    with pytest.raises(ValueError, match="shorter"):
        list(utils.zip_strict([1, 2], "a"))


def test_get_parameters_by_name_sees_running_statistics():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm(4))
    model.layers[1].running_mean = mx.full((4,), 3.0)
    assert [p.shape for p in utils.get_parameters_by_name(model, ["0.weight"])] == [(4, 5)]
    (mean,) = utils.get_parameters_by_name(model, ["running_mean"])
    assert mean.tolist() == [3.0] * 4
    assert len(utils.get_parameters_by_name(model, ["weight", "bias", "running_"])) == 6


class TestPolyak:
    def linear(self, value):
        layer = nn.Linear(2, 2)
        layer.update({"weight": mx.full((2, 2), value), "bias": mx.full((2,), -value)})
        return layer

    def test_module(self):
        online, target = self.linear(1.0), self.linear(0.0)
        utils.polyak_update(online, target, 0.25)
        assert target.weight.tolist() == [[0.25, 0.25], [0.25, 0.25]]
        assert target.bias.tolist() == [-0.25, -0.25]
        assert online.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]

    def test_sb3_way_of_calling_it_reaches_the_module(self):
        online, target = self.linear(4.0), self.linear(2.0)
        utils.polyak_update(online.parameters(), target.parameters(), 0.5)
        assert target.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]

    def test_arrays_one_by_one(self):
        ones, zeros = mx.ones((2,)), mx.zeros((2,))
        result = utils.polyak_update(iter([ones]), iter([zeros]), np.float64(0.5))
        assert zeros.tolist() == [0.5, 0.5]
        assert result[0].tolist() == [0.5, 0.5]
        assert ones.tolist() == [1.0, 1.0]

    def test_a_target_that_shares_its_arrays_parts_from_the_model(self):
        online, target = self.linear(1.0), self.linear(0.0)
        target.update(online.parameters())
        online.update({"weight": mx.full((2, 2), 3.0)})
        utils.polyak_update(online, target, 0.5)
        assert target.weight.tolist() == [[2.0, 2.0], [2.0, 2.0]]
        assert online.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]

    def test_average_is_pure_and_compiles(self):
        params, target = {"a": mx.array([2.0])}, {"a": mx.array([0.0])}
        average = mx.compile(utils.polyak_average)
        assert average(params, target, mx.array(0.5))["a"].tolist() == [1.0]
        assert average(params, target, mx.array(0.25))["a"].tolist() == [0.5]
        assert target["a"].tolist() == [0.0]

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ({"a": mx.zeros(2), "b": mx.zeros(2)}, r"only on one side: \['b'\]"),
            ({"a": mx.zeros(3)}, r"'a' has shape \(2,\), its target has \(3,\)"),
        ],
    )
    def test_mismatch_is_named(self, target, message):
        with pytest.raises(ValueError, match=message):
            utils.polyak_update({"a": mx.ones(2)}, target, 0.5)
        assert all(mx.all(array == 0).item() for array in target.values())


def test_obs_as_tensor():
    array = utils.obs_as_tensor(np.array([[0, 255]], np.uint8), "cpu")
    assert array.dtype == mx.uint8
    assert array.tolist() == [[0, 255]]
    tensors = utils.obs_as_tensor({"x": np.array([1.5], np.float32)}, mx.Device(mx.cpu))
    assert tensors["x"].tolist() == [1.5]
    with pytest.raises(TypeError, match="list"):
        utils.obs_as_tensor([1.0], "cpu")


def test_should_collect_more_steps():
    steps, episodes = TrainFreq(4, TrainFrequencyUnit.STEP), TrainFreq(2, TrainFrequencyUnit.EPISODE)
    assert utils.should_collect_more_steps(steps, 3, 99)
    assert not utils.should_collect_more_steps(steps, 4, 0)
    assert utils.should_collect_more_steps(episodes, 99, 1)
    assert not utils.should_collect_more_steps(episodes, 0, 2)
    with pytest.raises(ValueError, match="'step'"):
        utils.should_collect_more_steps(TrainFreq(1, "step"), 0, 0)


def test_replay_samples_have_no_discounts_unless_given():
    array = mx.zeros(1)
    assert ReplayBufferSamples(array, array, array, array, array).discounts is None


def test_system_info(capsys):
    info, text = utils.get_system_info()
    assert capsys.readouterr().out == text + "\n"
    assert list(info)[:5] == ["OS", "Python", "MLX-Baselines3", "Rust core", "MLX"]
    assert info["Numpy"] == np.__version__
    assert info["Rust core"] == mlx_baselines3.__version__
    assert {"BLAS", "MLX backend", "GPU Enabled", "TF32", "Gymnasium", "Cloudpickle"} <= info.keys()
    assert f"- Numpy: {np.__version__}\n" in text
    assert utils.get_system_info(print_info=False)[1].count("\n") == len(info)
    assert capsys.readouterr().out == ""
