"""NumPy to MLX and back: dtypes, copies, devices."""

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.nn.interop import to_mlx, to_numpy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float64, mx.float32),
        (np.float32, mx.float32),
        (np.uint8, mx.uint8),
        (np.int64, mx.int64),
        (np.int32, mx.int32),
        (np.bool_, mx.bool_),
    ],
)
def test_dtypes(given, expected):
    values = np.array([[0, 1], [1, 0]], given)
    array = to_mlx(values)
    assert array.dtype == expected
    np.testing.assert_array_equal(to_numpy(array), values)


def test_nothing_is_shared():
    values = np.zeros(3, np.float32)
    array = to_mlx(values)
    values[0] = 7.0
    assert array.tolist() == [0.0, 0.0, 0.0]
    out = to_numpy(array)
    out[1] = 7.0
    assert array.tolist() == [0.0, 0.0, 0.0]


def test_both_ends_take_what_they_would_return():
    array, values = mx.ones(2), np.ones(2)
    assert to_mlx(array) is array
    assert to_numpy(values) is values


@pytest.mark.parametrize("given", [1.5, [1.0, 2.0], np.float64(3.0), np.arange(6.0).reshape(2, 3).T])
def test_whatever_numpy_reads(given):
    np.testing.assert_array_equal(to_numpy(to_mlx(given)), np.asarray(given, np.float32))


def test_lazy_arrays_are_computed():
    np.testing.assert_array_equal(to_numpy(mx.ones(3) * 2), [2.0, 2.0, 2.0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda device: pickle.loads(pickle.dumps(device))])
def test_devices_travel(copied):
    assert copied(mx.Device(mx.cpu)) == mx.Device(mx.cpu)
