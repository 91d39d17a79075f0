"""Replay buffers copy ready arrays without looking twice; whatever arrives, the same is stored."""

import collections
import copy
import os
import sys

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

BOX = spaces.Box(-1e6, 1e6, (3,), np.float32)
ACTION = spaces.Box(-1e6, 1e6, (2,), np.float32)
CUT = "TimeLimit.truncated"
COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def step(seed=0, n_envs=2):
    """What `add` takes, in whole numbers, so that any dtype can hold it."""
    rng = np.random.default_rng(seed)
    obs, after = (rng.integers(1, 99, (n_envs, 3)).astype(np.float32) for _ in range(2))
    action = rng.integers(1, 99, (n_envs, 2)).astype(np.float32)
    reward = rng.integers(1, 99, n_envs).astype(np.float32)
    infos = [{CUT: True}, {"episode": {"r": 1.0}}, {CUT: False}][:n_envs]
    return [obs, after, action, reward, np.arange(n_envs) % 2 == 0, infos]


def store(buffer, args):
    """The call below `add`, which says whether the arrays were ready."""
    return _native.store_step(vars(buffer), *args)


def held(buffer):
    return {name: copy.deepcopy(getattr(buffer, name)) for name in COLUMNS}


def assert_holds(buffer, at, args):
    obs, after, action, reward, done, infos = args
    expected = (obs, after, action, reward, done, [info.get(CUT, False) for info in infos])
    for name, value in zip(COLUMNS, expected, strict=True):
        column = getattr(buffer, name)
        np.testing.assert_array_equal(column[at], np.asarray(value).reshape(column.shape[1:]), name)


def test_a_ready_step_is_stored_where_it_belongs():
    buffer = ReplayBuffer(8, BOX, ACTION, n_envs=2)
    buffer.pos = 2
    before, args = held(buffer), step()
    assert store(buffer, args)
    assert_holds(buffer, 2, args)
    for name in COLUMNS:
        np.testing.assert_array_equal(np.delete(getattr(buffer, name), 2, 0), np.delete(before[name], 2, 0))


# Position among the arguments of `add`, what to make of it.
FOREIGN = {
    "float64": (0, lambda a: a.astype(np.float64)),
    "int32": (1, lambda a: a.astype(np.int32)),
    "big-endian": (0, lambda a: a.astype(">f4")),
    "half": (2, lambda a: a.astype(np.float16)),
    "fortran order": (0, np.asfortranarray),
    "every other": (3, lambda a: np.repeat(a, 2)[::2]),
    "reversed": (1, lambda a: np.ascontiguousarray(a[::-1])[::-1]),
    "list": (2, lambda a: a.tolist()),
    "flat actions": (2, lambda a: a.reshape(-1)),
    "axis in front": (0, lambda a: a[None]),
    "masked": (0, np.ma.masked_array),
    "int flags": (4, lambda a: a.astype(np.int64)),
    "tuple": (5, tuple),
    "ordered": (5, lambda infos: [collections.OrderedDict(info) for info in infos]),
    "numpy flag": (5, lambda infos: [{CUT: np.True_}, *infos[1:]]),
    "number": (5, lambda infos: [{CUT: 1}, *infos[1:]]),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_ready_is_stored_all_the_same(what):
    position, change = FOREIGN[what]
    buffer, plain = ReplayBuffer(8, BOX, ACTION, n_envs=2), step()
    args = [*plain[:position], change(plain[position]), *plain[position + 1 :]]
    assert not store(buffer, args)
    assert not buffer.observations.any()
    buffer.add(*args)
    assert_holds(buffer, 0, plain)
    assert buffer.pos == 1


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3)])
def test_axes_of_length_one_at_the_end_do_not_matter(shape):
    buffer, args = ReplayBuffer(8, BOX, ACTION, n_envs=2), step()
    assert store(buffer, [args[0].reshape(shape), *args[1:3], args[3][:, None], *args[4:]])
    assert_holds(buffer, 0, args)


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, np.ones((3, 2), np.float32), "obs has shape"),
        (1, np.ones((2, 4), np.float32), "next_obs has shape"),
        (2, np.ones((2, 3), np.float32), "action has shape"),
        (3, np.ones(3, np.float32), "reward has shape"),
        (4, np.ones((2, 2), bool), "done has shape"),
        (4, np.array(["a", "b"]), "done has dtype"),
        (5, [{}, {}, {}], "infos has shape"),
    ],
)
def test_a_wrong_part_leaves_everything_as_it_was(position, wrong, message):
    buffer, args = ReplayBuffer(8, BOX, ACTION, n_envs=2), step()
    buffer.add(*args)
    before = held(buffer)
    again = step(1)
    with pytest.raises(ValueError, match=message):
        buffer.add(*again[:position], wrong, *again[position + 1 :])
    assert (buffer.pos, buffer.full) == (1, False)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(buffer, name), before[name])


def test_one_info_goes_for_all_environments():
    buffer, args = ReplayBuffer(8, BOX, ACTION, n_envs=2), step()
    buffer.add(*args[:5], [{CUT: True}])
    assert buffer.timeouts[0].tolist() == [1, 1]
    with pytest.raises(AttributeError):
        buffer.add(*args[:5], [{}, None])
    assert buffer.pos == 1


def test_infos_are_not_read_where_timeouts_do_not_count():
    buffer, args = ReplayBuffer(8, BOX, ACTION, n_envs=2, handle_timeout_termination=False), step()
    buffer.add(*args[:5], None)
    assert buffer.timeouts[0].tolist() == [0, 0]
    assert_holds(buffer, 0, [*args[:5], [{}, {}]])


def test_rows_may_lie_in_the_buffer_itself():
    buffer = ReplayBuffer(8, BOX, ACTION, n_envs=2)
    first = step()
    buffer.add(*first)
    buffer.add(buffer.observations[0], buffer.next_observations[0], *first[2:])
    assert_holds(buffer, 1, first)


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_dicts_of_observations(kind):
    space = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "goal": spaces.Discrete(50)})
    buffer, args = DictReplayBuffer(6, space, ACTION, n_envs=2), step()
    obs, after = (
        kind(image=np.full((2, 2, 2), i, np.uint8), goal=np.array([i, i + 1]), more=None) for i in (3, 7)
    )
    assert store(buffer, [obs, after, *args[2:]]) is (kind is dict)
    buffer.pos = 1
    buffer.add(obs, after, *args[2:])
    for store_, row in ((buffer.observations, obs), (buffer.next_observations, after)):
        np.testing.assert_array_equal(store_["image"][1], row["image"])
        np.testing.assert_array_equal(store_["goal"][1, :, 0], row["goal"])
    del after["goal"]
    before = buffer.observations["image"].copy()
    with pytest.raises(ValueError, match="next_obs has no 'goal'"):
        buffer.add({**obs, "image": obs["image"] + 1}, after, *args[2:])
    np.testing.assert_array_equal(buffer.observations["image"], before)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("kind", [ReplayBuffer, NStepReplayBuffer])
def test_compact_buffers_hold_the_same_by_both_ways(kind, n_envs):
    ready, foreign = (kind(5 * n_envs, BOX, ACTION, n_envs=n_envs, optimize_memory_usage=True) for _ in "ab")
    for seed in range(13):
        obs, *rest = step(seed, n_envs)
        ready.add(obs, *rest)
        foreign.add(obs.astype(np.float64), *rest)
    assert (ready.pos, ready.full) == (foreign.pos, foreign.full) == (3, True)
    np.testing.assert_array_equal(ready.observations, foreign.observations)
    assert len(ready._terminal) == 4 * n_envs
    one_side, other_side = ready._terminal.export(), foreign._terminal.export()
    for one, other in zip(one_side.values(), other_side.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_read_only_and_replaced_columns():
    buffer, args = ReplayBuffer(8, BOX, ACTION, n_envs=2), step()
    buffer.rewards.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        buffer.add(*args)
    assert buffer.pos == 0
    buffer.rewards = np.zeros((4, 2), np.float64)
    buffer.add(*args)
    assert_holds(buffer, 0, args)


def test_batches_are_the_same_by_both_ways():
    buffer = ReplayBuffer(8, BOX, ACTION, n_envs=2)
    for seed in range(4):
        buffer.add(*step(seed))
    rows, envs = np.array([3, 0, 9, -1]), np.array([1, 0, 1, 0])
    ready = buffer._take(rows, envs, buffer.observations, buffer.dones)
    twin = np.asfortranarray(buffer.observations)
    foreign = buffer._take(rows.astype(np.int32), envs, twin, buffer.dones)
    for one, other in zip(ready, foreign, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ready[0], buffer.observations[[3, 0, 1, 3], envs])
    target = np.zeros((1, 3), np.float32)
    outside = ([buffer.observations], [target], np.array([3]), np.array([2]), 4, 2)
    assert not _native.take_batch(*outside)
    assert not _native.take_batch(
        [buffer.observations], [buffer.observations[:1, 0]], rows[:1], envs[:1], 4, 2
    )
    assert not target.any()


def test_a_large_batch_is_taken_without_the_lock():
    buffer = ReplayBuffer(2, spaces.Box(0, 255, (1024,), np.uint8), ACTION)
    buffer.observations[1] = 7
    (taken,) = buffer._take(np.tile([0, 1], 600), np.zeros(1200, np.int64), buffer.observations)
    assert taken.nbytes > 1 << 20
    np.testing.assert_array_equal(taken, np.repeat([[0, 7]], 600, 0).reshape(-1, 1) + np.zeros((1, 1024)))
    assert not _native.take_batch([buffer.observations], [taken], *np.zeros((2, 1200), np.int64), 2, 1)


def test_the_cursor_moves_with_a_ready_step():
    buffer = ReplayBuffer(6, BOX, ACTION, n_envs=2)
    cursors = []
    for seed in range(4):
        assert store(buffer, step(seed))
        cursors.append((buffer.pos, buffer.full))
    assert cursors == [(1, False), (2, False), (0, True), (1, True)]
    assert_holds(buffer, 0, step(3))


def test_columns_that_a_user_put_in_place_are_written():
    buffer = ReplayBuffer(8, BOX, ACTION, n_envs=2)
    buffer.add(*step(0))
    buffer.observations = np.zeros((4, 2, 3), np.float64)
    buffer.rewards = np.ones((4, 2), np.float32)
    buffer.add(*step(1))
    assert_holds(buffer, 1, step(1))
    assert (buffer.pos, buffer.rewards[0].tolist()) == (2, [1.0, 1.0])


def test_a_subclass_may_keep_a_column_elsewhere():
    class Elsewhere(ReplayBuffer):
        rewards = property(
            lambda self: self.__dict__["kept"], lambda self, array: self.__dict__.update(kept=array)
        )

    buffer = Elsewhere(8, BOX, ACTION, n_envs=2)
    buffer.kept = np.zeros((4, 2), np.float32)
    buffer.__dict__.pop("rewards", None)
    buffer.add(*step(0))
    buffer.add(*step(1))
    assert buffer.pos == 2
    assert_holds(buffer, 1, step(1))


def test_memory_of_a_buffer_is_taken_when_it_is_touched():
    with open("/proc/self/statm" if sys.platform == "linux" else os.devnull) as statm:
        before = statm.read()
        storage = _native.Storage(1_000_000, {"column": 400})
        statm.seek(0)
        after = statm.read()
    pages = [int(text.split()[1]) if text else 0 for text in (before, after)]
    assert (pages[1] - pages[0]) * os.sysconf("SC_PAGE_SIZE") < 40e6
    assert not storage.column("column")[::1_000_003].any()
