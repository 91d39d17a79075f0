"""Batches as NumPy arrays: the same draws, numbers and dtypes as MLX's, and no array of MLX on the way."""

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.buffers.batches import replay_arrays, replay_batches
from mlx_baselines3.her import HerReplayBuffer

BOX = spaces.Box(-1e6, 1e6, (3,), np.float32)
DOUBLE = spaces.Box(-1e6, 1e6, (2, 2), np.float64)
DICT = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "goal": spaces.Discrete(2000)})
GOALS = spaces.Dict({"observation": DOUBLE, "achieved_goal": BOX, "desired_goal": BOX})
ACTION = spaces.Box(-1e6, 1e6, (2,), np.float32)


class Env:
    """Answers for a VecEnv and for a VecNormalize."""

    def env_method(self, name, achieved, desired, infos, indices=None):
        return [-np.abs(achieved - desired).sum(axis=1)]

    def normalize_obs(self, obs):
        return {key: 10 * value for key, value in obs.items()} if isinstance(obs, dict) else 10 * obs

    def normalize_reward(self, reward):
        return reward.astype(np.float64) / 100


class Newest(ReplayBuffer):
    def _get_samples(self, batch_inds, env=None):
        return super()._get_samples(np.full_like(batch_inds, self.pos - 1), env)


class Own(ReplayBuffer):
    def sample(self, batch_size, env=None):
        return super().sample(batch_size, env)._replace(rewards=mx.random.normal((batch_size, 1)))


class Half(ReplayBuffer):
    def to_torch(self, array, copy=True):
        return super().to_torch(array).astype(mx.float16)


class HalfMany(ReplayBuffer):
    def sample_many(self, n_batches, batch_size, env=None):
        samples = super().sample_many(n_batches, batch_size, env)
        return samples._replace(rewards=samples.rewards / 2)


def her(*args, **kwargs):
    return HerReplayBuffer(*args, env=Env(), **kwargs)


KINDS = {
    "plain": (ReplayBuffer, BOX, {}),
    "float64": (ReplayBuffer, DOUBLE, {}),
    "discrete": (ReplayBuffer, spaces.Discrete(2000), {}),
    "compact": (ReplayBuffer, BOX, {"optimize_memory_usage": True}),
    "n-step": (NStepReplayBuffer, BOX, {"n_steps": 4}),
    "compact n-step": (NStepReplayBuffer, BOX, {"optimize_memory_usage": True}),
    "dict": (DictReplayBuffer, DICT, {}),
    "her": (her, GOALS, {"copy_info_dict": True}),
    "own _get_samples": (Newest, BOX, {}),
    "own sample": (Own, BOX, {}),
    "own to_torch": (Half, BOX, {}),
    "own sample_many": (HalfMany, BOX, {}),
}


def filled(what, steps=31, n_envs=2):
    kind, space, settings = KINDS[what]
    buffer = kind(24 * n_envs, space, ACTION, n_envs=n_envs, **settings)
    rng = np.random.default_rng(7)

    def drawn(space):
        if isinstance(space, spaces.Dict):
            return {key: drawn(part) for key, part in space.items()}
        return rng.integers(1, 90, (n_envs, *space.shape)).astype(space.dtype)

    for _ in range(steps):
        cut = rng.random(n_envs) < 0.1
        done = cut | (rng.random(n_envs) < 0.2)
        infos = [{"TimeLimit.truncated": bool(each)} for each in cut]
        action, reward = rng.normal(size=(2, n_envs, 2)).astype(np.float32)
        buffer.add(drawn(space), drawn(space), action, reward[:, 0], done, infos)
    return buffer


def flat(fields):
    """Name -> array, those in dicts under both of their names."""
    found = {}
    for name, field in fields.items():
        parts = field.items() if isinstance(field, dict) else [("", field)]
        found.update({(name, key): part for key, part in parts})
    return found


def seeded(call):
    """What a call gives, and what NumPy draws after it."""
    np.random.seed(5)  # noqa: NPY002
    mx.random.seed(5)
    outcome = call()
    return outcome, np.random.random()  # noqa: NPY002


def one_portion(*args):
    (arrays,) = replay_arrays(*args)
    return arrays


@pytest.mark.parametrize("env", [None, Env()], ids=["as stored", "normalised"])
@pytest.mark.parametrize("what", KINDS)
def test_arrays_are_those_of_the_batches(what, env):
    buffer = filled(what)
    arrays, after = seeded(lambda: flat(one_portion(buffer, 3, 8, env)))
    batches, expected_after = seeded(lambda: [flat(batch) for batch in replay_batches(buffer, 3, 8, env)])
    assert after == expected_after
    assert arrays.keys() == batches[0].keys()
    for name, array in arrays.items():
        expected = np.stack([np.array(batch[name]) for batch in batches])
        assert type(array) is np.ndarray
        assert array.dtype == expected.dtype
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("what", [what for what in KINDS if "own" not in what])
def test_no_array_of_mlx_is_made(what, monkeypatch):
    buffer = filled(what)
    for name in ("array", "stack", "from_dlpack"):
        monkeypatch.delattr(mx, name, raising=False)
    assert one_portion(buffer, 2, 4)["rewards"].shape == (2, 4, 1)


def test_arrays_stay_as_they_are():
    buffer = filled("plain")
    first = one_portion(buffer, 2, 16)
    kept = {name: array.copy() for name, array in first.items()}
    buffer.sample_many(2, 16)
    buffer.reset()
    buffer.observations[:] = 0
    filled("plain").sample_arrays(2, 16)
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_a_buffer_that_is_not_ours():
    class Foreign:
        observation_space = BOX

        def __init__(self, buffer):
            self.sample = buffer.sample

    buffer = filled("n-step")
    arrays, _ = seeded(lambda: one_portion(Foreign(buffer), 3, 8))
    expected, _ = seeded(lambda: one_portion(buffer, 3, 8))
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("sizes", [(0, 4), (2, 0), (2.0, 4)])
def test_sizes_are_checked(sizes):
    with pytest.raises(ValueError, match="expected a whole number"):
        filled("plain").sample_arrays(*sizes)


def test_an_empty_buffer_has_nothing():
    with pytest.raises(ValueError, match="is empty"):
        ReplayBuffer(8, BOX, ACTION).sample_arrays(1, 4)
