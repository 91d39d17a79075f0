"""``NativeVecEnv`` as a ``VecEnv``: errors, attributes, rendering, copies, monitor files."""

import copy
import csv
import json
import pathlib
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import VecFrameStack, VecNormalize
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv

IDS = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]


def actions_for(env: NativeVecEnv) -> np.ndarray:
    discrete = env.action_space.shape == ()
    return np.ones(env.num_envs, np.int64) if discrete else np.full((env.num_envs, 1), 0.5, np.float32)


def made(env_id: str = "CartPole-v1", n_envs: int = 2, seed: int = 0, **kwargs: Any) -> NativeVecEnv:
    env = NativeVecEnv(env_id, n_envs, seed=seed, **kwargs)
    env.reset()
    return env


BAD_ACTIONS = [
    ("CartPole-v1", np.array([0, 2]), r"action 2 of environment 1 .* 0 to 1"),
    ("CartPole-v1", np.array([-1, 0]), r"action -1 of environment 0 .* 0 to 1"),
    ("CartPole-v1", np.array([0]), r"shape \(1,\), expected integers of shape \(2,\)"),
    ("CartPole-v1", np.array([0, 1, 1]), r"shape \(3,\), expected integers of shape \(2,\)"),
    ("CartPole-v1", np.array([[0], [1]]), r"shape \(2, 1\), expected integers of shape \(2,\)"),
    ("CartPole-v1", np.array([0.0, 1.0]), r"dtype float64 and shape \(2,\), expected integers"),
    ("CartPole-v1", np.array([True, False]), r"dtype bool .* expected integers"),
    ("CartPole-v1", None, r"dtype object .* expected integers"),
    ("Pendulum-v1", np.array([[0.5], [np.nan]], np.float32), r"action NaN of environment 1 is not a finite"),
    ("Pendulum-v1", np.array([[np.inf], [0.0]]), r"action inf of environment 0 is not a finite"),
    ("Pendulum-v1", np.zeros(2, np.float32), r"shape \(2,\), expected float.* of shape \(2, 1\)"),
    ("Pendulum-v1", np.zeros((2, 1), np.complex64), r"dtype complex64 .* expected float32 or float64"),
    ("Pendulum-v1", np.zeros((2, 1), np.float16), r"dtype float16 .* expected float32 or float64"),
    ("Pendulum-v1", [["a"], ["b"]], r"expected float32 or float64"),
]  # fmt: skip


@pytest.mark.parametrize(("env_id", "actions", "message"), BAD_ACTIONS)
def test_a_bad_action_is_named_and_moves_nothing(env_id: str, actions: Any, message: str) -> None:
    env, untouched = made(env_id), made(env_id)
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert env.get_state()["envs"] == untouched.get_state()["envs"]
    good = actions_for(env)
    assert np.array_equal(env.step(good)[0], untouched.step(good)[0])


def test_stepping_too_early_and_too_late() -> None:
    env = NativeVecEnv("CartPole-v1", 2, seed=0)
    with pytest.raises(RuntimeError, match=r"environment 0 was stepped before its first reset"):
        env.step(np.array([0, 1]))
    env.reset()
    env.step(np.array([0, 1]))
    with pytest.raises(RuntimeError, match=r"step_async"):
        env.step_wait()
    env.close()
    env.close()
    for late in (env.reset, lambda: env.step(np.array([0, 1]))):
        with pytest.raises(RuntimeError, match="closed"):
            late()
    assert env.get_attr("gravity") == [9.8, 9.8]


def test_what_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="n_envs is 0"):
        NativeVecEnv("CartPole-v1", 0)
    with pytest.raises(ValueError, match=r"no native environment 'LunarLander-v3'.*CartPole-v1"):
        NativeVecEnv("LunarLander-v3")
    with pytest.raises(TypeError, match="gravitation"):
        NativeVecEnv("CartPole-v1", env_kwargs={"gravitation": 3})
    with pytest.raises(ValueError, match="g is 'heavy', expected a number"):
        NativeVecEnv("Pendulum-v1", env_kwargs={"g": "heavy"})


def test_supports_only_what_gymnasium_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(NativeVecEnv.supports(env_id) for env_id in IDS)
    assert not NativeVecEnv.supports("CartPole-v0")
    assert not NativeVecEnv.supports("no such thing")
    shipped = gym.registry["CartPole-v1"]
    changes: list[dict[str, Any]] = [
        {"max_episode_steps": 77},
        {"entry_point": "mine:CartPole"},
        {"kwargs": {"render_mode": "human"}},
    ]
    for change in changes:
        changed = copy.deepcopy(shipped)
        for name, value in change.items():
            setattr(changed, name, value)
        monkeypatch.setitem(gym.registry, "CartPole-v1", changed)
        assert not NativeVecEnv.supports("CartPole-v1"), change
        with pytest.raises(ValueError, match="registered differently than Gymnasium ships it"):
            NativeVecEnv("CartPole-v1")


def test_step_returns_new_arrays_and_infos() -> None:
    env = made(n_envs=3)
    first, second = env.step(np.array([0, 1, 0])), env.step(np.array([0, 1, 0]))
    kept = first[0].copy()
    assert not any(np.shares_memory(a, b) for a, b in zip(first[:3], second[:3], strict=True))
    assert np.array_equal(first[0], kept)
    assert first[3] == [{"TimeLimit.truncated": False}] * 3
    assert len({id(info) for info in first[3] + second[3]}) == 6
    first[3][0]["mine"] = 1
    assert "mine" not in first[3][1]


def test_lists_and_strided_arrays_are_actions_too() -> None:
    reference = made("Pendulum-v1", 3).step(np.array([[0.5], [1.0], [-1.0]]))[0]
    wide = np.array([[0.5, 9.0], [1.0, 9.0], [-1.0, 9.0]])
    assert np.array_equal(made("Pendulum-v1", 3).step(wide[:, :1])[0], reference)
    assert np.array_equal(made("Pendulum-v1", 3).step([[0.5], [1.0], [-1.0]])[0], reference)
    cart = made(n_envs=2).step(np.array([0, 1]))[0]
    assert np.array_equal(made(n_envs=2).step([0, 1])[0], cart)
    assert np.array_equal(made(n_envs=2).step(np.array([0, 9, 1, 9])[::2])[0], cart)


def test_without_a_seed_every_environment_is_different() -> None:
    observations = [NativeVecEnv("CartPole-v1", 4).reset() for _ in range(2)]
    assert len(np.unique(np.concatenate(observations), axis=0)) == 8


def test_seeding() -> None:
    env = NativeVecEnv("CartPole-v1", 2)
    assert env.seed(5) == [5, 6]
    shifted = NativeVecEnv("CartPole-v1", 2, seed=6).reset()
    assert np.array_equal(env.reset()[1], shifted[0])
    env.seed(-3)
    with pytest.raises(ValueError, match="-3, expected 0 or more"):
        env.reset()
    env.seed(5)
    assert np.array_equal(env.reset()[1], shifted[0])
    with_space = NativeVecEnv("CartPole-v1", seed=11)
    other = make_vec_env("CartPole-v1", seed=11)
    draws = [[e.action_space.sample() for _ in range(20)] for e in (with_space, other)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPole-v1", {"low": 1, "high": 0}, "finite, non-empty range"),
        ("CartPole-v1", {"low": "a"}, "not numbers"),
        ("Acrobot-v1", {"high": float("inf")}, "finite, non-empty range"),
        ("Pendulum-v1", {"x_init": -1}, "finite, non-empty range"),
    ],
)
def test_bad_options(env_id: str, options: Any, message: str) -> None:
    env = made(env_id)
    env.set_options(options)
    with pytest.raises(ValueError, match=message):
        env.reset()
    env.set_options(None)
    assert np.isfinite(env.reset()).all()


def test_time_limit() -> None:
    env = made("Pendulum-v1", env_kwargs={"max_episode_steps": 3})
    outcomes = [env.step(actions_for(env)) for _ in range(6)]
    assert [list(outcome[2]) for outcome in outcomes] == [[False] * 2, [False] * 2, [True] * 2] * 2
    assert outcomes[2][3][0]["TimeLimit.truncated"] is True
    env.set_attr("max_episode_steps", 1)
    assert env.step(actions_for(env))[2].all()
    with pytest.raises(ValueError, match="one for all environments"):
        env.set_attr("max_episode_steps", 5, indices=0)
    with pytest.raises(ValueError, match="at least 1"):
        env.set_attr("max_episode_steps", 0)
    # Gymnasium 1 takes -1 for no limit; before, it is a limit that every step has reached.
    minus_one = made("Pendulum-v1", env_kwargs={"max_episode_steps": -1})
    ended = [minus_one.step(actions_for(minus_one))[2].any() for _ in range(250)]
    assert set(ended) == {gym.__version__.startswith("0.")}


def test_attributes() -> None:
    env = made(n_envs=3)
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("spec", indices=[1])[0].id == "CartPole-v1"
    env.set_attr("gravity", 1.5, indices=[0, 2])
    assert env.get_attr("gravity") == [1.5, 9.8, 1.5]
    env.set_attr("note", {"a": 1}, indices=1)
    assert env.get_attr("note", indices=1) == [{"a": 1}]
    assert env.has_attr("gravity")
    assert not env.has_attr("note")
    assert not env.has_attr("nonsense")
    for name in ("screen_width", "masscart", "render_mode", "action_space"):
        with pytest.raises(ValueError, match=f"{name} of the native CartPole-v1 cannot be changed"):
            env.set_attr(name, 3)
    with pytest.raises(ValueError, match="gravity is 'down', expected a number"):
        env.set_attr("gravity", "down")
    with pytest.raises(ValueError, match="gravity is NaN"):
        env.set_attr("gravity", float("nan"))
    assert env.get_attr("gravity") == [1.5, 9.8, 1.5]
    with pytest.raises(AttributeError, match="stores no history of episodes"):
        env.env_method("get_episode_rewards")
    with pytest.raises(IndexError):
        env.get_attr("gravity", indices=3)


def test_setting_the_state() -> None:
    env = made(n_envs=2)
    state = np.array([0.1, 0.2, 0.03, 0.04])
    env.set_attr("state", state, indices=1)
    obs = env.step(np.array([1, 1]))[0]
    # x + tau * x_dot, theta + tau * theta_dot
    assert obs[1, [0, 2]] == pytest.approx([0.1 + 0.02 * 0.2, 0.03 + 0.02 * 0.04], abs=1e-7)
    with pytest.raises(ValueError, match="3 numbers"):
        env.set_attr("state", state[:3])


def test_wrappers() -> None:
    env = made(n_envs=2)
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(TimeLimit, indices=0) == [True]
    assert env.env_is_wrapped(gym.wrappers.RecordEpisodeStatistics) == [False, False]
    assert env.unwrapped is env
    normalised = VecNormalize(made(n_envs=2))
    assert normalised.reset().shape == (2, 4)
    assert normalised.step(np.array([0, 1]))[0].dtype == np.float32


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_exactly(env_id: str, duplicate: Any) -> None:
    env = made(env_id, 3, seed=2, env_kwargs={"max_episode_steps": 20})
    env.set_attr(
        {"CartPole-v1": "gravity", "Pendulum-v1": "g", "Acrobot-v1": "dt"}.get(env_id, "max_speed"), 0.06
    )
    env.set_attr("note", "kept")
    for _ in range(13):
        env.step(actions_for(env))
    twin = duplicate(env)
    assert twin.get_attr("note") == ["kept"] * 3
    assert twin.get_state() == env.get_state()
    for _ in range(45):
        mine, theirs = env.step(actions_for(env)), twin.step(actions_for(env))
        assert all(np.array_equal(a, b) for a, b in zip(mine[:3], theirs[:3], strict=True))
        returns = [
            [info["episode"]["r"] for info in infos if "episode" in info] for infos in (mine[3], theirs[3])
        ]
        assert returns[0] == returns[1]
    assert np.array_equal(env.reset(), twin.reset())


def test_a_copy_before_the_first_reset_keeps_the_seed() -> None:
    env = NativeVecEnv("CartPole-v1", 2, seed=3)
    env.set_options({"low": -0.01, "high": 0.01})
    assert np.array_equal(copy.deepcopy(env).reset(), env.reset())
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        copy.deepcopy(env).reset()


def test_state_is_json_and_is_checked() -> None:
    env = made("Acrobot-v1")
    env.step(actions_for(env))
    saved = json.loads(json.dumps(env.get_state()))
    ahead = [env.step(actions_for(env))[0] for _ in range(5)]
    env.set_state(saved)
    assert all(np.array_equal(env.step(actions_for(env))[0], obs) for obs in ahead)
    before = env.get_state()
    corrupted = copy.deepcopy(saved)
    del corrupted["envs"][1]["rng"]
    short = copy.deepcopy(saved)
    short["envs"][1]["state"] = [0.0]
    for bad in (
        corrupted,
        short,
        {**saved, "version": 0},
        {**saved, "env_id": "CartPole-v1"},
        {**saved, "envs": []},
    ):
        with pytest.raises(ValueError, match="saved state"):
            env.set_state(bad)
        assert env.get_state() == before


@pytest.mark.parametrize("env_id", IDS)
def test_rendering_is_gymnasiums(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    native = made(env_id, 2, render_mode="rgb_array")
    gymnasium = make_vec_env(env_id, 2, seed=0)
    gymnasium.reset()
    for env in (native, gymnasium):
        env.step(actions_for(native))
    images = native.get_images()
    for mine, theirs in zip(images, gymnasium.get_images(), strict=True):
        assert mine.dtype == np.uint8
        assert np.array_equal(mine, theirs)
    assert np.array_equal(native.render(), gymnasium.render())
    assert native.metadata == gymnasium.metadata
    native.close()
    gymnasium.close()


def test_human_rendering_follows_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = NativeVecEnv("MountainCar-v0", 1, seed=0, render_mode="human")
    env.reset()
    before = env._counterparts[0].base.state[0]
    for _ in range(3):
        env.step(np.array([2]))
    assert env._counterparts[0].base.screen is not None
    assert env._counterparts[0].base.state[0] != before
    env.close()


def test_monitor_files(tmp_path: pathlib.Path) -> None:
    env = made(n_envs=2, monitor_dir=str(tmp_path / "logs"))
    episodes: list[list[dict[str, Any]]] = [[], []]
    for _ in range(60):
        for env_episodes, info in zip(episodes, env.step(np.array([0, 1]))[3], strict=True):
            env_episodes += [info["episode"]] if "episode" in info else []
    copied = pickle.loads(pickle.dumps(env))
    env.close()
    for _ in range(12):
        for env_episodes, info in zip(episodes, copied.step(np.array([0, 1]))[3], strict=True):
            env_episodes += [info["episode"]] if "episode" in info else []
    copied.close()
    for i in range(2):
        lines = (tmp_path / "logs" / f"{i}.monitor.csv").read_text().splitlines()
        header = json.loads(lines[0][1:])
        assert header["env_id"] == "CartPole-v1"
        assert header["t_start"] == env.get_state()["t_start"]
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines[1:])]
        assert rows == episodes[i]
        assert len(rows) >= 6


@pytest.fixture
def no_forced_switches() -> Iterator[None]:
    """A thread loses the GIL only when it gives it up."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("no_forced_switches")
def test_stepping_lets_other_threads_run() -> None:
    # A step takes several times as long as the thread sleeps, on a fast machine too.
    env = made("Acrobot-v1", 800_000)
    actions = actions_for(env)

    def runs_meanwhile() -> bool:
        order, go = [], threading.Event()

        def answer() -> None:
            go.wait()
            # NumPy, too, gives the GIL up for a moment, when it allocates the arrays at the start of a step.
            time.sleep(0.02)
            order.append("thread")

        thread = threading.Thread(target=answer)
        thread.start()
        go.set()
        env.step(actions)
        order.append("step")
        thread.join()
        return order == ["thread", "step"]

    # A busy machine may wake the thread too late, but with the GIL held it would never run.
    assert any(runs_meanwhile() for _ in range(20))


def test_two_threads_on_one_batch_get_an_error_not_a_crash() -> None:
    env = made("Acrobot-v1", 50_000)
    actions, outcomes = actions_for(env), []

    def step() -> None:
        try:
            outcomes.append(env.step(actions)[0].shape)
        except RuntimeError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=step) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (50_000, 6) in outcomes
    assert all(outcome == (50_000, 6) or "borrowed" in outcome for outcome in outcomes)
    assert env.step(actions)[0].shape == (50_000, 6)


@pytest.mark.parametrize("wrapper", [lambda env: env, VecNormalize, VecFrameStack])
def test_what_dummy_vec_env_keeps_in_python_is_named(wrapper):
    """``envs[0]`` is common in programs for SB3; the message says what there is instead."""
    made = NativeVecEnv("CartPole-v1", 2)
    env = wrapper(made) if wrapper is not VecFrameStack else VecFrameStack(made, 2)
    for name in ("envs", "buf_obs", "buf_infos"):
        assert not hasattr(env, name)
        with pytest.raises(AttributeError, match=rf"no attribute '{name}': .*get_attr\(\).*NATIVE_ENVS=0"):
            getattr(env, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = env.nonsense
    copy.deepcopy(made)
