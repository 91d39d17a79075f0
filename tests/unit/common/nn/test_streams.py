"""Two critics on two streams: the same numbers, in any thread of Python."""

import threading
from contextlib import nullcontext

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import SAC, TD3, _native
from mlx_baselines3.common.nn.streams import beside

SETTINGS = {"learning_starts": 8, "batch_size": 32, "seed": 3, "device": "cpu"}


@pytest.fixture
def threads():
    yield _native.set_threads
    _native.set_threads(None)


@pytest.mark.parametrize(
    ("count", "turn", "parallel"), [(1, 1, False), (2, 0, False), (2, 1, True), (2, 2, False)]
)
def test_every_other_network_goes_to_the_second_stream(threads, count, turn, parallel):
    threads(count)
    context = beside(turn)
    assert isinstance(context, nullcontext) != parallel
    own = mx.default_stream(mx.cpu)
    with context:
        assert (mx.default_stream(mx.cpu) != own) == parallel
    assert mx.default_stream(mx.cpu) == own


@pytest.mark.parametrize("cls", [SAC, TD3])
def test_the_numbers_do_not_depend_on_the_streams(threads, cls):
    trained = []
    for count in (1, 2):
        threads(count)
        trained.append(cls("MlpPolicy", "Pendulum-v1", **SETTINGS).learn(20).policy.parameters_to_vector())
    np.testing.assert_allclose(trained[0], trained[1], rtol=1e-5, atol=1e-7)


def test_learning_goes_on_in_another_thread(threads):
    threads(2)
    model = SAC("MlpPolicy", "Pendulum-v1", **SETTINGS).learn(12)
    before, failures = model.policy.parameters_to_vector(), []

    def learn():
        try:
            model.learn(8, reset_num_timesteps=False)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=learn)
    thread.start()
    thread.join()
    assert failures == []
    assert not np.array_equal(before, model.policy.parameters_to_vector())
    model.learn(8, reset_num_timesteps=False)
