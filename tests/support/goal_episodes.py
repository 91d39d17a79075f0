"""Episodes with goals in a HerReplayBuffer, whose every number says where it belongs."""

import numpy as np
from gymnasium import spaces

from mlx_baselines3.her import HerReplayBuffer

BOX = spaces.Box(-1e6, 1e6, (1,), np.float32)
GOALS = spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})
ACTION = spaces.Box(-1e6, 1e6, (1,), np.float32)
NO_GOAL = -500.0


class DistanceEnv:
    """Stands in for a VecEnv. The reward is minus the distance to the goal, and 0.5 for each marked info."""

    def __init__(self):
        self.calls = []

    def env_method(self, name, achieved, desired, infos, indices=None):
        assert (name, indices) == ("compute_reward", [0])
        assert len(achieved) == len(desired) == len(infos)
        self.calls.append(infos)
        marks = np.array([0.5 * ("mark" in info) for info in infos])
        return [-np.abs(achieved - desired)[:, 0].astype(np.float64) + marks]


def make(size=20, n_envs=1, env=None, **kwargs):
    return HerReplayBuffer(size * n_envs, GOALS, ACTION, env or DistanceEnv(), n_envs=n_envs, **kwargs)


def add(buffer, time, done=False, cut=False):
    """
    The step from state `time` to `time + 1`, which environment e calls `time + 10_000 * e`. No goal was
    asked for that could be reached; the reward is -7.
    """
    state = (time + 10_000 * np.arange(buffer.n_envs, dtype=np.float32))[:, None]
    wanted = np.full_like(state, NO_GOAL)
    now = {"observation": state, "achieved_goal": state, "desired_goal": wanted}
    then = {"observation": state + 1, "achieved_goal": state + 1, "desired_goal": wanted}
    flags = np.broadcast_to(np.logical_or(done, cut), buffer.n_envs)
    infos = [{"TimeLimit.truncated": cut, "time": time} for _ in range(buffer.n_envs)]
    buffer.add(now, then, state, np.full(buffer.n_envs, -7.0), flags, infos)


def episodes(buffer, *lengths, start=0):
    """Episodes one after another; the states of each begin at the next multiple of 100."""
    for number, length in enumerate(lengths, start):
        for step in range(length):
            add(buffer, 100 * number + step, done=step == length - 1)


def columns(samples):
    """State, goal, reward and flag of each sample, after what must hold of all of them."""
    state = np.asarray(samples.observations["observation"])[..., 0]
    goal = np.asarray(samples.observations["desired_goal"])[..., 0]
    assert (np.asarray(samples.observations["achieved_goal"])[..., 0] == state).all()
    assert (np.asarray(samples.next_observations["observation"])[..., 0] == state + 1).all()
    assert (np.asarray(samples.next_observations["achieved_goal"])[..., 0] == state + 1).all()
    assert (np.asarray(samples.next_observations["desired_goal"])[..., 0] == goal).all()
    assert (np.asarray(samples.actions)[..., 0] == state).all()
    return state, goal, np.asarray(samples.rewards)[..., 0], np.asarray(samples.dones)[..., 0]
