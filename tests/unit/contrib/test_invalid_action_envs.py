"""The environments with forbidden actions."""

import gymnasium as gym
import numpy as np
import pytest

from mlx_baselines3.common.vec_env import NativeVecEnv
from mlx_baselines3.contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
    SeededInvalidActionEnv,
)

NATIVE = "mlx_baselines3/InvalidAction-v0"
ENVS = {
    "discrete": (InvalidActionEnvDiscrete, {"dim": 6, "n_invalid_actions": 4}),
    "multi_discrete": (InvalidActionEnvMultiDiscrete, {"dims": [3, 2, 4], "n_invalid_actions": 5}),
    "multi_binary": (InvalidActionEnvMultiBinary, {"dims": 4, "n_invalid_actions": 3}),
}


def right_choices(env, state):
    """The places in the mask of the action that gives the reward."""
    if isinstance(env, InvalidActionEnvDiscrete):
        return [int(state)]
    sizes = env.action_space.nvec if isinstance(env, InvalidActionEnvMultiDiscrete) else [2] * env.n_dims
    return (np.cumsum(sizes) - sizes + state).tolist()


@pytest.mark.parametrize("name", ENVS)
def test_the_right_action_is_allowed_and_as_many_others_forbidden_as_asked_for(name):
    kind, kwargs = ENVS[name]
    env = kind(ep_length=7, **kwargs)
    state, _ = env.reset()
    for step in range(1, 15):
        mask = np.array(env.action_masks())
        assert (~mask).sum() == kwargs["n_invalid_actions"]
        assert mask[right_choices(env, state)].all()
        state, reward, terminated, truncated, _ = env.step(state)
        assert (reward, terminated, truncated) == (1.0, False, step >= 7)


# What sb3-contrib 2.9.2 gives with these seeds.
def test_one_seed_gives_contribs_episodes():
    np.random.seed(3)  # noqa: NPY002 - the generator of the environment
    env = InvalidActionEnvDiscrete(dim=5, n_invalid_actions=2)
    env.action_space.seed(1)
    seen = []
    for _ in range(3):
        state, _ = env.reset()
        seen.append((int(state), env.action_masks()))
    expected = gym.spaces.Discrete(5, seed=1)
    np.random.seed(3)  # noqa: NPY002
    np.random.choice([0, 1, 2, 3], 2, replace=False)  # noqa: NPY002 - the constructor's, of four candidates
    for state, mask in seen:
        assert state == expected.sample()
        others = [choice for choice in range(5) if choice != state]
        forbidden = np.random.choice(others, 2, replace=False)  # noqa: NPY002
        assert [choice for choice in range(5) if not mask[choice]] == sorted(forbidden.tolist())


@pytest.mark.parametrize(
    ("kind", "kwargs", "error", "says"),
    [
        (InvalidActionEnvDiscrete, {"dim": 3, "n_invalid_actions": 3}, AssertionError, "less than dim=3"),
        (InvalidActionEnvMultiDiscrete, {"dims": [2, 3], "n_invalid_actions": 4}, ValueError, "<= 3"),
        (InvalidActionEnvMultiBinary, {"dims": 2, "n_invalid_actions": 3}, ValueError, "<= 2"),
        (SeededInvalidActionEnv, {"n_invalid_actions": 80}, ValueError, "0 to 79"),
    ],
)
def test_environments_without_a_choice_are_refused(kind, kwargs, error, says):
    with pytest.raises(error, match=says):
        kind(**kwargs)


@pytest.mark.parametrize("n_invalid_actions", [60, 0, 79])
def test_the_native_environment_is_the_python_one_bit_for_bit(n_invalid_actions):
    kwargs = {"n_invalid_actions": n_invalid_actions}
    native = NativeVecEnv(NATIVE, n_envs=3, seed=11, env_kwargs=kwargs)
    envs = [gym.make(NATIVE, **kwargs) for _ in range(3)]
    observations = [env.reset(seed=11 + i)[0] for i, env in enumerate(envs)]
    np.testing.assert_array_equal(native.reset(), observations)
    rng = np.random.default_rng(0)
    for step in range(230):
        masks = [env.get_wrapper_attr("action_masks")() for env in envs]
        np.testing.assert_array_equal(native.env_method("action_masks"), masks)
        # Now and then the right one.
        actions = np.where(rng.random(3) < 0.3, np.argmax(observations, axis=1), rng.integers(80, size=3))
        seen, rewards, dones, infos = native.step(actions)
        for i, env in enumerate(envs):
            obs, reward, terminated, truncated, _ = env.step(actions[i])
            assert (reward, terminated, truncated) == (rewards[i], False, dones[i])
            assert bool(dones[i]) == (step % 100 == 99)
            if truncated:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], obs)
                obs, _ = env.reset()
            observations[i] = obs
        np.testing.assert_array_equal(seen, observations)


def test_a_native_environment_continues_from_its_state():
    env = NativeVecEnv(NATIVE, n_envs=2, seed=4)
    env.reset()
    state = env.get_state()
    after = [env.step(np.array([1, 2]))[0], np.stack(env.env_method("action_masks"))]
    env.set_state(state)
    np.testing.assert_array_equal(env.step(np.array([1, 2]))[0], after[0])
    np.testing.assert_array_equal(env.env_method("action_masks"), after[1])
    other = NativeVecEnv(NATIVE, n_envs=2)
    other.set_state(state)
    np.testing.assert_array_equal(other.step(np.array([1, 2]))[0], after[0])
    state["envs"][0]["state"][0] = 80.0
    with pytest.raises(ValueError, match="corrupted"):
        other.set_state(state)


def test_attributes_and_methods_come_from_the_python_environment():
    env = NativeVecEnv(NATIVE, n_envs=2, seed=4)
    obs = env.reset()
    assert env.get_attr("N_ACTIONS") == [80, 80]
    masks = [state[1:].astype(bool) for state in env.get_attr("state")]
    np.testing.assert_array_equal(env.env_method("action_masks"), masks)
    np.testing.assert_array_equal(env.env_method("action_masks", indices=1), masks[1:])
    assert [int(state[0]) for state in env.get_attr("state")] == obs.argmax(axis=1).tolist()
    env.set_attr("n_invalid_actions", 3)
    env.step(np.array([0, 0]))
    assert np.stack(env.env_method("action_masks")).sum(axis=1).tolist() == [77, 77]
