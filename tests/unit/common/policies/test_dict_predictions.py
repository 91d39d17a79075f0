"""Shapes of the keys of a Dict observation in ``predict``."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN, PPO

SPACE = spaces.Dict(
    a=spaces.Discrete(3), b=spaces.Box(0, 1, (2,)), c=spaces.MultiDiscrete([2, 3]), d=spaces.MultiBinary(2)
)


class Sampled(gym.Env):
    observation_space, action_space = SPACE, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


@pytest.fixture(scope="module", params=[PPO, DQN])
def model(request):
    if request.param is PPO:
        return PPO("MultiInputPolicy", Sampled(), n_steps=8, batch_size=8, seed=0)
    return DQN("MultiInputPolicy", Sampled(), buffer_size=10, seed=0)


def batch(n):
    rng = np.random.default_rng(n)
    return {
        "a": rng.integers(0, 3, n),
        "b": rng.uniform(0, 1, (n, 2)).astype(np.float32),
        "c": rng.integers(0, 2, (n, 2)),
        "d": rng.integers(0, 2, (n, 2)).astype(np.int8),
    }


def logits(model, observation):
    tensors, vectorized = model.policy.obs_to_tensor(observation)
    assert vectorized
    network = model.q_net if isinstance(model, DQN) else model.policy.get_distribution
    answer = network(tensors)
    return np.array(answer if isinstance(model, DQN) else answer.distribution.logits)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("order", ["abcd", "bacd"])
@pytest.mark.parametrize(
    ("key", "shape"), [("a", (-1, 1)), ("b", (-1, 1, 2)), ("c", (-1, 2, 1)), ("d", (-1, 1, 2, 1))]
)
def test_an_axis_of_one_too_many_does_no_harm(model, n, key, shape, order):
    """A buffer, for one, has a Discrete key in a column."""
    plain = {name: batch(n)[name] for name in order}
    odd = {**plain, key: plain[key].reshape(shape)}
    assert model.policy.is_vectorized_observation(odd)
    np.testing.assert_array_equal(logits(model, odd), logits(model, plain))
    assert model.predict(odd, deterministic=True)[0].shape == (n,)


@pytest.mark.parametrize(("key", "shape"), [("b", (2, 3)), ("c", (1, 3, 2)), ("a", (1, 3)), ("d", (6,))])
def test_other_shapes_are_refused(model, key, shape):
    """SB3 looks at the keys up to the first batch only, and reads (2, 3) as three rows of two."""
    odd = batch(3)
    odd[key] = odd[key].reshape(shape) if odd[key].size == np.prod(shape) else np.zeros(shape, odd[key].dtype)
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(odd, deterministic=True)


def test_keys_with_different_numbers_of_rows(model):
    with pytest.raises(ValueError, match="differ in their number of rows: 'a' has 1, 'b' has 3"):
        model.predict({**batch(3), "a": np.array(0)}, deterministic=True)
    with pytest.raises(ValueError, match="'a' has 2, 'b' has 3"):
        model.predict({**batch(3), "a": np.zeros(2, np.int64)}, deterministic=True)


def test_one_observation(model):
    one = {key: value[0] for key, value in batch(3).items()}
    assert model.predict(one, deterministic=True)[0].shape == ()
    assert not model.policy.is_vectorized_observation(one)


def test_whether_it_is_a_batch_does_not_ask_for_equal_numbers_of_rows(model):
    """As in SB3: one key with an axis of rows makes the observation a batch."""
    assert model.policy.is_vectorized_observation({**batch(3), "a": np.zeros(2, np.int64)})
    one = {key: value[0] for key, value in batch(1).items()}
    assert model.policy.is_vectorized_observation({**one, "d": batch(3)["d"]})
