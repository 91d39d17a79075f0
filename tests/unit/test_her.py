"""HerReplayBuffer: which goals, rewards and flags relabelled transitions get, and which rows are sampled."""

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_baselines3.common.vec_env import VecNormalize
from mlx_baselines3.her import GoalSelectionStrategy, HerReplayBuffer
from mlx_baselines3.her.goal_selection_strategy import KEY_TO_GOAL_STRATEGY
from support.goal_episodes import ACTION, BOX, GOALS, NO_GOAL, DistanceEnv, add, columns, episodes, make

# Two episodes: states 0 1 2 3, where 3 ends the first, and 100 101 102.
REACHED = {
    "future": {
        0: {1, 2, 3},
        1: {2, 3},
        2: {3},
        100: {101, 102},
        101: {102},
    },
    "final": {0: {3}, 1: {3}, 2: {3}, 100: {102}, 101: {102}},
    "episode": {0: {1, 2, 3}, 1: {1, 2, 3}, 2: {1, 2, 3}, 100: {101, 102}, 101: {101, 102}},
}


@pytest.mark.parametrize("strategy", ["future", "final", "episode", *GoalSelectionStrategy])
def test_goals_rewards_and_flags_by_hand(strategy):
    buffer = make(goal_selection_strategy=strategy, n_sampled_goal=3)
    episodes(buffer, 3, 2)
    name = strategy if isinstance(strategy, str) else strategy.name.lower()
    state, goal, reward, done = columns(buffer.sample(800))
    real, virtual = slice(200), slice(200, None)
    assert (goal[real] == NO_GOAL).all()
    assert (reward[real] == -7).all()
    found = {s: set(goal[virtual][state[virtual] == s].tolist()) for s in set(state.tolist())}
    assert found == REACHED[name]
    assert (reward[virtual] == -np.abs(state + 1 - goal)[virtual]).all()
    assert (done == np.isin(state, [2, 101])).all()


def test_draws_are_those_of_sb3():
    buffer = make(n_envs=2, n_sampled_goal=4)
    episodes(buffer, 3, 4)
    add(buffer, 900)  # of an episode that has not ended
    np.random.seed(5)  # noqa: NPY002 - the generator that SB3 draws from
    rows, envs = np.unravel_index(np.random.choice(np.arange(14), size=10), (20, 2))  # noqa: NPY002
    first, length = np.where(rows < 3, 0, 3), np.where(rows < 3, 3, 4)
    steps = np.random.randint((rows - first)[:8], length[:8])  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    state, goal, _, _ = columns(buffer.sample(10))
    states = np.where(rows < 3, rows, 100 + rows - 3) + 10_000 * envs
    goals = np.where(rows[:8] < 3, 0, 100) + steps + 1 + 10_000 * envs[:8]
    assert state.tolist() == [*states[8:], *states[:8]]
    assert goal.tolist() == [NO_GOAL, NO_GOAL, *goals]


@pytest.mark.parametrize(("n_sampled_goal", "virtual"), [(0, 0), (1, 5), (4, 8), (99, 9)])
def test_share_of_relabelled_transitions(n_sampled_goal, virtual):
    buffer = make(n_sampled_goal=n_sampled_goal)
    episodes(buffer, 6)
    _, goal, _, _ = columns(buffer.sample(10))
    assert (goal != NO_GOAL).tolist() == [False] * (10 - virtual) + [True] * virtual


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    rest=st.integers(0, 8),
    size=st.integers(9, 30),
    strategy=st.sampled_from(list(GoalSelectionStrategy)),
)
def test_goals_come_from_the_same_complete_episode(lengths, rest, size, strategy):
    buffer = make(size, n_envs=2, goal_selection_strategy=strategy)
    episodes(buffer, *lengths)
    for step in range(rest):
        add(buffer, 100 * len(lengths) + step)
    # Rows of the latest `size` steps hold data; an episode counts if all of it is among those.
    ends = np.cumsum(lengths)
    kept = {k for k, end in enumerate(ends) if end - lengths[k] >= ends[-1] + rest - size}
    if not kept:
        with pytest.raises(RuntimeError, match="before the end of the first episode"):
            buffer.sample(10)
        return
    state, goal, reward, _ = columns(buffer.sample(300))
    states = {100 * k + s + 10_000 * e for k in kept for s in range(lengths[k]) for e in range(2)}
    assert set(state.tolist()) <= states
    state, goal, reward = state[60:], goal[60:], reward[60:]
    # A goal is a state reached by one of the episode's steps, itself the step before plus 1.
    assert set((goal - 1).tolist()) <= states
    assert ((goal - 1) // 100 == state // 100).all()
    assert (reward == -np.abs(state + 1 - goal)).all()
    if strategy is GoalSelectionStrategy.FUTURE:
        assert (goal > state).all()


def test_environments_end_their_episodes_apart():
    buffer = make(n_envs=2, goal_selection_strategy="final")
    add(buffer, 0, done=[False, True])
    add(buffer, 1, done=[False, False])
    assert set(columns(buffer.sample(50))[0].tolist()) == {10_000}
    add(buffer, 2, done=[True, False])
    state, goal, _, _ = columns(buffer.sample(500))
    assert set(zip(state[100:].tolist(), goal[100:].tolist(), strict=True)) == {
        (0, 3),
        (1, 3),
        (2, 3),
        (10_000, 10_001),
    }


def test_an_episode_goes_with_the_first_of_its_rows():
    buffer = make(7)
    episodes(buffer, 3, 4)
    add(buffer, 200)
    assert set(columns(buffer.sample(200))[0].tolist()) == {100, 101, 102, 103}
    assert buffer.ep_length[:, 0].tolist() == [0, 0, 0, 4, 4, 4, 4]


def test_an_episode_across_the_end_of_the_ring():
    buffer = make(5, goal_selection_strategy="final")
    episodes(buffer, 3, 4)
    state, goal, _, _ = columns(buffer.sample(200))
    assert set(state.tolist()) == {100, 101, 102, 103}
    assert set(goal[40:].tolist()) == {104}


@pytest.mark.parametrize(
    ("length", "states", "left"), [(5, range(5), ()), (10, range(5, 10), ()), (7, range(5, 7), (5, 6))]
)
def test_an_episode_as_long_as_the_ring_or_longer(length, states, left):
    buffer = make(5, goal_selection_strategy="final")
    episodes(buffer, length)
    state, goal, _, _ = columns(buffer.sample(200))
    assert set(state.tolist()) == set(states)
    assert set(goal[40:].tolist()) == {length}
    episodes(buffer, 2, start=1)
    assert set(columns(buffer.sample(200))[0].tolist()) == {100, 101, *left}


def test_nothing_to_sample_before_an_episode_has_ended():
    buffer = make()
    add(buffer, 0)
    with pytest.raises(RuntimeError, match="Unable to sample before the end of the first episode"):
        buffer.sample(4)
    add(buffer, 1, done=True)
    assert set(columns(buffer.sample(50))[0].tolist()) == {0, 1}
    buffer.reset()
    with pytest.raises(RuntimeError, match="Unable to sample before the end of the first episode"):
        buffer.sample(4)
    episodes(buffer, 2, start=3)
    assert set(columns(buffer.sample(50))[0].tolist()) == {300, 301}


@pytest.mark.parametrize("handle", [False, True])
def test_time_limits_do_not_count_as_ends(handle):
    buffer = make(handle_timeout_termination=handle)
    add(buffer, 0)
    add(buffer, 1, cut=True)
    state, _, _, done = columns(buffer.sample(100))
    assert (done == ((state == 1) & (not handle))).all()


def test_many_batches_are_many_samples():
    env = DistanceEnv()
    buffer = make(n_envs=3, env=env)
    episodes(buffer, 4, 5, 2)
    np.random.seed(1)  # noqa: NPY002
    one_by_one = [columns(buffer.sample(7)) for _ in range(6)]
    assert len(env.calls) == 6
    np.random.seed(1)  # noqa: NPY002
    at_once = columns(buffer.sample_many(6, 7))
    assert len(env.calls) == 7
    for many, ones in zip(at_once, zip(*one_by_one, strict=True), strict=True):
        assert many.shape == (6, 7)
        assert (many == np.stack(ones)).all()


def test_a_subclass_may_sample_in_its_own_way():
    class Doubling(HerReplayBuffer):
        def sample(self, batch_size, env=None):
            samples = super().sample(batch_size, env)
            return samples._replace(rewards=2 * samples.rewards)

    buffer = Doubling(20, GOALS, ACTION, DistanceEnv(), n_sampled_goal=0)
    episodes(buffer, 4)
    assert (np.asarray(buffer.sample_many(2, 3).rewards) == np.full((2, 3, 1), -14)).all()


@pytest.mark.parametrize("copied", [False, True])
def test_infos_reach_the_reward(copied):
    env = DistanceEnv()
    buffer = make(env=env, copy_info_dict=copied, goal_selection_strategy="final")
    episodes(buffer, 2)
    buffer.sample(50)
    times = {info.get("time") for info in env.calls[0]}
    assert times == ({0, 1} if copied else {None})
    for info in env.calls[0]:
        info["mark"] = True
    # What compute_reward does to its infos stays outside the buffer.
    state, goal, reward, _ = columns(buffer.sample(50))
    assert (reward[10:] == -np.abs(state + 1 - goal)[10:]).all()


def test_normalisation_comes_after_the_reward():
    class Normalize(VecNormalize):
        def __init__(self):
            pass

        def normalize_obs(self, obs):
            return {key: 10 * value for key, value in obs.items()}

        def normalize_reward(self, reward):
            return reward / 100

    buffer = make(goal_selection_strategy="final")
    episodes(buffer, 3)
    samples = buffer.sample(100, env=Normalize())
    state, reward = np.asarray(samples.observations["observation"]), np.asarray(samples.rewards)
    assert (np.asarray(samples.next_observations["desired_goal"])[20:] == 30).all()
    np.testing.assert_allclose(reward[20:], -np.abs(state / 10 + 1 - 3)[20:] / 100, rtol=1e-6)
    np.testing.assert_allclose(reward[:20], -0.07, rtol=1e-6)
    assert samples.rewards.dtype == mx.float32


def test_goals_of_two_types_keep_their_digits():
    goals = spaces.Dict(
        {"achieved_goal": BOX, "desired_goal": spaces.Box(-5, 5, (1,), np.int32), "observation": BOX}
    )
    buffer = HerReplayBuffer(10, goals, ACTION, DistanceEnv(), goal_selection_strategy="final")
    state = np.array([[0.25]], np.float32)
    obs = {"achieved_goal": state, "desired_goal": np.array([[3]]), "observation": state}
    buffer.add(obs, obs, state, np.zeros(1), np.ones(1), [{}])
    assert np.asarray(buffer.sample(5).observations["desired_goal"])[:, 0].tolist() == [3, *[0.25] * 4]


def test_rewards_must_come_one_for_each_goal():
    class Scalar(DistanceEnv):
        def env_method(self, *args, **kwargs):
            return [-1.0]

    buffer = make(env=Scalar())
    episodes(buffer, 3)
    with pytest.raises(ValueError, match=r"shape \(\) for 8 goals"):
        buffer.sample(10)


def test_a_failed_add_changes_nothing():
    buffer = make(4, copy_info_dict=True)
    episodes(buffer, 4)
    state = np.zeros((1, 1), np.float32)
    obs = {"observation": state, "achieved_goal": state, "desired_goal": state}
    with pytest.raises(ValueError, match="action has shape"):
        buffer.add(obs, obs, np.zeros((1, 3)), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(ValueError, match="infos has 2 entries"):
        buffer.add(obs, obs, state, np.zeros(1), np.zeros(1), [{}, {}])
    assert set(columns(buffer.sample(100))[0].tolist()) == {0, 1, 2, 3}


def test_bad_arguments():
    with pytest.raises(KeyError, match="past"):
        make(goal_selection_strategy="past")
    with pytest.raises(AssertionError, match="Invalid goal selection strategy"):
        make(goal_selection_strategy=2)
    with pytest.raises(ValueError, match="n_sampled_goal is -1"):
        make(n_sampled_goal=-1)
    with pytest.raises(AssertionError, match="optimize_memory_usage"):
        make(optimize_memory_usage=True)
    with pytest.raises(AssertionError, match="Dict"):
        HerReplayBuffer(10, BOX, ACTION, DistanceEnv())
    with pytest.raises(ValueError, match="needs 'desired_goal'"):
        HerReplayBuffer(10, spaces.Dict({"achieved_goal": BOX}), ACTION, DistanceEnv())
    other = spaces.Dict({"achieved_goal": BOX, "desired_goal": spaces.Box(0, 1, (2,))})
    with pytest.raises(ValueError, match=r"achieved_goal has shape \(1,\) and desired_goal \(2,\)"):
        HerReplayBuffer(10, other, ACTION, DistanceEnv())
    buffer = make()
    episodes(buffer, 2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        buffer.sample(0)
    with pytest.raises(ValueError, match="n_batches is 0"):
        buffer.sample_many(0, 3)


def test_names_of_the_strategies():
    assert {key: strategy.value for key, strategy in KEY_TO_GOAL_STRATEGY.items()} == {
        "future": 0,
        "final": 1,
        "episode": 2,
    }
    assert make(goal_selection_strategy="FINAL").goal_selection_strategy is GoalSelectionStrategy.FINAL
