"""The infos of native environments: their lists are handed out again, and nobody may notice."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv

NOTHING = {"TimeLimit.truncated": False}


@pytest.fixture
def envs() -> NativeVecEnv:
    envs = NativeVecEnv("Pendulum-v1", 4, seed=0)
    envs.reset()
    return envs


def step(envs: NativeVecEnv) -> list[dict[str, Any]]:
    discrete = envs.action_space.shape == ()
    actions = np.zeros(envs.num_envs, np.int64) if discrete else np.zeros((envs.num_envs, 1), np.float32)
    return envs.step(actions)[3]


def test_infos_are_a_list_of_dicts_of_their_own(envs: NativeVecEnv) -> None:
    for _ in range(5):
        infos = step(envs)
        assert type(infos) is list
        assert [type(info) for info in infos] == [dict] * 4
        assert infos == [NOTHING] * 4
        assert len({id(info) for info in infos}) == 4


def test_kept_infos_stay_as_they_were(envs: NativeVecEnv) -> None:
    kept = [step(envs) for _ in range(6)]
    assert len({id(infos) for infos in kept}) == 6
    assert len({id(info) for infos in kept for info in infos}) == 24
    one = step(envs)[2]
    one["mine"] = 1
    for _ in range(5):
        assert step(envs) == [NOTHING] * 4
    assert one == {**NOTHING, "mine": 1}


def _replace(infos: list[Any]) -> None:
    infos[1] = infos[2]


def _swap(infos: list[Any]) -> None:
    infos[0], infos[1] = infos[1], infos[0]


MUTATIONS: dict[str, Callable[[list[Any]], Any]] = {
    "new key": lambda infos: infos[1].update(x=1),
    "other value": lambda infos: infos[1].update({"TimeLimit.truncated": True}),
    "equal value": lambda infos: infos[1].update({"TimeLimit.truncated": 0}),
    "cleared": lambda infos: infos[1].clear(),
    "other key": lambda infos: (infos[1].clear(), infos[1].update(other=False)),
    "removed": lambda infos: infos.pop(),
    "emptied": lambda infos: infos.clear(),
    "appended": lambda infos: infos.append({}),
    "no dict": lambda infos: infos.__setitem__(1, None),
    "the same twice": _replace,
    "swapped and changed": lambda infos: (_swap(infos), infos[0].update(x=1)),
    "itself": lambda infos: infos[1].update(x=infos),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_what_a_caller_did_to_the_infos_does_not_come_back(
    envs: NativeVecEnv, mutate: Callable[[list[Any]], Any]
) -> None:
    for _ in range(4):
        mutate(step(envs))
        for infos in [step(envs), step(envs)]:
            assert [list(map(repr, info.items())) for info in infos] == [
                ["('TimeLimit.truncated', False)"]
            ] * 4


def test_news_come_once_and_at_their_place() -> None:
    envs = NativeVecEnv("CartPole-v1", 8, seed=3)
    envs.reset()
    infos: list[dict[str, Any]] | None = None
    for i in range(300):
        if i % 3 == 0 and infos is not None:
            infos.reverse()
        del infos
        _, _, dones, infos = envs.step(np.arange(8) % 2 ^ (i // 2) % 2)
        assert [len(info) for info in infos] == [3 if done else 1 for done in dones]
        assert all("terminal_observation" in infos[env] for env in np.flatnonzero(dones))
    copies = [copy.copy(infos), copy.deepcopy(infos), pickle.loads(pickle.dumps(infos))]
    assert all(repr(other) == repr(infos) for other in copies)


def test_environments_in_their_own_infos_are_collected() -> None:
    envs = NativeVecEnv("CartPole-v1", 2, seed=0)
    envs.reset()
    infos = envs.step(np.zeros(2, np.int64))[3]
    infos[0]["envs"] = envs
    gone = weakref.ref(envs)
    del infos, envs
    gc.collect()
    assert gone() is None


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(), st.integers(-(10**13), 10**13).map(lambda n: n / 2e6), st.floats(-1e3, 1e3)))
def test_monitor_rounds_as_python_does(total: float) -> None:
    envs = NativeVecEnv("MountainCar-v0", 1, seed=0)
    envs.reset()
    envs._core.time_limit = 1
    state = envs._core.get_state(0)
    envs._core.set_state(0, {**state, "total": total})
    entry = step(envs)[0]["episode"]
    assert repr(entry["r"]) == repr(round(total - 1.0, 6))
