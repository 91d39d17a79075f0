"""
The native environments against Gymnasium's: every number of ``make_vec_env``, bit for bit.

Both call the C library for sine and cosine wherever NumPy does. Where a NumPy has its own, the test finds
that out first, aligns the two at every step and allows two units in the last place; nothing else may differ.
"""

import functools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv

IDS = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
FULL = 10_000
ULPS = 2


@functools.cache
def numpy_calls_the_c_library() -> bool:
    """Whether NumPy's float64 sine and cosine are the C library's, as Python's and Rust's are."""
    angles = np.random.default_rng(0).uniform(-40, 40, 20_000)
    return all(
        np.array_equal(ours(angles), [theirs(angle) for angle in angles.tolist()])
        for ours, theirs in ((np.sin, math.sin), (np.cos, math.cos))
    )


def draw_actions(env: VecEnv, steps: int, seed: int, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if env.action_space.shape == ():
        return rng.integers(env.action_space.n, size=(steps, env.num_envs))
    high = env.action_space.high[0]
    # Past the bounds on both sides: Gymnasium clips inside the environment.
    return rng.uniform(-1.3 * high, 1.3 * high, size=(steps, env.num_envs, 1)).astype(dtype)


def assert_same_bits(native: np.ndarray, gymnasium: np.ndarray, where: str) -> None:
    assert native.dtype == gymnasium.dtype, where
    assert native.shape == gymnasium.shape, where
    assert native.tobytes() == gymnasium.tobytes(), f"{where}: {native} != {gymnasium}"


def assert_same_infos(native: list[dict[str, Any]], gymnasium: list[dict[str, Any]], where: str) -> int:
    ended = 0
    for mine, theirs in zip(native, gymnasium, strict=True):
        assert list(mine) == list(theirs), where
        assert mine["TimeLimit.truncated"] is theirs["TimeLimit.truncated"], where
        if "episode" in theirs:
            ended += 1
            assert list(mine["episode"]) == list(theirs["episode"]) == ["r", "l", "t"]
            assert mine["episode"]["r"] == theirs["episode"]["r"], where
            assert mine["episode"]["l"] == theirs["episode"]["l"], where
            assert_same_bits(mine["terminal_observation"], theirs["terminal_observation"], where)
    return ended


def align(native: VecEnv, gymnasium: VecEnv) -> None:
    for env, state in zip(gymnasium.envs, native.get_attr("state"), strict=True):
        env.unwrapped.state = state


def assert_close(native: np.ndarray, gymnasium: np.ndarray, where: str) -> None:
    assert native.dtype == gymnasium.dtype, where
    # Where both cross zero a difference of one last place of the state is many of the observation's.
    spacing = np.maximum(np.spacing(np.abs(gymnasium)), np.finfo(np.float32).eps * 1e-3)
    assert np.all(np.abs(native - gymnasium) <= ULPS * spacing), f"{where}: {native} != {gymnasium}"


def compare_aligned(native: VecEnv, gymnasium: VecEnv, actions: np.ndarray, where: str) -> int:
    """As ``compare``, from the same state at every step and within ``ULPS``."""
    ended = 0
    for step, action in enumerate(actions):
        here = f"{where}, step {step}"
        align(native, gymnasium)
        mine, theirs = native.step(action), gymnasium.step(action)
        assert_close(mine[0], theirs[0], here)
        assert_close(mine[1], theirs[1], here)
        assert_same_bits(mine[2], theirs[2], here)
        for i in np.flatnonzero(mine[2]):
            ended += 1
            assert mine[3][i]["TimeLimit.truncated"] is theirs[3][i]["TimeLimit.truncated"], here
            assert_close(mine[3][i]["terminal_observation"], theirs[3][i]["terminal_observation"], here)
    return ended


def compare(native: VecEnv, gymnasium: VecEnv, actions: np.ndarray, where: str) -> int:
    """Step both through the same actions; the number of episodes that ended."""
    if not numpy_calls_the_c_library():
        return compare_aligned(native, gymnasium, actions, where)
    ended = 0
    for step, action in enumerate(actions):
        here = f"{where}, step {step}"
        mine, theirs = native.step(action), gymnasium.step(action)
        for i in range(3):
            if mine[i].tobytes() != theirs[i].tobytes():
                assert_same_bits(mine[i], theirs[i], here)
        ended += assert_same_infos(mine[3], theirs[3], here)
    return ended


def run(env_id: str, n_envs: int, seed: int, steps: int, dtype: Any = np.float32, **env_kwargs: Any) -> int:
    native = NativeVecEnv(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)
    gymnasium = make_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs)
    where = f"{env_id}, {n_envs} envs, seed {seed}"
    assert native.observation_space == gymnasium.observation_space
    assert native.action_space == gymnasium.action_space
    assert_same_bits(native.reset(), gymnasium.reset(), where)
    return compare(native, gymnasium, draw_actions(native, steps, seed + 1, dtype), where)


@pytest.mark.parametrize("n_envs", [1, 8])
@pytest.mark.parametrize("env_id", IDS)
def test_ten_thousand_steps(env_id: str, n_envs: int) -> None:
    # No episode is longer than MountainCarContinuous's 999 steps.
    assert run(env_id, n_envs, 0, FULL) >= n_envs * (FULL // 999)


@pytest.mark.parametrize("env_id", IDS)
def test_aligned_steps(env_id: str) -> None:
    native, gymnasium = NativeVecEnv(env_id, 2, seed=1), make_vec_env(env_id, 2, seed=1)
    assert_close(native.reset(), gymnasium.reset(), env_id)
    compare_aligned(native, gymnasium, draw_actions(native, 300, 2), env_id)


@pytest.mark.parametrize("seed", [1, 42, 2**32 - 1, 2**32, 2**70 + 3])
@pytest.mark.parametrize("env_id", IDS)
def test_other_seeds(env_id: str, seed: int) -> None:
    native = NativeVecEnv(env_id, 2)
    gymnasium = make_vec_env(env_id, 2)
    assert native.seed(seed) == gymnasium.seed(seed) == [seed, seed + 1]
    assert_same_bits(native.reset(), gymnasium.reset(), f"{env_id}, seed {seed}")
    assert compare(native, gymnasium, draw_actions(native, 250, 3), f"{env_id}, seed {seed}") >= 0


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_float64_actions_keep_their_precision(env_id: str) -> None:
    assert run(env_id, 3, 5, 1100, np.float64) >= 3


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_integer_dtypes(env_id: str, dtype: Any) -> None:
    native, gymnasium = NativeVecEnv(env_id, 2, seed=9), make_vec_env(env_id, 2, seed=9)
    assert_same_bits(native.reset(), gymnasium.reset(), env_id)
    compare(native, gymnasium, draw_actions(native, 40, 2).astype(dtype), env_id)


def test_second_reset_continues_the_generators() -> None:
    for env_id in IDS:
        native, gymnasium = NativeVecEnv(env_id, 3, seed=4), make_vec_env(env_id, 3, seed=4)
        for episode in range(3):
            where = f"{env_id}, reset {episode}"
            assert_same_bits(native.reset(), gymnasium.reset(), where)
            compare(native, gymnasium, draw_actions(native, 5, episode), where)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, of observations out of bounds
@pytest.mark.parametrize("env_id", IDS)
def test_reset_options(env_id: str) -> None:
    native, gymnasium = NativeVecEnv(env_id, 2, seed=6), make_vec_env(env_id, 2, seed=6)
    # Acrobot's float32 cosine is NumPy's own in every quadrant.
    pendulum = env_id == "Pendulum-v1"
    options = {"x_init": 0.5, "y_init": 0.25} if pendulum else {"low": -3.3, "high": 3.1}
    if "Car" in env_id:
        options = {"low": -0.9}
    for env in (native, gymnasium):
        env.set_options(options)
    where = f"{env_id} with {options}"
    assert_same_bits(native.reset(), gymnasium.reset(), where)
    # The options are used once: the second reset draws from the usual range.
    assert_same_bits(native.reset(), gymnasium.reset(), where)


CHANGED = [
    ("Pendulum-v1", {"g": 9.81}),
    ("MountainCar-v0", {"goal_velocity": 0.01}),
    ("MountainCarContinuous-v0", {"goal_velocity": 0.02}),
    ("Acrobot-v1", {"max_episode_steps": 37}),
]
GYMNASIUM_1 = not gym.__version__.startswith("0.")
if GYMNASIUM_1:
    CHANGED.append(("CartPole-v1", {"sutton_barto_reward": True}))


@pytest.mark.parametrize(("env_id", "env_kwargs"), CHANGED)
def test_env_kwargs(env_id: str, env_kwargs: dict[str, Any]) -> None:
    run(env_id, 2, 8, 300, **env_kwargs)


CONSTANTS = [
    ("CartPole-v1", {"gravity": 3.7, "length": 0.8, "force_mag": 7.0, "x_threshold": 0.3}),
    ("CartPole-v1", {"kinematics_integrator": "semi-implicit"}),
    ("Pendulum-v1", {"m": 1.3, "l": 0.7, "max_speed": 5, "max_torque": 1.7, "dt": 0.04}),
    ("Acrobot-v1", {"book_or_nips": "nips", "LINK_MASS_2": 0.9, "dt": 0.1}),
    ("Acrobot-v1", {"LINK_LENGTH_1": 1.3, "LINK_COM_POS_1": 0.61, "LINK_COM_POS_2": 0.37}),
    ("Acrobot-v1", {"torque_noise_max": 0.3}),
    ("MountainCar-v0", {"force": 0.003, "gravity": 0.002, "goal_position": 0.2}),
    ("MountainCarContinuous-v0", {"power": 0.004, "max_speed": 0.05, "min_position": -1.1}),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, of observations out of bounds
@pytest.mark.parametrize(("env_id", "constants"), CONSTANTS)
def test_set_attr_reaches_the_physics(env_id: str, constants: dict[str, Any]) -> None:
    native, gymnasium = NativeVecEnv(env_id, 2, seed=3), make_vec_env(env_id, 2, seed=3)
    for name, value in constants.items():
        native.set_attr(name, value)
        for env in gymnasium.envs:
            setattr(env.unwrapped, name, value)
        assert native.get_attr(name) == [value, value]
    where = f"{env_id} with {constants}"
    assert_same_bits(native.reset(), gymnasium.reset(), where)
    compare(native, gymnasium, draw_actions(native, 300, 5), where)


@pytest.mark.parametrize("env_id", IDS)
def test_a_method_steps_and_resets_on_the_shared_state(env_id: str) -> None:
    native, gymnasium = NativeVecEnv(env_id, 2, seed=2), make_vec_env(env_id, 2, seed=2)
    assert_same_bits(native.reset(), gymnasium.reset(), env_id)
    actions = draw_actions(native, 30, 7)
    compare(native, gymnasium, actions[:10], env_id)
    mine, theirs = (env.env_method("step", actions[10][1], indices=1)[0] for env in (native, gymnasium))
    assert_same_bits(np.asarray(mine[0]), np.asarray(theirs[0]), env_id)
    assert float(mine[1]) == float(theirs[1])
    compare(native, gymnasium, actions[11:20], env_id)
    mine, theirs = (env.env_method("reset", indices=[0])[0] for env in (native, gymnasium))
    assert_same_bits(np.asarray(mine[0]), np.asarray(theirs[0]), env_id)
    compare(native, gymnasium, actions[20:], env_id)
    for mine, theirs in zip(native.get_attr("state"), gymnasium.get_attr("state"), strict=True):
        assert type(mine) is type(theirs)
        assert np.asarray(mine).dtype == np.asarray(theirs).dtype
        assert np.array_equal(mine, theirs)
    if GYMNASIUM_1:
        assert native.get_attr("np_random_seed") == gymnasium.get_attr("np_random_seed")
    assert native.get_attr("_elapsed_steps") == gymnasium.get_attr("_elapsed_steps")
