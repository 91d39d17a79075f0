"""Buffers that keep every observation once give the samples of those that keep them twice."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_baselines3 import DQN, _native
from mlx_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.vec_env import NativeVecEnv

BOX = spaces.Box(-1e6, 1e6, (2,), np.float32)
ACTION = spaces.Box(-1e6, 1e6, (1,), np.float32)
FIELDS = ("observations", "actions", "next_observations", "dones", "rewards")


class World:
    """Environments whose observations are the number of the episode and of the step in it."""

    def __init__(self, n_envs):
        self.episode, self.step = np.arange(n_envs) * 1000.0, np.zeros(n_envs)

    def seen(self):
        return np.stack([self.episode, self.step], axis=1).astype(np.float32)

    def advance(self, ended, cut):
        """One step: what `add` takes. The environments then start anew where an episode ended."""
        obs = self.seen()
        self.step += 1
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in cut]
        transition = (obs, self.seen(), obs[:, 1:], obs[:, 1] + 1, ended | cut, infos)
        self.start_anew(ended | cut)
        return transition

    def start_anew(self, where):
        self.episode += where
        self.step *= ~where


def rows_of(buffer):
    """Rows that may be sampled."""
    lost = {buffer.pos} if buffer.optimize_memory_usage and buffer.full else set()
    return np.array(sorted(set(range(buffer.size())) - lost), np.int64)


def samples_of(buffer, rows):
    chosen, envs = np.repeat(rows, buffer.n_envs), np.tile(np.arange(buffer.n_envs), len(rows))
    samples = buffer._collect(chosen, envs, None)
    return {name: np.asarray(getattr(samples, name)) for name in FIELDS} | (
        {} if samples.discounts is None else {"discounts": np.asarray(samples.discounts)}
    )


# 0 goes on, 1 ends, 2 is cut, 3 both; one number for each environment. None: the environments are reset.
EVENTS = st.lists(st.one_of(st.none(), st.tuples(*[st.sampled_from([0, 0, 0, 1, 2, 3])] * 3)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    n_envs=st.integers(1, 3),
    rows=st.integers(2, 9),
    n_steps=st.integers(1, 4),
    handled=st.booleans(),
)
def test_samples_are_those_of_the_other_buffer(events, n_envs, rows, n_steps, handled):
    kind, extra = (ReplayBuffer, {}) if n_steps == 1 else (NStepReplayBuffer, {"n_steps": n_steps})
    once, twice = (
        kind(rows * n_envs, BOX, ACTION, n_envs=n_envs, optimize_memory_usage=optimize,
             handle_timeout_termination=handled, **extra)
        for optimize in (True, False)
    )  # fmt: skip
    world = World(n_envs)
    for event in events:
        if event is None:
            world.start_anew(np.ones(n_envs, bool))
            continue
        kinds = np.array(event[:n_envs])
        transition = world.advance(kinds % 2 == 1, kinds >= 2)
        once.add(*transition)
        twice.add(*transition)
    chosen = rows_of(once)
    if len(chosen) == 0:
        return
    ours, theirs = samples_of(once, chosen), samples_of(twice, chosen)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name].view(np.uint32), value.view(np.uint32), name)
    if None in events and n_steps > 1:
        return  # nobody told the buffers of the reset
    # No sample leaves its episode, and none crosses the write head into another time.
    np.testing.assert_array_equal(ours["next_observations"][:, 0], ours["observations"][:, 0])
    steps = ours["next_observations"][:, 1] - ours["observations"][:, 1]
    assert ((steps >= 1) & (steps <= n_steps)).all()


def filled(steps=30, n_envs=2, **kwargs):
    buffer = ReplayBuffer(16, BOX, ACTION, n_envs=n_envs, optimize_memory_usage=True, **kwargs)
    world = World(n_envs)
    for step in range(steps):
        buffer.add(*world.advance(np.full(n_envs, step % 5 == 4), np.full(n_envs, False)))
    return buffer, world


@pytest.mark.parametrize("again", [copy.deepcopy, lambda buffer: pickle.loads(pickle.dumps(buffer))])
def test_copies_take_along_what_ended_episodes(again):
    buffer, world = filled()
    twin = again(buffer)
    assert len(twin._terminal) == len(buffer._terminal) > 0
    rows = rows_of(buffer)
    before = samples_of(buffer, rows)
    twin.add(*world.advance(np.full(2, True), np.full(2, False)))
    for name, value in samples_of(buffer, rows).items():
        np.testing.assert_array_equal(value, before[name])
    # Row 0 has the 25th step, which was the fifth and last of an episode.
    after = samples_of(twin, rows_of(twin))["next_observations"][:2]
    np.testing.assert_array_equal(after, [[4, 5], [1004, 5]])


@pytest.mark.parametrize("n_steps", [1, 3])
def test_checkpoints_take_along_what_ended_episodes(n_steps):
    model = DQN(
        "MlpPolicy", NativeVecEnv("CartPole-v1", 2), optimize_memory_usage=True, n_steps=n_steps,
        buffer_size=200, learning_starts=10**6, policy_kwargs={"net_arch": [4]}, seed=0,
    )  # fmt: skip
    model.learn(300)
    stream = io.BytesIO()
    model.save_checkpoint(stream)
    stream.seek(0)
    resumed = DQN.load_checkpoint(stream)
    old, new = model.replay_buffer, resumed.replay_buffer
    assert len(new._terminal) == len(old._terminal) > 2
    ours, theirs = samples_of(new, rows_of(new)), samples_of(old, rows_of(old))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
    for wrong in ((np.array([1]), np.zeros(15, np.uint8)), (np.array([-1]), np.zeros(16, np.uint8))):
        with pytest.raises((ValueError, IndexError), match=r"15 bytes|negative"):
            new._load_terminal(*wrong)
    assert len(new._terminal) == len(old._terminal)


def test_what_is_overwritten_or_forgotten_is_dropped():
    buffer, world = filled(300)
    # Eight rows of two environments, an episode in five steps.
    assert 2 <= len(buffer._terminal) <= 4
    buffer.reset()
    assert len(buffer._terminal) == 0
    buffer.add(*world.advance(np.full(2, False), np.full(2, False)))
    assert len(buffer._terminal) == 0


def test_numbers_of_another_dtype_are_compared_as_they_are_stored():
    buffer = ReplayBuffer(9, BOX, ACTION, optimize_memory_usage=True)
    third = np.full((1, 2), 1 / 3)
    for _ in range(5):
        buffer.add(third, third, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    assert len(buffer._terminal) == 0


def test_images_are_kept_too():
    space = spaces.Box(0, 255, (3, 4, 4), np.uint8)
    buffer = ReplayBuffer(5, space, spaces.Discrete(2), optimize_memory_usage=True)
    for step in range(7):
        obs, after = np.full((1, 3, 4, 4), 10 * step), np.full((1, 3, 4, 4), 10 * step + 1)
        buffer.add(obs, after, np.zeros((1, 1)), np.zeros(1), np.ones(1), [{}])
    samples = buffer.sample(50)
    expected = np.asarray(samples.observations) + 1
    assert (np.asarray(samples.next_observations) == expected).all()


class Addresses:
    """Where each call of Rust's gather writes."""

    def __init__(self, monkeypatch):
        self.calls = []
        gather = _native.gather

        def noted(sources, targets, indices):
            self.calls.append([out.ctypes.data for out in targets])
            gather(sources, targets, indices)

        monkeypatch.setattr(_native, "gather", noted)


@pytest.mark.parametrize(
    ("kind", "optimize"), [(ReplayBuffer, False), (ReplayBuffer, True), (NStepReplayBuffer, False)]
)
def test_batches_are_gathered_into_the_same_memory(monkeypatch, kind, optimize):
    buffer = kind(64, BOX, ACTION, n_envs=2, optimize_memory_usage=optimize)
    world = World(2)
    for step in range(50):
        buffer.add(*world.advance(np.full(2, step % 7 == 6), np.full(2, False)))
    addresses = Addresses(monkeypatch)
    first = buffer.sample_many(5, 8)
    half = len(addresses.calls)
    kept = {name: np.array(getattr(first, name)) for name in FIELDS}
    second = buffer.sample_many(5, 8)
    third = buffer.sample(8)
    assert addresses.calls[:half] == addresses.calls[half : 2 * half] == addresses.calls[2 * half :]
    flat = [address for call in addresses.calls[:half] for address in call]
    assert len(set(flat)) == len(flat)
    # What MLX got is a copy: it is as it was, and the later samples are others.
    for name, value in kept.items():
        np.testing.assert_array_equal(np.asarray(getattr(first, name)), value)
    assert not np.array_equal(kept["observations"], np.asarray(second.observations))
    assert third.observations.shape == (8, 2)


def test_threads_do_not_gather_into_each_others_memory():
    buffer, _ = filled(100)
    wrong = []

    def sample():
        for _ in range(50):
            samples = buffer.sample_many(2, 50)
            obs, after = np.asarray(samples.observations), np.asarray(samples.next_observations)
            if (obs[..., 0] != after[..., 0]).any() or (obs[..., 1] + 1 != after[..., 1]).any():
                wrong.append(obs)

    threads = [threading.Thread(target=sample) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_rust_refuses_blocks_that_do_not_fit():
    terminal = _native.TerminalObs()
    with pytest.raises(ValueError, match="observation column holds 5 numbers, expected 6"):
        terminal.before_write(
            {"capacity": 3, "pos": 1, "full": False}, np.zeros(5, np.uint8), np.zeros(2, np.uint8), 2
        )
    with pytest.raises(ValueError, match="cursor 3 is not inside"):
        terminal.before_write(
            {"capacity": 3, "pos": 3, "full": False}, np.zeros(6, np.uint8), np.zeros(2, np.uint8), 2
        )
    with pytest.raises(IndexError, match="negative"):
        terminal.patch(np.array([-1]), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="block of observations holds 5 numbers, expected 4"):
        _native.TerminalObs(np.array([1, 2]), np.zeros(5, np.uint8))
