"""Numbers too large or otherwise no numbers: an exception that names them, and the process lives."""

import copy
import gc
import itertools
import os
import pathlib
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlx_baselines3 import A2C, DQN, PPO, SAC, _native
from mlx_baselines3.common.vec_env import NativeVecEnv

FLAGS = {"weak_scalars": True, "pow_squares": False, "fused_uniform": False, "compensated_sum": False}


def made(n_envs: int) -> _native.EnvBatch:
    return _native.EnvBatch("CartPole-v1", n_envs, **FLAGS)


def actor(hidden: int, head: str = "categorical", numbers: int = 0) -> _native.Actor:
    widths = ((4, hidden, "tanh"), (hidden, 2, "identity"))
    layers: list[Any] = [
        {"inputs": inputs, "outputs": outputs, "activation": activation, "parameter": 0.0}
        for inputs, outputs, activation in widths
    ]
    return _native.Actor(layers, head, [], [0.1] * numbers)


def layer(inputs: int, outputs: int, weights: int = 0) -> Any:
    part = {"outputs": outputs, "weights": weights, "bias": None}
    return {"inputs": inputs, "parts": [part], "activation": "identity", "parameter": 0.0}


def trained(size: int) -> Any:
    vectors = {name: np.zeros(size, np.float32) for name in ("parameters", "exp_avg", "exp_avg_sq")}
    rule = {"name": "adam", "betas": (0.9, 0.99), "alpha": 0.0, "eps": 1e-8, "bias_correction": True}
    return {**vectors, "rule": rule, "previous": None, "before": None, "steps": 0, "learning_rate": 0.1}


def q_update(outputs: int) -> _native.QUpdate:
    return _native.QUpdate([layer(4, outputs)], 8)


TOO_LARGE = {
    "environments": lambda n: made(n),
    "rows of a buffer": lambda n: _native.Storage(n, {"x": 8}),
    "bytes of a row": lambda n: _native.Storage(2, {"x": n}),
    "a layer": lambda n: actor(n),
    "environments that explore": lambda n: actor(3, "state_dependent", 6).reset_noise(n, 0),
    "a sequence": lambda n: actor(3).set_numbers(range(n)),
    "a sequence of flags": lambda n: _native.Actor(range(n), "categorical", [], []),
}


@pytest.mark.parametrize("number", [10**12, 10**15, 2**62, 2**63 - 1])
@pytest.mark.parametrize("what", TOO_LARGE)
def test_more_than_the_memory_is_an_error(what, number):
    # A terabyte that is only reserved is there on some machines.
    number = max(number, 10**15 if what in ("rows of a buffer", "bytes of a row") else 0)
    with pytest.raises((MemoryError, OverflowError)) as error:
        TOO_LARGE[what](number)
    if isinstance(error.value, MemoryError):
        assert str(error.value)


def test_the_message_names_the_number():
    with pytest.raises(MemoryError, match="1000000000000 environments"):
        NativeVecEnv("CartPole-v1", 10**12)


@pytest.mark.parametrize("number", [10**12, 10**15, 10**19, 2**64, -1, 0])
@pytest.mark.parametrize("memory", [False, True])
def test_batches_of_too_many_transitions(number, memory):
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=100, optimize_memory_usage=memory)
    model.learn(12)
    model.batch_size = number
    with pytest.raises((MemoryError, ValueError)) as error:
        model.learn(30, reset_num_timesteps=False)
    assert str(number) in str(error.value)


@pytest.mark.filterwarnings("ignore:This system does not have apparently enough memory")
@pytest.mark.parametrize("number", [10**15, 10**19, 2**64, 0, -1, float("nan"), True])
@pytest.mark.parametrize("name", ["buffer_size", "n_steps", "n_envs"])
def test_buffers_of_too_many_rows(name, number):
    def make() -> None:
        if name == "n_envs":
            NativeVecEnv("CartPole-v1", number)
        elif name == "n_steps":
            A2C("MlpPolicy", "CartPole-v1", n_steps=number)
        else:
            SAC("MlpPolicy", "Pendulum-v1", buffer_size=number)

    with pytest.raises((MemoryError, ValueError)) as error:
        make()
    assert str(number) in str(error.value)


@pytest.mark.parametrize("number", [10**9, 10**12, 10**19])
def test_networks_of_too_many_units(number):
    with pytest.raises((MemoryError, ValueError)) as error:
        PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [number, number]})
    assert str(number) in str(error.value)


def test_updates_refuse_what_would_overflow():
    with pytest.raises(ValueError, match=r"expected 18446744073709551615|has 8 numbers"):
        q_update(2**62)
    batch: dict[str, Any] = {key: [np.zeros(8, np.float32)] for key in ("observations", "next_observations")}
    batch |= {name: np.zeros(2, np.float32) for name in ("actions", "rewards", "dones", "discounts")}
    target = np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="cannot be 1000000000000 batches"):
        q_update(2).run(batch, 10**12, 1.0, target, trained(8))


def test_an_array_that_is_written_is_no_other_argument():
    rollout = {name: np.zeros((4, 2), np.float32) for name in ("rewards", "values", "episode_starts")}
    rollout |= {name: np.zeros(2, np.float32) for name in ("last_values", "dones")}
    factors = {"gamma": 0.9, "gae_lambda": 0.9}
    one = np.zeros((4, 2), np.float32)
    with pytest.raises((ValueError, TypeError)):
        _native.gae(**rollout, **factors, advantages=one, returns=one)
    # NumPy does not know that these are the same memory.
    memory = bytearray(32)
    a, b = (np.frombuffer(memoryview(memory), np.float32).reshape(4, 2) for _ in range(2))
    with pytest.raises(ValueError, match="shares its memory"):
        _native.gae(**rollout, **factors, advantages=a, returns=b)
    with pytest.raises(ValueError, match="shares its memory"):
        _native.gae(**{**rollout, "rewards": a}, **factors, advantages=b, returns=one)


def single_rows(rows: int) -> tuple[Callable[[], Any], np.ndarray]:
    """An epoch of minibatches of one row, and the actions that it goes by."""
    update = _native.OnPolicyUpdate([layer(1, 2)], [layer(1, 1, weights=2)], "categorical", [2], 0, 3)
    names = ("actions", "values", "log_probs", "advantages", "returns")
    rollout: dict[str, Any] = {name: np.zeros(rows, np.float32) for name in names}
    rollout |= {"observations": [np.zeros(rows, np.float32)], "masks": None}
    settings = {"clip_range": 0.2, "clip_range_vf": None, "ent_coef": 0.0, "vf_coef": 0.5, "target_kl": None}
    settings |= {"max_grad_norm": 0.5, "normalize": False}
    order = np.arange(rows, dtype=np.uint32)
    return lambda: update.epoch(rollout, order, 1, settings, trained(3)), rollout["actions"]


def test_a_panic_is_a_runtime_error():
    epoch, actions = single_rows(2_000_000)

    # No argument is looked at twice: what was a choice is none any more.
    def handler(*_: Any) -> None:
        actions[:] = 99

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(RuntimeError, match="internal error of mlx_baselines3"):
            epoch()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_every_function_that_python_calls_is_guarded():
    source = pathlib.Path(__file__).parents[2] / "rust" / "python" / "src"
    found = 0
    for path in source.rglob("*.rs"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        for before, line in itertools.pairwise(lines):
            if line in ("#[pyfunction]", "#[pymethods]"):
                assert before == "#[guarded]", path
                found += 1
    assert found > 20


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("value", ["abc", "0", "-3", "1000000", "1e3", "99999999999999999999", "nan"])
def test_a_number_of_threads_that_is_none(value):
    code = (
        "from mlx_baselines3.common.vec_env import NativeVecEnv\n"
        "try:\n    NativeVecEnv('CartPole-v1', 2)\nexcept ValueError as error:\n    print(error)"
    )
    done = run(code, MLX_BASELINES3_THREADS=value)
    assert done.returncode == 0, done.stderr
    assert f"MLX_BASELINES3_THREADS is {value!r}".replace("'", '"') in done.stdout
    assert "from 1 to 1024" in done.stdout


def test_too_few_threads_to_be_had_are_no_error():
    code = """
import numpy as np
from mlx_baselines3 import _native
from mlx_baselines3.common.vec_env import NativeVecEnv

def last(n_threads):
    _native.set_threads(n_threads)
    envs = NativeVecEnv("Acrobot-v1", 3000, seed=0)
    envs.reset()
    return [envs.step(np.arange(3000) % 3)[0] for _ in range(3)][-1]

assert (last(64) == last(1)).all()
print("the same")
"""
    # Stacks that no system gives.
    done = run(code, RUST_MIN_STACK=str(2**47))
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout


@pytest.mark.parametrize("limit", [0, -1, -(10**20), 10**20, 1.5, float("nan")])
def test_a_time_limit_that_is_none(limit):
    envs = NativeVecEnv("CartPole-v1", 1, env_kwargs={})
    with pytest.raises((ValueError, OverflowError, TypeError)):
        envs._core.time_limit = limit
    assert envs._core.time_limit == 500


ACTIONS = {
    "Discrete": [
        "CartPole-v1",
        [np.array([2, 0]), np.array([-1, 0]), np.array([0.5, 1.0]), np.array([True, False])],
    ],
    "Box": ["Pendulum-v1", [np.array([[np.nan], [0]]), np.array([[np.inf], [0]]), np.array([["a"], ["b"]])]],
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_that_are_none_leave_the_environments_where_they_are(kind):
    env_id, all_wrong = ACTIONS[kind]
    envs = NativeVecEnv(env_id, 2, seed=0)
    envs.reset()
    before = [envs._core.get_state(i) for i in range(2)]
    shapes = [np.zeros((3, 1)), np.zeros(0), None, np.array([object(), object()]), "ab", np.int64(1)]
    for wrong in [*all_wrong, *shapes, np.array([2**63, 2**64 - 1], np.uint64)]:
        with pytest.raises((ValueError, TypeError)):
            envs.step(wrong)
    assert [envs._core.get_state(i) for i in range(2)] == before


def test_infos_outlive_their_environments():
    envs = NativeVecEnv("CartPole-v1", 3, seed=0, env_kwargs={"max_episode_steps": 2})
    envs.reset()
    envs.step(np.zeros(3, np.int64))
    *_, infos = envs.step(np.zeros(3, np.int64))
    infos[1]["mine"] = infos
    envs.close()
    del envs
    gc.collect()
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["episode"]["l"] == 2
    del infos[1]["mine"]
    for again in (copy.deepcopy(infos), pickle.loads(pickle.dumps(infos))):
        assert len(again) == 3
        assert again[2]["terminal_observation"].shape == (4,)
    infos.append(infos)
    gc.collect()
    assert infos[3] is infos


@pytest.mark.parametrize("seed", [-1, 2**64, 10**40, 0.5, "x", float("nan"), None])
def test_seeds_out_of_range(seed):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        actor(3).seed(seed)
