"""Environment steps: the native environments, Gymnasium's, SB3's, rlox's, EnvPool's and a bare Rust loop."""

import importlib
import itertools
import resource
import subprocess
import time
from collections.abc import Callable
from typing import Any

from timing import Figure, Side
from worker import Job, clock, thread_count

IDS = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0")
# Number of actions of each id with discrete actions; the others take one number.
_CHOICES = {"CartPole-v1": 2, "Acrobot-v1": 3, "MountainCar-v0": 3}
# Steps in a round, but at most 64 per environment. As in bare_loop.rs.
_ROUND = 1 << 18


def stepping(step: Callable[[Any], Any], batches: list[Any]) -> Job:
    """A round of steps, one with each batch of actions."""

    def steps() -> None:
        for actions in batches:
            step(actions)

    return Job(steps, len(batches) * len(batches[0]))


def actions(env_id: str, n_envs: int, integers: str = "int64") -> list[Any]:
    """The same random actions for all sides: integers ``(n_envs,)`` or float32 ``(n_envs, 1)``."""
    import numpy as np

    rng = np.random.default_rng(0)
    batches = min(64, max(1, _ROUND // n_envs))
    if env_id in _CHOICES:
        drawn = rng.integers(_CHOICES[env_id], size=(batches, n_envs)).astype(integers)
    else:
        drawn = rng.uniform(-1, 1, (batches, n_envs, 1)).astype(np.float32)
    return list(drawn)


def vec_env(env_id: str, n_envs: int, library: str = "mlx_baselines3", kind: str = "NativeVecEnv") -> Job:
    """The VecEnv interface of this package or SB3: arrays, and a list of infos."""
    env_util = importlib.import_module(f"{library}.common.env_util")
    vec_env = importlib.import_module(f"{library}.common.vec_env")
    env = env_util.make_vec_env(env_id, n_envs, seed=0, vec_env_cls=getattr(vec_env, kind))
    env.reset()
    return stepping(env.step, actions(env_id, n_envs))


def gymnasium_vector(env_id: str, n_envs: int) -> Job:
    """Gymnasium's environments written for NumPy arrays."""
    import gymnasium

    if not hasattr(gymnasium, "VectorizeMode"):
        raise RuntimeError(
            f"Gymnasium {gymnasium.__version__} does not export its NumPy vector environments; 1.0 does."
        )
    env = gymnasium.make_vec(env_id, num_envs=n_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    return stepping(env.step, actions(env_id, n_envs))


def rlox(env_id: str, n_envs: int) -> Job:
    """rlox's Rust environments by its fastest interface, ``VecEnv.step_all``."""
    env = importlib.import_module("rlox").VecEnv(n_envs, 0, env_id)
    env.reset_all()
    return stepping(env.step_all, actions(env_id, n_envs, "uint32"))


def envpool(env_id: str, n_envs: int) -> Job:
    """EnvPool's C++ environments, synchronous as the others are."""
    make = importlib.import_module("envpool").make
    env = make(env_id, env_type="gymnasium", num_envs=n_envs, num_threads=thread_count(), seed=0)
    env.reset()
    return stepping(env.step, actions(env_id, n_envs, "int32"))


def bare_loop(env_id: str, n_envs: int, program: str, seconds: float) -> Job:
    """``rust/core/examples/bare_loop.rs``; a call is one run of it."""
    command = [program, env_id, str(n_envs), str(thread_count()), str(seconds)]

    def run() -> float:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = float(subprocess.run(command, capture_output=True, check=True).stdout)
        if clock is time.perf_counter:
            return seconds
        # The program measures wall-clock time; scale it by its share of CPU time.
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = now.ru_utime - before.ru_utime + now.ru_stime - before.ru_stime
        return seconds * spent / (time.perf_counter() - start)

    return Job(run, warm=False, calls=1)


def native(env_id: str, n_envs: int, **more: Any) -> Side:
    """This package."""
    return Side(
        "mlx_baselines3", "ours", "environments:vec_env", {"env_id": env_id, "n_envs": n_envs}, **more
    )


def dummy(env_id: str, n_envs: int, peer: str, **more: Any) -> Side:
    """DummyVecEnv over Gymnasium's Python environments: SB3's, or this package's."""
    library, label = {
        "sb3": ("stable_baselines3", "SB3 DummyVecEnv"),
        "ours": ("mlx_baselines3", "our DummyVecEnv over Gymnasium"),
    }[peer]
    args = {"env_id": env_id, "n_envs": n_envs, "library": library, "kind": "DummyVecEnv"}
    return Side(label, peer, "environments:vec_env", args, (1,), **more)


def other(env_id: str, n_envs: int, peer: str, **more: Any) -> Side:
    """rlox, EnvPool or Gymnasium's vector environment."""
    label, function = {
        "rlox": ("rlox", "rlox"),
        "envpool": ("EnvPool", "envpool"),
        "gymnasium": ("Gymnasium's vector env", "gymnasium_vector"),
    }[peer]
    return Side(label, peer, f"environments:{function}", {"env_id": env_id, "n_envs": n_envs}, **more)


def bare(env_id: str, n_envs: int, program: str, seconds: float, **more: Any) -> Side:
    """The Rust core alone."""
    args = {"env_id": env_id, "n_envs": n_envs, "program": program, "seconds": seconds}
    return Side("bare Rust loop", "ours", "environments:bare_loop", args, **more)


def figures(program: str | None, seconds: float) -> list[Figure]:
    """
    :param program: the bare loop, or None where it cannot be built
    :param seconds: length of one of its runs
    :return: the lines of the table
    """
    few, many = ("CartPole-v1", 8), ("CartPole-v1", 1024)
    others = {
        few: [
            dummy(*few, "sb3", reach=100),
            other(*few, "rlox", reach=10),
            other(*few, "envpool"),
            dummy(*few, "ours"),
        ],
        many: [other(*many, "gymnasium", reach=4), other(*many, "rlox"), other(*many, "envpool")],
    }
    if program is not None:
        # One core; two threads are part of the sweep.
        others[many].append(bare(*many, program, seconds, threads=(1,), reach=0.8))
    for size, (n_envs, reach) in itertools.product(IDS[1:], ((8, 30), (1024, 8))):
        others[size, n_envs] = [other(size, n_envs, "envpool", reach=reach)]
        if size == "Pendulum-v1":
            others[size, n_envs].append(other(size, n_envs, "rlox"))
        if n_envs == 8:
            others[size, n_envs].append(dummy(size, n_envs, "ours"))
    return [
        Figure(f"{env_id}, {n_envs} envs", "step", native(env_id, n_envs), tuple(sides))
        for (env_id, n_envs), sides in others.items()
    ]
