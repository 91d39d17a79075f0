"""Normals whose key stays on the host are MLX's own."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.nn import random_numbers
from mlx_baselines3.common.nn.random_numbers import standard_normal


@pytest.mark.parametrize("has_gpu", [False, True])
def test_the_draws_and_the_generator_afterwards_are_mlxs(monkeypatch, has_gpu):
    monkeypatch.setattr(random_numbers.nvrtc, "usable", lambda: has_gpu)
    monkeypatch.setattr(random_numbers, "all_to_mlx", lambda arrays: [mx.array(a) for a in arrays])
    key = mx.random.state[0]
    try:
        mx.random.seed(7)
        expected = [np.array(mx.random.normal((3, 2))) for _ in range(3)] + [np.array(mx.random.uniform())]
        mx.random.seed(7)
        found = [np.array(standard_normal((3, 2))) for _ in range(3)] + [np.array(mx.random.uniform())]
    finally:
        high, low = np.asarray(key).tolist()
        mx.random.seed(high << 32 | low)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
