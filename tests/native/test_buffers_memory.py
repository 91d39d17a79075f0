"""The buffers' memory belongs to Rust, and NumPy looks into it without a copy."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

BOX = spaces.Box(-1, 1, (3,), np.float64)
COLUMNS = [
    "observations",
    "actions",
    "rewards",
    "returns",
    "episode_starts",
    "values",
    "log_probs",
    "advantages",
]


def owner(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array


def test_each_column_is_at_the_address_rust_gives():
    buffer = RolloutBuffer(5, BOX, spaces.Discrete(4), n_envs=2)
    storage = owner(buffer.observations)
    assert isinstance(storage, _native.Storage)
    for name in COLUMNS:
        column = getattr(buffer, name)
        assert owner(column) is storage
        assert column.ctypes.data == storage.address(name)
        assert column.ctypes.data % 64 == 0
        assert column.flags.c_contiguous


def test_rust_reads_what_numpy_wrote_and_numpy_what_rust_wrote():
    buffer = RolloutBuffer(2, BOX, spaces.Discrete(4), gamma=0.5, gae_lambda=1.0)
    storage, advantages = owner(buffer.rewards), buffer.advantages
    buffer.observations[1, 0] = [0.25, -0.5, 0.75]
    assert np.frombuffer(storage.row("observations", 1), np.float64).tolist() == [0.25, -0.5, 0.75]
    buffer.rewards[:, 0] = [1, 2]
    assert np.frombuffer(storage.row("rewards", 1), np.float32).tolist() == [2]
    buffer.compute_returns_and_advantage(np.array([4.0]), np.array([False]))
    # 2 + 0.5 * 4 = 4, then 1 + 0.5 * 4 = 3, in the array that was there before Rust ran.
    assert advantages[:, 0].tolist() == [3, 4]
    assert np.frombuffer(storage.row("returns", 0), np.float32).tolist() == [3]


def test_views_keep_the_memory_alive_and_the_last_one_frees_it():
    buffer = RolloutBuffer(4, BOX, spaces.Discrete(4))
    rewards = buffer.rewards
    rewards[:] = 5
    gone = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert gone() is None
    assert rewards.tolist() == [[5]] * 4


def test_arrays_kept_across_a_reset_keep_their_numbers():
    buffer = RolloutBuffer(4, BOX, spaces.Discrete(4))
    before = buffer.rewards
    before[:] = 3
    buffer.reset()
    assert buffer.rewards.tolist() == [[0]] * 4
    assert before.tolist() == [[3]] * 4


@pytest.mark.parametrize("again", [copy.deepcopy, lambda buffer: pickle.loads(pickle.dumps(buffer))])
def test_copies_have_memory_of_their_own_in_rust(again):
    space = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "pose": BOX})
    buffer = DictRolloutBuffer(3, space, spaces.Discrete(4), n_envs=2)
    buffer.observations["image"][:] = 7
    buffer.rewards[:] = 1.5
    buffer.pos = 2
    twin = again(buffer)
    storage = owner(twin.rewards)
    assert isinstance(storage, _native.Storage)
    assert storage is not owner(buffer.rewards)
    assert twin.observations["image"].ctypes.data == storage.address("observations/image")
    assert (twin.observations["image"] == 7).all()
    assert twin.rewards.tolist() == [[1.5, 1.5]] * 3
    assert (twin.pos, twin.full, twin.device) == (2, False, buffer.device)
    twin.rewards[:] = 0
    assert (buffer.rewards == 1.5).all()


def test_storage_says_what_it_does_not_have():
    storage = _native.Storage(2, {"a": 4, "b": 1})
    assert storage.nbytes == 128
    assert storage.address("b") - storage.address("a") == 64
    with pytest.raises(KeyError, match="no column"):
        storage.column("c")
    with pytest.raises(IndexError, match="row 2 of a column with 2 rows"):
        storage.row("a", 2)
    with pytest.raises(MemoryError, match="more than this machine can address"):
        _native.Storage(2**62, {"a": 4})
    assert storage.column("a").tolist() == [0] * 8


def test_rows_that_do_not_exist_are_not_copied():
    source, target = np.arange(6, dtype=np.uint8), np.full(4, 9, np.uint8)
    _native.gather([source], [target], np.array([2, 0]))
    assert target.tolist() == [4, 5, 0, 1]
    for wrong in ([3, 0], [-1, 0]):
        with pytest.raises(IndexError, match="row"):
            _native.gather([source], [target], np.array(wrong))
    with pytest.raises(ValueError, match="a block has 4 bytes, expected 6"):
        _native.flatten_env_major(source, target, 3, 2)
    assert target.tolist() == [4, 5, 0, 1]
