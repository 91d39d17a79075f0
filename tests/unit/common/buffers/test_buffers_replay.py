"""Replay buffers: what is stored, what is sampled, and that no sample mixes two episodes."""

import pickle
import warnings

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer, _rows
from mlx_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

BOX = spaces.Box(-1e6, 1e6, (2,), np.float32)
ACTION = spaces.Box(-1e6, 1e6, (1,), np.float32)


class FakeNormalize:
    """Stands in for VecNormalize: observations tenfold, rewards in hundreds."""

    def normalize_obs(self, obs):
        return {key: 10 * value for key, value in obs.items()} if isinstance(obs, dict) else 10 * obs

    def normalize_reward(self, reward):
        return reward.astype(np.float64) / 100


def add(buffer, time, done=False, cut=False):
    """The transition from `time` to `time + 1`; environment e adds 1000 * e to every number."""
    mark = (time + 1000 * np.arange(buffer.n_envs)).astype(np.float32)
    obs, next_obs = np.stack([mark, -mark], axis=1), np.stack([mark + 1, -mark - 1], axis=1)
    infos = [{"TimeLimit.truncated": True} if cut else {} for _ in mark]
    buffer.add(obs, next_obs, mark[:, None] + 0.25, mark + 0.5, np.full(len(mark), done or cut), infos)


def check(samples):
    """Every sample is one of the transitions of `add`, whole."""
    mark = np.asarray(samples.observations)[..., 0]
    assert (np.asarray(samples.observations)[..., 1] == -mark).all()
    assert (np.asarray(samples.next_observations) == np.stack([mark + 1, -mark - 1], axis=-1)).all()
    assert (np.asarray(samples.actions)[..., 0] == mark + 0.25).all()
    assert (np.asarray(samples.rewards)[..., 0] == mark + 0.5).all()
    return mark


@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(("steps", "kept"), [(3, range(3)), (5, range(5)), (12, range(7, 12))])
def test_the_latest_transitions_are_sampled_whole(optimize, steps, kept, handled):
    settings = {"optimize_memory_usage": optimize, "handle_timeout_termination": handled}
    buffer = ReplayBuffer(10, BOX, ACTION, n_envs=2, **settings)
    for time in range(steps):
        add(buffer, time)
    assert (buffer.buffer_size, buffer.pos, buffer.full, buffer.size()) == (
        5,
        steps % 5,
        steps >= 5,
        min(steps, 5),
    )
    samples = buffer.sample(400)
    assert isinstance(samples, ReplayBufferSamples)
    assert samples.discounts is None
    assert (samples.rewards.shape, samples.dones.shape) == ((400, 1), (400, 1))
    # The saving variant gives up its oldest observation for the newest next one.
    kept = set(kept) - ({min(kept)} if optimize and steps >= 5 else set())
    assert set(check(samples).tolist()) == kept | {1000 + time for time in kept}


def test_draws_are_those_of_sb3():
    buffer = ReplayBuffer(40, BOX, ACTION, n_envs=2)
    for time in range(13):
        add(buffer, time)
    np.random.seed(3)  # noqa: NPY002 - the generator that SB3 draws from
    rows = np.random.randint(0, 13, size=8)  # noqa: NPY002
    envs = np.random.randint(0, high=2, size=(8,))  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    assert check(buffer.sample(8)).tolist() == (rows + 1000 * envs).tolist()


@pytest.mark.parametrize("kind", [ReplayBuffer, NStepReplayBuffer])
def test_many_batches_are_the_batches_of_many_calls(kind):
    buffer = kind(40, BOX, ACTION, n_envs=2)
    for time in range(33):
        add(buffer, time, done=time % 7 == 0)
    np.random.seed(4)  # noqa: NPY002
    single = [buffer.sample(6, FakeNormalize()) for _ in range(5)]
    np.random.seed(4)  # noqa: NPY002
    many = buffer.sample_many(5, 6, FakeNormalize())
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        assert getattr(many, name).tolist() == [getattr(batch, name).tolist() for batch in single]
    assert many.rewards.shape == (5, 6, 1)
    assert (many.discounts is None) == (kind is ReplayBuffer)


def test_many_batches_respect_a_subclass():
    class Last(ReplayBuffer):
        def _get_samples(self, batch_inds, env=None):
            return super()._get_samples(np.full_like(batch_inds, self.pos - 1), env)

    buffer = Last(40, BOX, ACTION)
    for time in range(9):
        add(buffer, time)
    assert (check(buffer.sample_many(2, 3)) == 8).all()


def test_timeouts_are_not_ends():
    for handled in (True, False):
        buffer = ReplayBuffer(3, BOX, ACTION, handle_timeout_termination=handled)
        add(buffer, 0)
        add(buffer, 1, done=True)
        add(buffer, 2, cut=True)
        samples = buffer.sample(200)
        dones = dict(zip(check(samples).tolist(), samples.dones[:, 0].tolist(), strict=True))
        assert dones == {0: 0, 1: 1, 2: 0 if handled else 1}
        assert buffer.dones[:, 0].tolist() == [0, 1, 1]


def test_normalisation_happens_at_sampling():
    buffer = ReplayBuffer(8, BOX, ACTION)
    for time in range(8):
        add(buffer, time)
    samples = buffer.sample(50, FakeNormalize())
    mark = np.asarray(samples.actions)[:, 0] - 0.25
    np.testing.assert_array_equal(np.asarray(samples.observations)[:, 0], 10 * mark)
    np.testing.assert_array_equal(np.asarray(samples.next_observations)[:, 0], 10 * mark + 10)
    np.testing.assert_allclose(np.asarray(samples.rewards)[:, 0], (mark + 0.5) / 100, rtol=1e-6)
    assert samples.rewards.dtype == mx.float32


@pytest.mark.parametrize(
    ("space", "stored"),
    [
        (spaces.Discrete(5), np.int64),
        (spaces.Box(-1, 1, (3, 2), np.float64), np.float32),
        (spaces.MultiBinary(4), np.int8),
        (spaces.MultiDiscrete([3, 4]), np.int64),
    ],
)
def test_actions_keep_their_dtype_but_not_float64(space, stored):
    space.seed(0)
    buffer = ReplayBuffer(1, spaces.Discrete(9), space, n_envs=1)
    action = np.asarray(space.sample())
    buffer.add(np.array([3]), np.array([4]), action[None], 1.0, False, [{}])
    assert buffer.actions.dtype == stored
    samples = buffer.sample(2)
    assert np.asarray(samples.actions).dtype == stored
    np.testing.assert_allclose(np.asarray(samples.actions)[1], action.reshape(-1), rtol=1e-6)
    assert samples.observations.tolist() == [[3], [3]]
    assert samples.next_observations.tolist() == [[4], [4]]


def test_dict_observations_and_extend():
    space = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "goal": spaces.Discrete(50)})
    buffer = DictReplayBuffer(20, space, ACTION, n_envs=2)
    steps = range(3)
    obs = [{"image": np.full((2, 2, 2), time), "goal": np.array([time, time + 10])} for time in steps]
    after = [
        {"image": np.full((2, 2, 2), time + 1), "goal": np.array([time + 1, time + 11])} for time in steps
    ]
    buffer.extend(obs, after, np.zeros((3, 2, 1)), np.ones((3, 2)), np.zeros((3, 2)), [[{}, {}]] * 3)
    assert (buffer.buffer_size, buffer.pos) == (10, 3)
    samples = buffer.sample(100, FakeNormalize())
    assert isinstance(samples, DictReplayBufferSamples)
    goal, image = (np.asarray(samples.observations[key]) for key in ("goal", "image"))
    assert set(goal[:, 0].tolist()) == {0, 10, 20, 100, 110, 120}
    assert (image == (goal % 100)[:, :, None]).all()
    assert (np.asarray(samples.next_observations["goal"]) == goal + 10).all()
    many = buffer.sample_many(4, 5)
    assert (many.observations["image"].shape, many.observations["image"].dtype) == ((4, 5, 2, 2), mx.uint8)
    with pytest.raises(ValueError, match=r"obs has no 'goal', expected the keys \['goal', 'image'\]"):
        buffer.add({"image": obs[0]["image"]}, after[0], np.zeros((2, 1)), np.ones(2), np.zeros(2), [{}, {}])
    assert buffer.pos == 3


def expected_n_step(log, capacity, row, n_steps, gamma):
    """By walking through the log of all transitions, oldest first: (return, next mark, done, discount)."""
    newest = len(log) - 1
    time = max(time for time in range(len(log)) if time % capacity == row)
    total, weight = 0.0, 1.0
    for _ in range(n_steps):
        reward, done, cut = log[time]
        total, weight = total + weight * reward, weight * gamma
        time += 1
        if done or cut or time > newest:
            break
    return total, time, float(done and not cut), weight


@pytest.mark.parametrize("steps", [4, 7, 10, 16, 23])
@pytest.mark.parametrize("n_steps", [1, 3, 5])
def test_n_step_returns_are_those_of_a_walk(steps, n_steps):
    buffer = NStepReplayBuffer(8, BOX, ACTION, n_steps=n_steps, gamma=0.9)
    log = []
    for time in range(steps):
        done, cut = time % 5 == 3, time % 7 == 5
        add(buffer, time, done=done, cut=cut)
        log.append((time + 0.5, done or cut, cut))
    timeouts = buffer.timeouts.copy()
    np.random.seed(1)  # noqa: NPY002
    samples = buffer.sample(100)
    assert (buffer.timeouts == timeouts).all()
    for i in range(100):
        mark = int(samples.observations[i, 0].item())
        total, after, done, weight = expected_n_step(log, 8, mark % 8, n_steps, 0.9)
        assert samples.rewards[i, 0].item() == pytest.approx(total, rel=1e-6)
        assert samples.next_observations[i, 0].item() == after
        assert samples.dones[i, 0].item() == done
        assert samples.discounts[i, 0].item() == pytest.approx(weight, rel=1e-6)


def test_n_step_with_normalised_rewards_and_more_environments():
    """gamma 0.5, three steps: (m + 0.5) + 0.5 (m + 1.5) + 0.25 (m + 2.5) = 1.75 m + 1.875, in hundreds."""
    buffer = NStepReplayBuffer(40, BOX, ACTION, n_envs=2, n_steps=3, gamma=0.5)
    for time in range(20):
        add(buffer, time)
    samples = buffer._get_samples(np.arange(17), FakeNormalize())
    mark = np.asarray(samples.actions) - 0.25
    np.testing.assert_allclose(np.asarray(samples.rewards), (1.75 * mark + 1.875) / 100, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(samples.discounts), 0.125)
    assert {value >= 1000 for value in mark[:, 0]} == {True, False}


def test_combinations_that_are_refused():
    with pytest.raises(AssertionError, match="does not support optimize_memory_usage"):
        DictReplayBuffer(5, spaces.Dict({"a": BOX}), ACTION, optimize_memory_usage=True)
    with pytest.raises(AssertionError, match="must be used with Dict obs space only"):
        DictReplayBuffer(5, BOX, ACTION)
    with pytest.raises(ValueError, match="n_steps is 0"):
        NStepReplayBuffer(5, BOX, ACTION, n_steps=0)
    for sizes in ({"buffer_size": 0}, {"buffer_size": 5, "n_envs": 0}):
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            ReplayBuffer(observation_space=BOX, action_space=ACTION, **sizes)
    with pytest.raises(ValueError, match="buffer_size is 3, expected at least 4: a ReplayBuffer stores one"):
        ReplayBuffer(3, BOX, ACTION, n_envs=4)
    assert ReplayBuffer(4, BOX, ACTION, n_envs=4).buffer_size == 1


def test_bad_calls_leave_the_buffer_as_it_was():
    buffer = ReplayBuffer(6, BOX, ACTION, n_envs=2)
    with pytest.raises(ValueError, match="the ReplayBuffer is empty"):
        buffer.sample(3)
    add(buffer, 0)
    good = [np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 1)), np.ones(2), np.ones(2), [{}, {}]]
    wrong = [np.ones((1, 2)), np.ones((2, 3)), np.ones((3, 1)), np.ones(3), np.ones(3), [{}, {}, {}]]
    for position, name in enumerate(["obs", "next_obs", "action", "reward", "done", "infos"]):
        with pytest.raises(ValueError, match=f"{name} has shape"):
            buffer.add(*good[:position], wrong[position], *good[position + 1 :])
    assert (buffer.pos, buffer.full) == (1, False)
    for call in (lambda: buffer.sample(0), lambda: buffer.sample_many(2, -1)):
        with pytest.raises(ValueError, match="batch_size is"):
            call()
    with pytest.raises(ValueError, match="n_batches is 0"):
        buffer.sample_many(0, 4)
    assert set(check(buffer.sample(30)).tolist()) == {0, 1000}


def test_memory_is_checked_before_it_is_taken(monkeypatch):
    # Observations 2 * 8, action 4, reward, done and timeout 4 each: 32 bytes a transition.
    monkeypatch.setattr(_rows, "available_memory", lambda: 3_200_000)
    with pytest.warns(UserWarning, match=r"replay buffer 0\.00GB > 0\.00GB"):
        ReplayBuffer(100_001, BOX, ACTION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer(100_000, BOX, ACTION)
        monkeypatch.setattr(_rows, "available_memory", lambda: None)
        ReplayBuffer(100_001, BOX, ACTION)
    with pytest.raises(MemoryError, match=r"A ReplayBuffer of 100000000000000 rows .* needs \d+\.\d GB"):
        ReplayBuffer(10**14, BOX, ACTION)


def test_memory_that_is_left_is_plausible():
    available = _rows.available_memory()
    assert available is None or 10**6 < available < 10**15


def test_memory_is_rusts_also_after_pickling():
    buffer = ReplayBuffer(8, BOX, ACTION, n_envs=2)
    for time in range(6):
        add(buffer, time)
    twin = pickle.loads(pickle.dumps(buffer))
    for one in (buffer, twin):
        array = one.next_observations
        while isinstance(array, np.ndarray):
            array = array.base
        assert isinstance(array, _native.Storage)
        assert one.next_observations.ctypes.data == array.address("next_observations")
    assert (twin.pos, twin.full) == (2, True)
    add(twin, 6)
    assert set(check(twin.sample(200)).tolist()) == {3, 4, 5, 6, 1003, 1004, 1005, 1006}
    assert set(check(buffer.sample(200)).tolist()) == {2, 3, 4, 5, 1002, 1003, 1004, 1005}
