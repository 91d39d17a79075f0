"""How an optimizer lays out its arrays for a GPU: in one vector, convolutions as MLX computes them."""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from mlx_baselines3.common.nn.layers import Conv2d, Flatten, Linear, Sequential, named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer


def make() -> tuple[Sequential, ParameterOptimizer]:
    # One array is large enough to stay by itself on a CPU.
    network = Sequential(Conv2d(3, 8, 3), Flatten(), Linear(8 * 36, 64))
    return network, ParameterOptimizer(network, optim.Adam, 1e-2)


def step(network: Sequential, optimizer: ParameterOptimizer, seed: int) -> None:
    arrays = named_parameters(network)
    rng = np.random.default_rng(seed)
    gradients = {name: mx.array(rng.random(array.shape, np.float32)) for name, array in arrays.items()}
    packed, state = optimizer.descend(gradients, optimizer.pack(arrays), optimizer.state, mx.array(0.5))
    optimizer.state = state
    for name, array in optimizer.unpack(packed).items():
        place, leaf = name.split(".")
        network[place][leaf] = array


def test_a_gpu_has_one_vector_and_its_steps_are_the_same():
    (network, optimizer), (other, on_gpu) = make(), make()
    other.update(network.parameters())
    for seed in range(3):
        # There and back: what is known of each array goes along.
        on_gpu._settle(seed != 1)
        assert (len(on_gpu.parts) == 1) == (seed != 1)
        step(network, optimizer, seed)
        step(other, on_gpu, seed)
    for arrays, expected in (
        (named_parameters(other), named_parameters(network)),
        (on_gpu.state_dict(), optimizer.state_dict()),
    ):
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(np.array(array), np.array(expected[name]), rtol=1e-5, atol=1e-7)


def test_weights_of_convolutions_lie_as_mlx_computes_with_them():
    network, optimizer = make()
    optimizer._settle(True)
    arrays = named_parameters(network)
    packed = optimizer.pack(arrays)
    weight = arrays["0.weight"]
    (vector,) = packed.values()
    np.testing.assert_array_equal(
        np.array(vector)[: weight.size], np.array(weight).transpose(0, 2, 3, 1).reshape(-1)
    )
    for name, array in optimizer.unpack(packed).items():
        np.testing.assert_array_equal(np.array(array), np.array(arrays[name]))
