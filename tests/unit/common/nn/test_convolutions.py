"""Convolutions as products of patches are MLX's, forwards and backwards."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.nn import convolutions
from mlx_baselines3.common.nn.convolutions import convolved

# Images, channels, kernel, stride, padding.
CASES = {
    "one pixel": ((3, 5, 6, 2), 4, (1, 1), 1, 0),
    "overlapping": ((2, 9, 8, 3), 5, (3, 3), 1, 1),
    "tiles": ((2, 12, 16, 1), 3, (8, 8), 4, 0),
    "a rest of pixels": ((3, 11, 13, 2), 3, (4, 4), 2, 0),
    "tiles that are not whole": ((2, 10, 11, 2), 3, (5, 3), 2, 1),
    "gaps between patches": ((2, 12, 11, 2), 3, (2, 3), 4, 0),
    "pairs": ((2, 9, 12, 2), 3, (3, 2), (2, 3), (1, 0)),
    "as large as the image": ((4, 5, 4, 3), 2, (5, 4), 3, 0),
}


@pytest.mark.parametrize("bytes_at_once", [1, 1 << 26])
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_mlxs(case, compiles, bytes_at_once, monkeypatch, rng):
    monkeypatch.setattr(convolutions, "_PATCH_BYTES", bytes_at_once)
    shape, channels, kernel, stride, padding = CASES[case]
    images = mx.array(rng.normal(size=shape).astype(np.float32))
    weights = mx.array(rng.normal(size=(channels, *kernel, shape[-1])).astype(np.float32))
    scale = mx.array(rng.normal(size=mx.conv2d(images, weights, stride, padding).shape).astype(np.float32))

    def answer(function):
        def loss(images, weights):
            out = function(images, weights, stride, padding)
            return (out * scale).sum(), out

        def both(images, weights):
            (_, out), gradients = mx.value_and_grad(loss, argnums=(0, 1))(images, weights)
            return [out, *gradients]

        return (mx.compile(both) if compiles else both)(images, weights)

    with mx.stream(mx.cpu):
        for got, expected in zip(answer(convolved), answer(mx.conv2d), strict=True):
            assert got.shape == expected.shape
            np.testing.assert_allclose(np.array(got), np.array(expected), atol=2e-5, rtol=2e-5)


def test_what_does_not_fit_is_mlxs_to_refuse():
    with pytest.raises(ValueError, match="conv"):
        mx.eval(convolved(mx.zeros((1, 4, 4, 2)), mx.zeros((3, 2, 2, 5)), 1, 0))
    with pytest.raises(ValueError, match="conv"):
        mx.eval(convolved(mx.zeros((1, 4, 4, 2)), mx.zeros((3, 5, 5, 2)), 1, 0))


def test_an_empty_batch():
    assert convolved(mx.zeros((0, 4, 4, 2)), mx.zeros((3, 2, 2, 2)), 1, 0).shape == (0, 3, 3, 3)
