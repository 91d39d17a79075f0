"""RolloutBuffer and DictRolloutBuffer: what goes in, what comes out, and what is refused."""

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.buffers import BaseBuffer, DictRolloutBuffer, RolloutBuffer
from mlx_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

BOX = spaces.Box(-10, 10, (2,), np.float32)
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def fill(buffer, start=0):
    """Row t of environment e holds numbers made of 10 * t + e."""
    envs = np.arange(buffer.n_envs)
    for step in range(start, buffer.buffer_size):
        mark = (10 * step + envs).astype(np.float32)
        obs = np.stack([mark, -mark], axis=1)
        buffer.add(obs, mark.astype(int), mark + 0.5, step == 0, mx.array(mark[:, None]), mx.array(-mark))


def test_add_stores_each_row_at_the_cursor():
    buffer = RolloutBuffer(3, BOX, spaces.Discrete(100), n_envs=2)
    assert (buffer.pos, buffer.full, buffer.size()) == (0, False, 0)
    fill(buffer)
    assert (buffer.pos, buffer.full, buffer.size()) == (3, True, 3)
    assert buffer.observations[1].tolist() == [[10, -10], [11, -11]]
    assert buffer.actions.dtype == np.int64
    assert buffer.actions.tolist() == [[[0], [1]], [[10], [11]], [[20], [21]]]
    assert buffer.rewards[2].tolist() == [20.5, 21.5]
    assert buffer.episode_starts.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert buffer.values[1].tolist() == [10, 11]
    assert buffer.log_probs[1].tolist() == [-10, -11]
    buffer.reset()
    assert (buffer.pos, buffer.full) == (0, False)
    assert not buffer.observations.any()


def test_flattened_is_env_major():
    buffer = RolloutBuffer(3, BOX, spaces.Discrete(100), n_envs=2)
    fill(buffer)
    flat = buffer.flattened()
    order = [0, 10, 20, 1, 11, 21]
    assert flat["values"].tolist() == order
    assert flat["observations"].tolist() == [[n, -n] for n in order]
    assert flat["actions"].tolist() == [[n] for n in order]
    assert sorted(flat) == ["actions", "advantages", "log_probs", "observations", "returns", "values"]
    list(buffer.get(2))
    again = buffer.flattened()
    assert all((flat[name] == again[name]).all() for name in flat)
    assert buffer.values.shape == (6, 1)


def test_one_environment_is_flattened_without_a_copy():
    buffer = RolloutBuffer(3, BOX, spaces.Discrete(100))
    fill(buffer)
    flat = buffer.flattened()
    assert all(np.shares_memory(flat[name], getattr(buffer, name)) for name in flat)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 2, 4, 5), (3, 1, 2)])
def test_swap_and_flatten(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    expected = np.concatenate([array[:, env] for env in range(shape[1])])
    flat = BaseBuffer.swap_and_flatten(array)
    assert flat.reshape(expected.shape).tolist() == expected.tolist()
    assert flat.ndim == max(array.ndim - 1, 2)


def test_get_yields_every_row_once_in_numpys_permutation():
    buffer = RolloutBuffer(3, BOX, spaces.Discrete(100), n_envs=2)
    fill(buffer)
    buffer.compute_returns_and_advantage(mx.zeros((2, 1)), np.zeros(2, bool))
    np.random.seed(5)  # noqa: NPY002 - the generator that SB3 draws from
    order = np.array([0, 10, 20, 1, 11, 21])[np.random.permutation(6)].tolist()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    batches = list(buffer.get(4))
    assert [batch.old_values.shape for batch in batches] == [(4,), (2,)]
    assert isinstance(batches[0], RolloutBufferSamples)
    assert [n for batch in batches for n in batch.old_values.tolist()] == order
    assert [n for batch in batches for n in batch.actions[:, 0].tolist()] == order
    assert [n for batch in batches for n in (-batch.old_log_prob).tolist()] == order
    assert [n for batch in batches for n in (-batch.observations[:, 1]).tolist()] == order
    for batch in batches:
        assert batch.actions.dtype == mx.float32
        assert mx.allclose(batch.returns, batch.advantages + batch.old_values).item()
    (whole,) = buffer.get()
    assert whole.old_values.shape == (6,)


def test_advantages_need_no_particular_types():
    """gamma 0.5, lambda 1: 1 + 0.5 * 8 = 5 and 1; the value is taken off, the return has it back."""
    buffer = RolloutBuffer(1, BOX, spaces.Discrete(2), gamma=0.5, gae_lambda=1, n_envs=2)
    buffer.add(np.zeros((2, 2)), np.zeros(2, int), np.ones(2), np.ones(2), mx.array([1.0, 1.0]), mx.zeros(2))
    for last, dones in [
        (mx.array([[8.0], [8.0]]), np.array([False, True])),
        (np.array([8, 8]), np.array([0.0, 1.0])),
        ([8.0, 8.0], [False, True]),
    ]:
        buffer.compute_returns_and_advantage(last, dones)
        assert buffer.advantages.tolist() == [[4, 0]]
        assert buffer.returns.tolist() == [[5, 1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_observations_keep_their_dtype(dtype):
    dtype = np.dtype(dtype)
    buffer = RolloutBuffer(1, spaces.Box(0, 100, (2,), dtype), spaces.Box(-1, 1, (1,), np.float64))
    assert (buffer.observations.dtype, buffer.actions.dtype) == (dtype, np.float64)
    buffer.add(np.array([[3, 100]]), np.array([0.5]), 0.0, True, mx.array(0.0), mx.array(0.0))
    (batch,) = buffer.get()
    # MLX computes in float32 where NumPy has float64.
    assert np.asarray(batch.observations).dtype == (np.float32 if dtype == np.float64 else dtype)
    assert batch.observations.tolist() == [[3, 100]]
    assert batch.actions.dtype == mx.float32


@pytest.mark.parametrize(
    ("space", "obs", "shape"),
    [
        (spaces.Discrete(9), np.array([4, 5]), (1, 2, 1)),
        (spaces.MultiDiscrete([9, 9]), np.array([[1, 2], [3, 4]]), (1, 2, 2)),
        (spaces.MultiBinary(3), np.array([[1, 0, 1], [0, 1, 0]]), (1, 2, 3)),
        (spaces.Box(0, 255, (1, 4, 4), np.uint8), np.full((2, 1, 4, 4), 200), (1, 2, 1, 4, 4)),
    ],
)
def test_observation_spaces(space, obs, shape):
    buffer = RolloutBuffer(1, space, spaces.Box(-1, 1, (2, 3)), n_envs=2)
    action = np.arange(12.0).reshape(2, 2, 3)
    buffer.add(obs, action, np.zeros(2), np.zeros(2), mx.zeros(2), mx.zeros(2))
    assert (buffer.observations.shape, buffer.observations.dtype) == (shape, space.dtype)
    assert buffer.observations.reshape(-1).tolist() == obs.reshape(-1).tolist()
    assert buffer.actions[0].tolist() == action.reshape(2, 6).tolist()


def test_bfloat16_values_are_read():
    buffer = RolloutBuffer(1, BOX, spaces.Discrete(2))
    buffer.add(
        np.zeros((1, 2)), np.zeros(1), 0.0, 1.0, mx.array([1.5], mx.bfloat16), mx.array(-0.5, mx.bfloat16)
    )
    assert (buffer.values.item(), buffer.log_probs.item()) == (1.5, -0.5)


def test_dict_observations():
    space = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "goal": spaces.Discrete(5)})
    buffer = DictRolloutBuffer(2, space, spaces.MultiBinary(3), n_envs=2)
    for step in range(2):
        obs = {"image": np.full((2, 2, 2), 100 + step), "goal": np.array([step, 4]), "unused": None}
        buffer.add(obs, np.ones((2, 3), np.int8), np.zeros(2), np.zeros(2), mx.zeros(2), mx.zeros(2))
    assert buffer.observations["image"].dtype == np.uint8
    assert buffer.observations["goal"].tolist() == [[[0], [4]], [[1], [4]]]
    assert buffer.flattened()["observations"]["goal"].tolist() == [[0], [1], [4], [4]]
    (batch,) = buffer.get()
    assert isinstance(batch, DictRolloutBufferSamples)
    assert batch.observations["image"].shape == (4, 2, 2)
    assert sorted(batch.observations["goal"][:, 0].tolist()) == [0, 1, 4, 4]
    assert batch.actions.dtype == mx.float32


GOOD = {
    "obs": np.zeros((3, 2)),
    "action": np.zeros(3),
    "reward": np.zeros(3),
    "episode_start": np.zeros(3),
    "value": np.zeros(3),
    "log_prob": np.zeros(3),
}


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("obs", np.zeros((2, 2)), r"obs has shape \(2, 2\), expected \(3, 2\)"),
        ("obs", np.zeros((2, 3)), r"obs has shape \(2, 3\), expected \(3, 2\)"),
        ("obs", np.array([["a", "b"]] * 3), "obs has dtype <U1, expected numbers"),
        ("action", np.zeros((2, 2)), r"action has shape \(2, 2\), expected \(3, 1\)"),
        ("reward", np.zeros(2), r"reward has shape \(2,\), expected \(3,\)"),
        ("episode_start", np.zeros(4), "episode_start has shape"),
        ("value", mx.zeros((2, 1)), "value has shape"),
        ("log_prob", np.array([None] * 3), "log_prob has dtype object"),
    ],
)
def test_what_does_not_fit_is_refused_whole(name, wrong, message):
    buffer = RolloutBuffer(2, BOX, spaces.Discrete(4), n_envs=3)
    buffer.add(**GOOD)
    ones = {key: np.ones_like(value) for key, value in GOOD.items()}
    with pytest.raises(ValueError, match=message):
        buffer.add(**{**ones, name: wrong})
    assert (buffer.pos, buffer.full) == (1, False)
    assert not buffer.observations.any()
    assert not buffer.rewards.any()
    buffer.add(**ones)
    assert buffer.full


def test_wrong_moments_and_sizes_are_refused():
    buffer = RolloutBuffer(2, BOX, spaces.Discrete(4), n_envs=3)
    buffer.add(**GOOD)
    with pytest.raises(AssertionError, match="holds 1 of 2 steps"):
        buffer.get(2)
    with pytest.raises(AssertionError, match="holds 1 of 2 steps"):
        buffer.flattened()
    buffer.add(**GOOD)
    with pytest.raises(IndexError, match=r"is full: 2 steps\. Call reset"):
        buffer.add(**GOOD)
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="batch_size is"):
            buffer.get(size)
    with pytest.raises(ValueError, match=r"last_values has shape \(2,\), expected \(3,\)"):
        buffer.compute_returns_and_advantage(np.zeros(2), np.zeros(3))
    assert len(list(buffer.get(4))) == 2
    with pytest.raises(ValueError, match=r"values has shape \(6, 1\), expected \(2, 3\); call reset"):
        buffer.compute_returns_and_advantage(np.zeros(3), np.zeros(3))
    buffer.reset()
    buffer.add(**GOOD)
    with pytest.raises(AssertionError, match="must be used with Dict obs space only"):
        DictRolloutBuffer(2, BOX, spaces.Discrete(4))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"n_envs": 0}, ValueError, "n_envs is 0"),
        ({"buffer_size": 0}, ValueError, "buffer_size is 0"),
        ({"buffer_size": -4}, ValueError, "buffer_size is -4"),
        ({"buffer_size": 2.5}, ValueError, r"buffer_size is 2\.5"),
        ({"buffer_size": 10**14}, MemoryError, r"100000000000000 rows .* needs \d+\.0 GB"),
        ({"buffer_size": 10**30}, MemoryError, "Lower buffer_size"),
    ],
)
def test_sizes_that_cannot_be(sizes, error, message):
    with pytest.raises(error, match=message):
        RolloutBuffer(**{"buffer_size": 3, **sizes}, observation_space=BOX, action_space=spaces.Discrete(2))


class Masked(RolloutBuffer):
    """A subclass as sb3-contrib writes them: a column of its own, `reset`, `add` and `get` overridden."""

    def reset(self):
        self.masks = np.ones((self.buffer_size, self.n_envs, 4), np.float32)
        super().reset()

    def add(self, *args, mask=None, **kwargs):
        if mask is not None:
            self.masks[self.pos] = mask.reshape((self.n_envs, 4))
        super().add(*args, **kwargs)

    def get(self, batch_size=None):
        if not self.generator_ready:
            self.masks = self.swap_and_flatten(self.masks)
        yield from super().get(batch_size)

    def _get_samples(self, batch_inds, env=None):
        return (*super()._get_samples(batch_inds, env), self.to_torch(self.masks[batch_inds]))


def test_subclasses_override_as_in_sb3():
    buffer = Masked(2, BOX, spaces.Discrete(4), n_envs=2)
    for _ in range(2):
        for step in range(2):
            mark = np.array([step, step + 10.0])
            obs, mask = np.zeros((2, 2)), np.repeat(mark[:, None], 4, axis=1)
            buffer.add(obs, np.zeros(2), mark, mark, mark, mark, mask=mask)
        ((_, _, values, *_, masks),) = buffer.get()
        assert values.tolist() == masks[:, 0].tolist()
        buffer.reset()
        assert (buffer.masks == 1).all()


def test_a_subclass_may_keep_its_own_columns():
    """Columns of other dtypes in other memory work as they do with SB3."""
    buffer = RolloutBuffer(2, BOX, spaces.Discrete(4), gamma=1.0)
    buffer.rewards = np.zeros((2, 1))
    buffer.advantages = np.zeros((2, 1))
    for reward in (1, 2):
        buffer.add(np.zeros((1, 2)), np.zeros(1), reward, 0, 0.0, 0.0)
    buffer.compute_returns_and_advantage(mx.array([4.0]), np.array([0.0]))
    assert buffer.advantages.tolist() == [[7], [6]]


def test_rows_as_stored_are_those_of_flattened():
    buffer = RolloutBuffer(5, spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2), n_envs=4)
    rng = np.random.default_rng(0)
    for _ in range(5):
        numbers = rng.random((4, 4), np.float32)
        buffer.add(rng.random((4, 3)), rng.integers(0, 2, 4), *numbers)
    rows = mx.array(rng.permutation(20).astype(np.uint32))
    for merged in (False, True):
        flat, stored = buffer.flattened(), buffer.as_stored()
        places = np.array(buffer.places(rows))
        for name, column in stored.items():
            assert np.shares_memory(column, getattr(buffer, name))
            expected = flat[name][np.array(rows)]
            np.testing.assert_array_equal(column[places].reshape(expected.shape), expected)
        # `get` leaves the columns merged, environment after environment.
        assert merged or len([*buffer.get(20)]) == 1
