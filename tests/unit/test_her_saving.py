"""HerReplayBuffer: pickled without its environment, and cut where an episode was under way."""

import copy
import pickle
import warnings

import numpy as np
import pytest

from support.goal_episodes import DistanceEnv, add, columns, episodes, make


@pytest.mark.parametrize("copied", [False, True])
def test_pickling_leaves_the_environment_behind(copied):
    class NotPicklable(DistanceEnv):
        def __reduce__(self):
            raise TypeError("not this one")

    env = NotPicklable()
    buffer = make(6, n_envs=2, env=env, copy_info_dict=copied)
    episodes(buffer, 3, 2)
    add(buffer, 200)
    for other in (pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        assert other.env is None
        with pytest.raises(AssertionError, match="set_env"):
            other.sample(10)
        other.set_env(env)
        with pytest.raises(ValueError, match="already"):
            other.set_env(env)
        np.random.seed(2)  # noqa: NPY002
        expected = columns(buffer.sample(20))
        np.random.seed(2)  # noqa: NPY002
        assert all((a == b).all() for a, b in zip(columns(other.sample(20)), expected, strict=True))
        # The episode that was under way goes on.
        add(other, 201, done=True)
        assert {200, 201} < set(columns(other.sample(200))[0].tolist())


@pytest.mark.parametrize("handle", [False, True])
def test_truncating_the_last_trajectory(handle):
    buffer = make(10, n_envs=2, handle_timeout_termination=handle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.truncate_last_trajectory()
    add(buffer, 0, done=[False, True])
    add(buffer, 1, done=[False, True])
    with pytest.warns(UserWarning, match="The last trajectory in the replay buffer will be truncated"):
        buffer.truncate_last_trajectory()
    # Only the first environment was in the middle of an episode.
    assert buffer.dones[:3].tolist() == [[0, 1], [1, 1], [0, 0]]
    assert buffer.timeouts[:3].tolist() == [[0, 0], [float(handle), 0], [0, 0]]
    assert buffer.ep_length[:3].tolist() == [[2, 1], [2, 1], [0, 0]]
    assert buffer._current_ep_start.tolist() == [2, 2]
    state, _, _, done = columns(buffer.sample(200))
    assert set(state.tolist()) == {0, 1, 10_000, 10_001}
    assert (done == ((state >= 10_000) | ((state == 1) & (not handle)))).all()


def test_truncating_where_the_ring_begins():
    buffer = make(4)
    episodes(buffer, 1)
    for step in range(3):
        add(buffer, 100 + step)
    with pytest.warns(UserWarning, match="truncated"):
        buffer.truncate_last_trajectory()
    assert buffer.dones[:, 0].tolist() == [1, 0, 0, 1]
    assert buffer.ep_length[:, 0].tolist() == [1, 3, 3, 3]
