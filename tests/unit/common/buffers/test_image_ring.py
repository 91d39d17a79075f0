"""The images of a replay buffer in a ring of MLX's: the same batches as the buffer's own."""

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.buffers import ReplayBuffer, image_ring
from mlx_baselines3.common.buffers.image_ring import ImageRing

FIELDS = ("observations", "actions", "next_observations", "dones", "rewards")


def make(shape: tuple[int, ...], size: int = 12, n_envs: int = 2) -> ReplayBuffer:
    return ReplayBuffer(size, spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(3), n_envs=n_envs)


def add(buffer: ReplayBuffer, count: int, rng: np.random.Generator) -> None:
    shape = (2, buffer.n_envs, *buffer.obs_shape)
    for i in range(count):
        obs, after = rng.integers(0, 256, shape, np.uint8)
        done = np.array([i % 3 == 0, i % 4 == 0])[: buffer.n_envs]
        infos = [{"TimeLimit.truncated": i % 2 == 0}] * buffer.n_envs
        buffer.add(obs, after, rng.integers(0, 3, buffer.n_envs), rng.random(buffer.n_envs), done, infos)


def check_same(ring: ImageRing, buffer: ReplayBuffer) -> None:
    np.random.seed(3)  # noqa: NPY002 - the buffer draws from NumPy's global generator
    batches = [*ring.batches(buffer, 3, 5)]
    np.random.seed(3)  # noqa: NPY002
    expected = buffer.sample_many(3, 5)
    for i, batch in enumerate(batches):
        for name in FIELDS:
            one = getattr(expected, name)[i]
            assert batch[name].dtype == one.dtype
            np.testing.assert_array_equal(np.array(batch[name]), np.array(one))


@pytest.mark.parametrize("shape", [(4, 36, 37), (1, 5, 5), (36, 36, 3)])
def test_batches_are_those_of_the_buffer(shape):
    rng = np.random.default_rng(0)
    buffer = make(shape)
    add(buffer, 4, rng)
    ring = ImageRing(buffer)
    # Some rows, past the end, more than there are, none, and none once more.
    for count in (0, 1, 4, 20, 6, 0):
        add(buffer, count, rng)
        check_same(ring, buffer)


def test_columns_that_someone_replaces_or_moves_are_sent_anew():
    rng = np.random.default_rng(0)
    buffer = make((3, 8, 8))
    add(buffer, 5, rng)
    ring = ImageRing(buffer)
    check_same(ring, buffer)
    buffer.observations = rng.integers(0, 256, buffer.observations.shape, np.uint8)
    check_same(ring, buffer)
    buffer.reset()
    add(buffer, 2, rng)
    check_same(ring, buffer)
    buffer.observations[:] = rng.integers(0, 256, buffer.observations.shape, np.uint8)
    buffer.pos, buffer.full = 3, True
    check_same(ring, buffer)


def test_only_what_was_added_is_sent(monkeypatch):
    rng = np.random.default_rng(0)
    buffer = make((3, 8, 8))
    add(buffer, 6, rng)
    ring = ImageRing(buffer)
    ring.update(buffer)
    sent = []
    send = ring._send
    monkeypatch.setattr(ring, "_send", lambda *args: (sent.append(args[1:3]), send(*args)))
    add(buffer, 1, rng)
    ring.update(buffer)
    add(buffer, 2, rng)
    ring.update(buffer)
    assert sent == [(0, 1), (1, 3)]


def test_too_little_memory_is_said_once(monkeypatch):
    buffer = make((3, 8, 8))
    monkeypatch.setattr(image_ring.nvrtc, "usable", lambda: True)
    monkeypatch.setattr(image_ring, "_memory", lambda: 100)
    with pytest.warns(UserWarning, match="batches are gathered on the host"):
        assert image_ring.ring_of(buffer) is None
    assert image_ring.ring_of(buffer) is None


def test_other_buffers_have_none(monkeypatch):
    monkeypatch.setattr(image_ring.nvrtc, "usable", lambda: True)
    vectors = ReplayBuffer(4, spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3))
    compact = ReplayBuffer(
        4, spaces.Box(0, 255, (3, 8, 8), np.uint8), spaces.Discrete(3), optimize_memory_usage=True
    )
    assert image_ring.ring_of(vectors) is None
    assert image_ring.ring_of(compact) is None
