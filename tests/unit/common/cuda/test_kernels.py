"""This package's CUDA kernels against MLX's operations. They need an NVIDIA GPU."""

from functools import reduce
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3.common.cuda import nvrtc, upload, vectors
from mlx_baselines3.common.cuda.bias_relu import bias_relu
from mlx_baselines3.common.nn import fused_mlp as mlp
from mlx_baselines3.common.nn.layers import Linear
from mlx_baselines3.common.nn.optimizers import Adam
from mlx_baselines3.ppo import losses
from mlx_baselines3.ppo.fused_losses import NAMES, surrogate


def _has_kernels() -> bool:
    if not mx.is_available(mx.gpu):
        return False
    with mx.stream(mx.gpu):
        return nvrtc.usable()


@pytest.fixture(autouse=True)
def gpu():
    if not _has_kernels():
        pytest.skip("no NVIDIA GPU")
    with mx.stream(mx.gpu):
        yield


def test_arrays_arrive_as_they_were_sent():
    rng = np.random.default_rng(0)
    arrays = [
        rng.random((3, 5)),
        rng.integers(0, 255, (7, 3), np.uint8),
        np.arange(9, dtype=np.int64)[::2],
        np.zeros((0, 4), np.float32),
        rng.random((1000, 1200), np.float32).T,
    ]
    # More often than there are slots.
    for _ in range(5):
        for sent, array in zip(upload.staging().upload(arrays), arrays, strict=True):
            np.testing.assert_array_equal(np.array(sent), array.astype(np.array(sent).dtype))


def test_packed_arrays_begin_at_multiples():
    arrays = [mx.random.normal(shape) for shape in ((3,), (40, 50), (1,), (2, 3, 4))]
    packed = np.array(vectors.pack(arrays, 4))
    expected = [np.pad(np.array(a).reshape(-1), (0, -a.size % 4)) for a in arrays]
    np.testing.assert_array_equal(packed, np.concatenate(expected))


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("corrects", [False, True])
def test_adam(clips, corrects):
    gradients = [mx.random.normal(shape) for shape in ((3,), (40, 50), (1,))]
    given = [vectors.pack([mx.abs(mx.random.normal(g.shape)) for g in gradients], 4) for _ in range(3)]
    rate, step, most = mx.array(1e-2), mx.array(3, mx.uint64), mx.array(2.0)
    clip = (vectors.squares(gradients), most) if clips else None
    found = vectors.adam(gradients, 4, tuple(given), (0.9, 0.999, 1e-5), corrects, rate, step, clip)
    whole = vectors.pack(gradients, 4)
    if clips:
        whole = whole * mx.minimum(most / (mx.sqrt((whole * whole).sum()) + 1e-6), 1.0)
    adam = Adam(1e-2, eps=1e-5, bias_correction=corrects)
    adam.state["step"] = step + 1
    state = {"m": given[1], "v": given[2]}
    parameters = adam.apply_single(whole, given[0], state)
    assert found.pop().item() == 4
    for one, other in zip(found, (parameters, state["m"], state["v"]), strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=2e-5, atol=1e-7)


def _networks(dims: list[list[int]], heads: list[list[int]], activation: type[nn.Module]) -> list[mlp.Net]:
    nets = []
    for sides, units in zip(dims, heads, strict=True):
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sides):
            layers += [Linear(inputs, outputs), activation()]
        nets.append(mlp.Net(layers, [Linear(sides[-1], n) for n in units]))
    return nets


@pytest.mark.parametrize(
    ("dims", "heads", "activation", "rows"),
    [
        ([[4, 64, 64]] * 2, [[2], [1]], nn.Tanh, 1),
        ([[4, 64, 64]] * 2, [[2], [1]], nn.Tanh, 5000),
        ([[23, 256, 256]] * 2, [[1], [1]], nn.ReLU, 256),
        ([[17, 256, 256]], [[6, 6]], nn.ReLU, 300),
        ([[7, 100, 33], [7, 5, 40]], [[35, 3], [1]], nn.ReLU, 77),
    ],
)
def test_mlps_and_their_gradients(dims, heads, activation, rows):
    nets = _networks(dims, heads, activation)
    linear = [layer for net in nets for layer in (*net.layers[::2], *net.heads)]
    x = mx.random.normal((rows, dims[0][0]))
    weights = [[mx.random.normal((rows, n)) for n in units] for units in heads]

    def loss(x: mx.array, parameters: list[mx.array], fused: bool) -> mx.array:
        left = iter(parameters)
        for layer in linear:
            layer.weight, layer.bias = next(left), next(left)
        if fused:
            outputs = mlp.fused(nets, x)
            assert outputs is not None
        else:
            latent = [reduce(lambda y, layer: layer(y), net.layers, x) for net in nets]
            outputs = [[head(y) for head in net.heads] for net, y in zip(nets, latent, strict=True)]
        sums = [
            (a * b).sum() for o, w in zip(outputs, weights, strict=True) for a, b in zip(o, w, strict=True)
        ]
        return sum(sums[1:], sums[0]) / rows

    parameters = [array for layer in linear for array in (layer.weight, layer.bias)]
    answers = [
        mx.value_and_grad(lambda x, p, fused=fused: loss(x, p, fused), argnums=(0, 1))(x, parameters)
        for fused in (True, False)
    ]
    (value, (dx, gradients)), (expected, (expected_dx, expected_gradients)) = answers
    for one, other in [
        (value, expected),
        (dx, expected_dx),
        *zip(gradients, expected_gradients, strict=True),
    ]:
        scale = float(np.abs(np.array(other)).max()) + 1e-6
        np.testing.assert_allclose(np.array(one), np.array(other), atol=2e-3 * scale, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 300])
@pytest.mark.parametrize("normalizes", [False, True])
def test_losses_of_ppo(rows, normalizes):
    log_prob, entropy, values = (mx.random.normal((rows,)) for _ in range(3))
    columns = mx.random.normal((rows, 4))
    clip, entropy_weight, value_weight = mx.array(0.2), mx.array(0.01), mx.array(0.5)

    def by_kernel(log_prob: mx.array, entropy: mx.array, values: mx.array) -> tuple[mx.array, list[mx.array]]:
        weights = (clip, entropy_weight, value_weight)
        found = surrogate((log_prob, entropy, values), columns, weights, normalizes)
        return found["loss"], [found[name] for name in NAMES]

    def by_mlx(log_prob: mx.array, entropy: mx.array, values: mx.array) -> tuple[mx.array, list[mx.array]]:
        advantages = losses.normalize(columns[:, 2]) if normalizes else columns[:, 2]
        ratio = mx.exp(log_prob - columns[:, 1])
        policy = losses.policy_loss(ratio, advantages, clip)
        value = losses.value_loss(values, columns[:, 3])
        entropies = losses.entropy_loss(entropy, log_prob)
        loss = policy + entropy_weight * entropies + value_weight * value
        kl = losses.approximate_kl(ratio, log_prob - columns[:, 1])
        return loss, [policy, value, entropies, kl, losses.clip_fraction(ratio, clip), loss]

    arguments = log_prob, entropy, values
    (_, found), gradients = mx.value_and_grad(by_kernel, argnums=(0, 1, 2))(*arguments)
    (_, expected), expected_gradients = mx.value_and_grad(by_mlx, argnums=(0, 1, 2))(*arguments)
    for one, other in zip([*found, *gradients], [*expected, *expected_gradients], strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 9, 7, 32), (40, 81, 64), (1, 1024)])
def test_bias_and_relu(shape):
    x, weights = (mx.random.normal(shape) for _ in range(2))
    bias = mx.random.normal(shape[-1:])
    outcomes = [
        mx.value_and_grad(lambda x, b, function=function: (function(x, b) * weights).sum(), argnums=(0, 1))(
            x, bias
        )
        for function in (bias_relu, lambda x, b: mx.maximum(x + b, 0))
    ]
    (value, found), (expected_value, expected) = outcomes
    for one, other in [(value, expected_value), *zip(found, expected, strict=True)]:
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-4, atol=1e-3)
