"""Replay batches drawn and copied in one call: NumPy's draws, and the numbers of the long way."""

import collections

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

BOX = spaces.Box(-1e6, 1e6, (3,), np.float32)
DICT = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "goal": spaces.Discrete(50)})
ACTION = spaces.Box(-1e6, 1e6, (2,), np.float32)
SPACES = {
    "float32": BOX,
    "float64": spaces.Box(-1e6, 1e6, (2, 2), np.float64),
    "float16": spaces.Box(-1e4, 1e4, (1,), np.float16),
    "uint8": spaces.Box(0, 255, (3, 5, 5), np.uint8),
    "bool": spaces.Box(0, 1, (6,), np.bool_),
    "no axis": spaces.Box(-1e6, 1e6, (), np.float32),
    "discrete": spaces.Discrete(90),
    "bits": spaces.MultiBinary(5),
}


@pytest.fixture(autouse=True)
def _state():
    state = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


def rows_of(space, n_envs, rng):
    if isinstance(space, spaces.Dict):
        return {key: rows_of(part, n_envs, rng) for key, part in space.items()}
    return rng.integers(0, 90, (n_envs, *space.shape)).astype(space.dtype)


def started(after, first, done):
    """What is seen next: what followed, or the first of an episode."""
    if isinstance(after, dict):
        return {key: started(after[key], first[key], done) for key in after}
    return np.where(done.reshape(-1, *[1] * (after.ndim - 1)), first, after).astype(after.dtype)


def filled(kind=ReplayBuffer, space=BOX, steps=31, n_envs=2, rows=24, action=ACTION, **settings):
    buffer = kind(rows * n_envs, space, action, n_envs=n_envs, **settings)
    rng = np.random.default_rng(7)
    obs = rows_of(space, n_envs, rng)
    for _ in range(steps):
        cut = rng.random(n_envs) < 0.2
        done = cut | (rng.random(n_envs) < 0.2)
        infos = [{"TimeLimit.truncated": bool(each)} for each in cut]
        after = rows_of(space, n_envs, rng)
        acted, reward = rows_of(action, n_envs, rng), rng.normal(size=n_envs).astype(np.float32)
        buffer.add(obs, after, acted, reward, done, infos)
        obs = started(after, rows_of(space, n_envs, rng), done)
    return buffer


def seeded(call):
    np.random.seed(3)  # noqa: NPY002
    return call(), repr(np.random.get_state())  # noqa: NPY002


def drawn(buffer, batch_size):
    """What NumPy draws for a batch."""
    rows = np.random.randint(0, buffer.size(), size=batch_size)  # noqa: NPY002
    return rows, np.random.randint(0, buffer.n_envs, size=(batch_size,))  # noqa: NPY002


def expected_of(buffer, rows, envs):
    """The fields of a batch, by NumPy's indexing."""
    ended = (buffer.dones * (1 - buffer.timeouts))[rows, envs].reshape(-1, 1)
    seen, after = (store[rows, envs] for store in (buffer.observations, buffer.next_observations))
    return seen, buffer.actions[rows, envs], after, ended, buffer.rewards[rows, envs].reshape(-1, 1)


def taken(buffer, n_batches=1, batch_size=16, flat=True):
    """The batches of the one call in the order of samples, None where there is no fast path."""
    done = _native.sample_batches(vars(buffer), n_batches, batch_size, flat)
    return done and (done.observations, done.actions, done.next_observations, done.dones, done.rewards)


def assert_same(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        if isinstance(other, dict):
            assert list(one) == list(other)
            assert_same(one.values(), other.values())
        elif other is not None:
            one, other = np.asarray(one), np.asarray(other)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def as_mlx(field):
    """What a field becomes: MLX's arrays have no 64-bit floats."""
    return field.astype(np.float32) if field.dtype == np.float64 else field


@pytest.mark.parametrize("n_envs", [1, 2, 3])
@pytest.mark.parametrize("steps", [5, 24, 31])
@pytest.mark.parametrize("space", SPACES)
def test_batches_are_numpys(space, steps, n_envs):
    buffer = filled(space=SPACES[space], steps=steps, n_envs=n_envs)
    expected, after = seeded(lambda: expected_of(buffer, *drawn(buffer, 16)))
    fields, state = seeded(lambda: taken(buffer))
    assert state == after
    assert_same(fields, expected)
    samples, state = seeded(lambda: buffer.sample(16))
    assert state == after
    assert samples.discounts is None
    assert_same(samples[:5], [as_mlx(field) for field in expected])


@pytest.mark.parametrize("action", [spaces.Discrete(90), spaces.MultiDiscrete([90, 90]), BOX])
def test_many_batches_are_numpys(action):
    buffer = filled(action=action, n_envs=3)
    batches, after = seeded(lambda: [expected_of(buffer, *drawn(buffer, 7)) for _ in range(4)])
    expected = [np.stack(fields) for fields in zip(*batches, strict=True)]
    for flat in (False, True):
        fields, state = seeded(lambda flat=flat: taken(buffer, 4, 7, flat))
        assert state == after
        assert_same(fields, [part.reshape(-1, *part.shape[2:]) if flat else part for part in expected])
    samples, state = seeded(lambda: buffer.sample_many(4, 7))
    assert state == after
    assert_same(samples[:5], expected)


def test_dicts_are_dicts():
    buffer = filled(DictReplayBuffer, DICT)
    rows, envs = seeded(lambda: drawn(buffer, 16))[0]
    fields, _ = seeded(lambda: taken(buffer))
    for field, store in zip(fields[::2], (buffer.observations, buffer.next_observations), strict=False):
        assert_same([field], [{key: column[rows, envs] for key, column in store.items()}])
    assert_same([seeded(lambda: buffer.sample(16))[0].next_observations], [fields[2]])


def the_long_way(buffer, batch_size, env=None):
    return buffer._get_samples(buffer._draw_rows(batch_size), env=env)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("steps", [5, 23, 24, 25, 31, 48])
def test_compact_buffers_go_the_same_way(steps, n_envs):
    buffer = filled(steps=steps, n_envs=n_envs, optimize_memory_usage=True)
    assert len(buffer._terminal) > 0 or steps == 5
    expected, after = seeded(lambda: the_long_way(buffer, 300))
    samples, state = seeded(lambda: buffer.sample(300))
    assert state == after
    assert_same(samples, expected)
    assert taken(buffer) is not None


class Normalize:
    def normalize_obs(self, obs):
        assert (obs["goal"].ndim if isinstance(obs, dict) else obs.ndim) == 2
        return {key: 10 * value for key, value in obs.items()} if isinstance(obs, dict) else 10.0 * obs

    def normalize_reward(self, reward):
        return reward.astype(np.float64) / 100


@pytest.mark.parametrize(("kind", "space"), [(ReplayBuffer, BOX), (DictReplayBuffer, DICT)])
def test_batches_are_normalised(kind, space):
    buffer, env = filled(kind, space), Normalize()
    expected, after = seeded(lambda: the_long_way(buffer, 20, env))
    samples, state = seeded(lambda: buffer.sample(20, env))
    assert state == after
    assert_same(samples, expected)
    many, _ = seeded(lambda: buffer.sample_many(2, 20, env))
    assert (np.array(many.rewards[0]) == np.array(expected.rewards)).all()
    assert many.actions.shape == (2, 20, 2)


def replaced(name, change):
    def replace(buffer):
        setattr(buffer, name, change(getattr(buffer, name)))

    return replace


# What keeps a buffer from the short way.
OBSTACLES = {
    "fortran order": replaced("observations", np.asfortranarray),
    "a view": replaced("actions", lambda column: np.repeat(column, 2, 0)[::2]),
    "float64 rewards": replaced("rewards", lambda column: column.astype(np.float64)),
    "float64 dones": replaced("dones", lambda column: column.astype(np.float64)),
    "float64 timeouts": replaced("timeouts", lambda column: column.astype(np.float64)),
    "more rows": replaced("rewards", lambda column: np.concatenate([column, column])),
    "one axis more": replaced("rewards", lambda column: column[..., None]),
    "other array": replaced("observations", lambda column: column.view(np.ma.MaskedArray)),
    "the method of an instance": lambda buffer: setattr(buffer, "_get_samples", buffer._get_samples),
    "a batch size of NumPy": lambda buffer: None,
}


@pytest.mark.parametrize("what", OBSTACLES)
def test_what_is_not_ready_is_sampled_all_the_same(what, monkeypatch):
    buffer = filled()
    expected, after = seeded(lambda: buffer.sample(16))
    OBSTACLES[what](buffer)
    if "instance" in what or "NumPy" in what:
        monkeypatch.setattr(_native, "sample_batches", None)
    else:
        assert taken(buffer) is None
    samples, state = seeded(lambda: buffer.sample(np.int64(16) if "NumPy" in what else 16))
    assert state == after
    assert_same(samples, expected)


def test_nothing_is_drawn_where_there_is_no_short_way():
    before = repr(np.random.get_state())  # noqa: NPY002
    ordered = filled(DictReplayBuffer, DICT)
    ordered.observations = collections.OrderedDict(ordered.observations)
    assert taken(ordered) is None
    assert taken(ReplayBuffer(8, BOX, ACTION)) is None
    assert taken(filled(rows=1, optimize_memory_usage=True)) is None
    buffer = filled()
    for size in ((0, 4), (4, 0), (2**40, 2**40), (1, 2**20), (2**10, 2**10)):
        assert taken(buffer, *size) is None
    actions = buffer.actions
    buffer.actions = actions.astype(">f4")  # MLX has none of these
    assert taken(buffer) is None
    buffer.actions = actions
    del buffer.timeouts
    assert taken(buffer) is None
    assert repr(np.random.get_state()) == before  # noqa: NPY002
    for wrong in (filled(rows=1, optimize_memory_usage=True), ReplayBuffer(8, BOX, ACTION)):
        with pytest.raises(ValueError, match=r"no transition|is empty"):
            wrong.sample(4)


def test_large_batches_are_numpys():
    buffer = filled(space=SPACES["uint8"])
    expected, after = seeded(lambda: expected_of(buffer, *drawn(buffer, 20_000)))
    samples, state = seeded(lambda: buffer.sample(20_000))
    assert taken(buffer, 1, 20_000) is None
    assert state == after
    assert_same(samples[:5], expected)


def test_another_generator_is_asked(monkeypatch):
    buffer, other = filled(), np.random.RandomState(3)
    rows, envs = other.randint(0, 24, size=16), other.randint(0, 2, size=16)
    expected = expected_of(buffer, rows, envs)
    monkeypatch.setattr(np.random, "randint", np.random.RandomState(3).randint)
    assert_same(buffer.sample(16)[:5], expected)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: np.full(size, high - 1))
    assert taken(buffer) is None
    assert_same(buffer.sample(5)[:5], expected_of(buffer, np.full(5, 23), np.full(5, 1)))


def test_subclasses_are_asked():
    class Few(ReplayBuffer):
        def size(self):
            return 2

    class Last(ReplayBuffer):
        def _get_samples(self, batch_inds, env=None):
            return super()._get_samples(np.full_like(batch_inds, 3), env)

    class Half(ReplayBuffer):
        def to_torch(self, array, copy=True):
            return super().to_torch(array).astype(mx.float16)

    few = filled(Few).sample(100)
    assert {tuple(row) for row in few.actions.tolist()} <= {
        tuple(row) for row in filled().actions[:2].reshape(-1, 2).tolist()
    }
    assert (np.array(filled(Last, n_envs=1).sample(9).actions) == filled(n_envs=1).actions[3, 0]).all()
    assert {field.dtype for field in filled(Half).sample(4)[:5]} == {mx.float16}
    assert filled(NStepReplayBuffer).sample(4).discounts is not None


def test_batches_are_the_callers():
    buffer = filled()
    first = buffer.sample(16)
    kept = [np.array(field) for field in first[:5]]
    arrays = taken(buffer)
    for store in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        store[:] = -1
    buffer.sample(16)
    assert_same(first[:5], kept)
    assert all(array.flags.writeable and array.flags.owndata for array in arrays)
    assert not any((array == -1).any() for array in arrays)
