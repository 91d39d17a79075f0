"""Replay buffers and statistics that versions 1.5 to 2.9 of SB3 pickled; see tests/data/replay."""

import pathlib
import pickle

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.saving.replay import load_replay_buffer
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from mlx_baselines3.her import GoalSelectionStrategy, HerReplayBuffer
from support.random_env import RandomEnv

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "replay"
KINDS = {
    "plain": ReplayBuffer,
    "compact": ReplayBuffer,
    "dict": DictReplayBuffer,
    "her": HerReplayBuffer,
    "her_plain": HerReplayBuffer,
    "n_step": NStepReplayBuffer,
}
FILES = [
    path
    for path in sorted(FOLDER.glob("*/*.pkl"))
    if path.stem in KINDS and not (path.stem == "her" and path.parent.name in ("sb3_1.5.0", "sb3_1.7.0"))
]
OLD_HER = sorted([*FOLDER.glob("sb3_1.5.0/her*.pkl"), *FOLDER.glob("sb3_1.7.0/her*.pkl")])
NORMALIZE = sorted(FOLDER.glob("*/normalize_*.pkl"))


@pytest.fixture(autouse=True)
def _no_unpickling(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def name_of(path):
    return f"{path.parent.name}-{path.stem}"


def test_the_files_are_there():
    assert (len(FILES), len(OLD_HER), len(NORMALIZE)) == (14, 5, 6)


@pytest.mark.parametrize("path", [*FILES, *sorted(FOLDER.glob("*.pkl"))], ids=name_of)
def test_buffers(path):
    buffer = load_replay_buffer(path)
    if path.stem in KINDS:
        assert type(buffer) is KINDS[path.stem]
    with np.load(path.with_suffix(".npz")) as theirs:
        seen = set()
        for name in theirs:
            attribute, _, key = name.partition("/")
            ours = getattr(buffer, attribute)
            ours = ours[key] if key else ours
            # Their columns were of the space's dtype, ours hold float32 for float64.
            expected = theirs[name].astype(np.float32) if name == "actions" else theirs[name]
            np.testing.assert_array_equal(ours, expected, err_msg=name)
            seen.add(name)
        assert {"pos", "full", "actions", "rewards", "dones"} <= seen
        timeouts = theirs["timeouts"] if "timeouts" in theirs else np.zeros_like(theirs["dones"])
    np.testing.assert_array_equal(buffer.timeouts, timeouts)
    assert buffer.actions.dtype == np.float32 or buffer.actions.dtype == np.int64
    if path.stem == "n_step":
        assert (buffer.n_steps, buffer.gamma) == (4, 0.9)
    if not isinstance(buffer, HerReplayBuffer):
        assert buffer.sample(5).rewards.shape == (5, 1)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.startswith("her")], ids=name_of)
def test_her_has_its_episodes_and_infos(path):
    buffer = load_replay_buffer(path)
    assert buffer.env is None
    assert buffer.copy_info_dict == (path.stem == "her")
    strategy = GoalSelectionStrategy.FINAL if path.stem == "her" else GoalSelectionStrategy.FUTURE
    assert buffer.goal_selection_strategy is strategy
    if path.stem == "her":
        # 14 steps were written into 10 rows.
        assert [info["step"] for info in buffer.infos[:, 0]] == [10, 11, 12, 13, 4, 5, 6, 7, 8, 9]
    else:
        assert buffer.infos.shape == (0, 1)


@pytest.mark.parametrize("path", [path for path in OLD_HER if "offline" not in path.stem], ids=name_of)
def test_her_of_before_1_8_becomes_rows(path):
    buffer = load_replay_buffer(path)
    assert type(buffer) is HerReplayBuffer
    full = path.stem == "her_full"
    # 3 episodes of 4 steps fit in. 18 steps: two are in the episode that is under way, and it overwrites.
    episodes = [2, 0] if full else [0]
    under_way = (1, 2) if full else (1, 3)
    with np.load(path.with_suffix(".npz")) as tables:
        order = [(episode, step) for episode in episodes for step in range(4)]
        order += [(under_way[0], step) for step in range(under_way[1])]
        assert (buffer.pos, buffer.full) == (len(order), False)
        for row, (episode, step) in enumerate(order):
            for key in ("observation", "achieved_goal", "desired_goal"):
                following = "next_obs" if key == "observation" else f"next_{key}"
                expected = tables[f"_buffer/{key}"][episode, step]
                np.testing.assert_array_equal(buffer.observations[key][row], expected)
                expected = tables[f"_buffer/{following}"][episode, step]
                np.testing.assert_array_equal(buffer.next_observations[key][row], expected)
            np.testing.assert_array_equal(buffer.actions[row, 0], tables["_buffer/action"][episode, step])
            assert buffer.rewards[row, 0] == tables["_buffer/reward"][episode, step, 0]
            # An end by a time limit counts as none, as it did then.
            really = buffer.dones[row, 0] * (1 - buffer.timeouts[row, 0])
            assert really == tables["_buffer/done"][episode, step, 0]
            assert buffer.infos[row, 0]["step"] == buffer.rewards[row, 0]
    complete = 4 * len(episodes)
    assert buffer.ep_length[:, 0].tolist() == [4] * complete + [0] * (14 - complete)
    assert buffer.ep_start[:complete, 0].tolist() == [row - row % 4 for row in range(complete)]
    assert buffer._current_ep_start.tolist() == [complete]
    assert buffer.dones[:, 0].sum() == len(episodes)
    with pytest.warns(UserWarning, match="truncated"):
        buffer.truncate_last_trajectory()
    assert (buffer.ep_length[complete : buffer.pos, 0] == under_way[1]).all()


def test_her_with_offline_sampling_becomes_what_it_had_relabelled():
    path = FOLDER / "sb3_1.5.0" / "her_offline.pkl"
    with pytest.warns(UserWarning, match="online_sampling=False"):
        buffer = load_replay_buffer(path)
    assert type(buffer) is DictReplayBuffer
    with np.load(path.with_suffix(".npz")) as theirs:
        assert buffer.pos == theirs["inner.pos"] > 7
        np.testing.assert_array_equal(buffer.rewards, theirs["inner.rewards"])
        goals = buffer.observations["desired_goal"]
        np.testing.assert_array_equal(goals, theirs["inner.observations/desired_goal"])


@pytest.mark.parametrize("path", NORMALIZE, ids=name_of)
def test_statistics(path):
    box = spaces.Box(-2.0, 2.0, (3,), np.float32)
    space = spaces.Dict({"a": box, "b": spaces.Discrete(4)}) if path.stem.endswith("dict") else box
    env = VecNormalize.load(path, DummyVecEnv([lambda: RandomEnv(space, spaces.Discrete(2))]))
    assert type(env) is VecNormalize
    with np.load(path.with_suffix(".npz")) as theirs:
        obs = theirs["obs"]
        given = {"a": obs, "b": np.zeros((2, 1), int)} if path.stem.endswith("dict") else obs
        ours = env.normalize_obs(given)
        ours = ours["a"] if path.stem.endswith("dict") else ours
        np.testing.assert_array_equal(ours, theirs["normalized"])
        # Float64 in the first versions.
        np.testing.assert_array_equal(env.normalize_reward(obs[0]), theirs["scaled"].astype(np.float32))
    env.reset()
    env.step(np.zeros(1, int))
    assert env.returns.shape == (1,)
