"""Threads of the native core: the same numbers on any number of them, and children that do not hang."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mlx_baselines3 import PPO, _native
from mlx_baselines3.common.vec_env import SubprocVecEnv
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv

# Enough that the work is cut: 450 ns a step, 100 us a part.
N_ENVS = 1000
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    _native.set_threads(2)
    yield
    _native.set_threads(None)


def made() -> NativeVecEnv:
    envs = NativeVecEnv("Acrobot-v1", N_ENVS, seed=0)
    envs.reset()
    return envs


def total(envs: NativeVecEnv) -> float:
    actions = np.arange(N_ENVS) % 3
    return float(sum(envs.step(actions)[0].astype(np.float64).sum() for _ in range(5)))


def answer(queue: Any, envs: NativeVecEnv) -> None:
    queue.put(total(envs))


def one_thread(envs: NativeVecEnv) -> float:
    _native.set_threads(1)
    expected = total(copy.deepcopy(envs))
    _native.set_threads(2)
    return expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_goes_on_with_its_own_threads(method: str) -> None:
    envs = made()
    total(envs)
    expected = one_thread(envs)
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=answer, args=(queue, envs))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
    assert total(envs) == expected


def test_a_child_of_a_child_steps_too() -> None:
    envs = made()
    expected = one_thread(envs)
    total(copy.deepcopy(envs))
    context: Any = multiprocessing.get_context("fork")

    def grandchild(queue: Any) -> None:
        total(copy.deepcopy(envs))
        child = context.Process(target=answer, args=(queue, envs))
        child.start()
        child.join()

    queue = context.Queue()
    child = context.Process(target=grandchild, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)


def test_copies_step_as_the_original() -> None:
    envs = made()
    total(envs)
    copies = [copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))]
    expected = total(envs)
    assert [total(other) for other in copies] == [expected, expected]


class ManyAcrobats(gym.Env[np.ndarray, int]):
    """Native environments behind Gymnasium's interface, all with the same action."""

    observation_space = gym.spaces.Box(-30, 30, (6,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self) -> None:
        self.envs = NativeVecEnv("Acrobot-v1", N_ENVS, seed=0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.envs.reset().mean(axis=0), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, rewards, _, _ = self.envs.step(np.full(N_ENVS, action))
        return obs.mean(axis=0), float(rewards.mean()), False, False, {}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_hold_native_environments(method: str) -> None:
    total(made())
    alone = ManyAcrobats()
    first = alone.reset()[0]
    workers = SubprocVecEnv([ManyAcrobats, ManyAcrobats], start_method=method)
    try:
        np.testing.assert_array_equal(workers.reset(), [first, first])
        expected = alone.step(2)[0]
        np.testing.assert_array_equal(workers.step(np.array([2, 2]))[0], [expected, expected])
    finally:
        workers.close()


def rollout(threads: int) -> dict[str, np.ndarray]:
    _native.set_threads(threads)
    envs = NativeVecEnv("Pendulum-v1", 2400, seed=0)
    model = PPO("MlpPolicy", envs, n_steps=8, batch_size=2400, n_epochs=1, seed=0)
    model.learn(1)
    buffer = model.rollout_buffer
    return {
        name: np.copy(getattr(buffer, name)) for name in ("observations", "actions", "rewards", "returns")
    }


def test_a_fused_rollout_does_not_depend_on_the_threads() -> None:
    one, two = rollout(1), rollout(2)
    for name, column in one.items():
        np.testing.assert_array_equal(column, two[name], err_msg=name)


@pytest.mark.parametrize(("value", "shown"), [("3", "3\n"), ("", "True\n"), ("none", "none")])
def test_the_variable_sets_the_number(value: str, shown: str) -> None:
    code = (
        "from mlx_baselines3 import _native\n"
        f"try: print({value!r} and _native.threads_count() or _native.threads_count() >= 1)\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "MLX_BASELINES3_THREADS": value}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert shown in child.stdout
    assert ("expected a number of threads" in child.stdout) == (value == "none")


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="0 threads, expected from 1 to 1024"):
        _native.set_threads(0)
    assert _native.threads_count() == 2
