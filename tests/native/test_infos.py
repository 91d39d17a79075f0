"""The infos of native environments: their dicts are made when somebody looks, and nobody may notice."""

import copy
import gc
import operator
import pickle
import weakref
from collections.abc import Callable, MutableSequence
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_baselines3 import DQN, PPO, _native
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.actor import native_actor
from mlx_baselines3.common.native.exploration import NativeCollector
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


def with_news() -> list[dict[str, Any]]:
    """Of four environments, the episodes of the first and the last have reached the time limit."""
    envs = NativeVecEnv("Pendulum-v1", 4, seed=0)
    envs.reset()
    for env in (0, 3):
        envs._core.set_state(env, {**envs._core.get_state(env), "steps": 199})
    return step(envs)


def test_infos_are_a_list_of_dicts_of_their_own(envs: NativeVecEnv) -> None:
    for _ in range(5):
        infos = step(envs)
        assert isinstance(infos, list)
        assert isinstance(infos, MutableSequence)
        assert [type(info) for info in infos] == [dict] * 4
        assert infos == [NOTHING] * 4
        assert len({id(info) for info in infos}) == 4


def test_an_episode_that_ended_is_told_of() -> None:
    infos = with_news()
    assert infos[1] == infos[2] == NOTHING
    for env in (0, -1):
        assert list(infos[env]) == ["episode", "TimeLimit.truncated", "terminal_observation"]
        assert infos[env]["TimeLimit.truncated"] is True
        assert (infos[env]["episode"]["l"], infos[env]["terminal_observation"].shape) == (200, (3,))
    assert infos[0]["terminal_observation"] is infos[0]["terminal_observation"]


def test_kept_infos_stay_as_they_were(envs: NativeVecEnv) -> None:
    kept = [step(envs) for _ in range(6)]
    assert len({id(infos) for infos in kept}) == 6
    assert len({id(info) for infos in kept for info in infos}) == 24
    one = step(envs)[2]
    one["mine"] = 1
    for _ in range(5):
        assert step(envs) == [NOTHING] * 4
    assert one == {**NOTHING, "mine": 1}


def test_unread_infos_tell_of_their_own_step() -> None:
    kept = {}
    envs = NativeVecEnv("CartPole-v1", 8, seed=3)
    envs.reset()
    for i in range(40):
        obs, _, dones, infos = envs.step(np.arange(8) % 2)
        kept[i] = (obs, dones, infos)
    assert any(dones.any() for _, dones, _ in kept.values())
    for obs, dones, infos in kept.values():
        assert [len(info) for info in infos] == [3 if done else 1 for done in dones]
        for env in np.flatnonzero(dones):
            assert np.abs(infos[env]["terminal_observation"]).max() > np.abs(obs[env]).max()


class Ops:
    """What programs do with a list of infos. Each is given the list and a number from 0 to 3."""

    read = staticmethod(lambda infos, at: infos[at])
    read_from_the_end = staticmethod(lambda infos, at: infos[at - 4])
    read_with_numpys_integer = staticmethod(lambda infos, at: infos[np.int64(at)])
    get = staticmethod(lambda infos, at: infos[at].get("episode"))
    put = staticmethod(lambda infos, at: operator.setitem(infos, at, {"put": at}))
    put_at_the_end = staticmethod(lambda infos, at: operator.setitem(infos, -1, infos[at]))
    put_into = staticmethod(lambda infos, at: infos[at].update(x=at))
    put_slice = staticmethod(lambda infos, at: operator.setitem(infos, slice(at, at + 1), infos))
    clear_one = staticmethod(lambda infos, at: infos[at].clear())
    swap = staticmethod(lambda infos, at: (operator.setitem(infos, 0, infos[at]), infos[0].update(swapped=1)))
    delete = staticmethod(lambda infos, at: operator.delitem(infos, at))
    too_far = staticmethod(lambda infos, at: infos[at + 100])
    put_too_far = staticmethod(lambda infos, at: operator.setitem(infos, at + 100, {}))
    wrong_index = staticmethod(lambda infos, at: infos["episode"])
    listed = staticmethod(lambda infos, at: list(infos))
    sliced = staticmethod(lambda infos, at: infos[at:])
    every_other = staticmethod(lambda infos, at: infos[::-2])
    length = staticmethod(lambda infos, at: len(infos))
    truth = staticmethod(lambda infos, at: bool(infos))
    loop = staticmethod(lambda infos, at: [info.get("TimeLimit.truncated") for info in infos])
    enumerated = staticmethod(lambda infos, at: [i for i, info in enumerate(infos) if "episode" in info])
    zipped = staticmethod(lambda infos, at: list(zip(range(4), infos, strict=False)))
    unpacked = staticmethod(lambda infos, at: (lambda *infos: infos)(*infos))
    backwards = staticmethod(lambda infos, at: list(reversed(infos)))
    contains = staticmethod(lambda infos, at: (NOTHING in infos, {"x": 0} in infos, None in infos))
    count = staticmethod(lambda infos, at: infos.count(NOTHING))
    index = staticmethod(lambda infos, at: infos.index(NOTHING, at))
    text = staticmethod(lambda infos, at: (str(infos), repr(infos), f"{infos}"))
    equal = staticmethod(lambda infos, at: (infos == [NOTHING] * 4, [NOTHING] * at == infos, infos == 1))
    ordered = staticmethod(lambda infos, at: infos < [])
    added = staticmethod(lambda infos, at: infos + [{}])
    added_to = staticmethod(lambda infos, at: [{}] + infos)
    added_to_itself = staticmethod(lambda infos, at: infos + infos)
    added_to_a_tuple = staticmethod(lambda infos, at: () + infos)
    added_in_place = staticmethod(lambda infos, at: operator.iadd(infos, [{}]))
    appended_to_another = staticmethod(lambda infos, at: operator.iadd([1], infos))
    many = staticmethod(lambda infos, at: (infos * at, at * infos))
    more_in_place = staticmethod(lambda infos, at: operator.imul(infos, 2))
    append = staticmethod(lambda infos, at: infos.append({}))
    extend = staticmethod(lambda infos, at: infos.extend(infos))
    insert = staticmethod(lambda infos, at: infos.insert(at, {}))
    pop = staticmethod(lambda infos, at: infos.pop())
    pop_at = staticmethod(lambda infos, at: infos.pop(at))
    remove = staticmethod(lambda infos, at: infos.remove(NOTHING))
    reverse = staticmethod(lambda infos, at: infos.reverse())
    sort = staticmethod(lambda infos, at: infos.sort(key=len, reverse=bool(at)))
    clear = staticmethod(lambda infos, at: infos.clear())
    copied = staticmethod(lambda infos, at: (infos.copy(), copy.copy(infos), copy.deepcopy(infos)))
    pickled = staticmethod(lambda infos, at: pickle.loads(pickle.dumps(infos)))
    hashed = staticmethod(lambda infos, at: hash(infos))
    array = staticmethod(lambda infos, at: np.array(infos).tolist())


OPS = {name: vars(Ops)[name].__func__ for name in vars(Ops) if not name.startswith("_")}


def outcome(op: Callable[[Any, int], Any], infos: Any, at: int) -> str:
    """The result in words, or the error."""
    try:
        return repr(op(infos, at))
    except (IndexError, TypeError, ValueError) as error:
        return type(error).__name__


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(OPS)), st.integers(0, 3)), max_size=8))
def test_infos_do_what_a_list_does(ops: list[tuple[str, int]]) -> None:
    infos = with_news()
    known = copy.deepcopy(list(with_news()))
    for env in (0, 3):  # the clock has gone on
        known[env]["episode"]["t"] = infos[env]["episode"]["t"]
    if len(ops) % 2:
        fresh = with_news()
        for env in (0, 3):
            fresh[env]["episode"]["t"] = infos[env]["episode"]["t"]
        infos = fresh
    for name, at in ops:
        if len(known) < 64:
            assert outcome(OPS[name], infos, at) == outcome(OPS[name], known, at), name
    assert repr(infos) == repr(known)


def test_each_use_alone_does_what_it_does_to_a_list() -> None:
    for name, op in OPS.items():
        for at in range(4):
            envs = NativeVecEnv("Pendulum-v1", 4, seed=0)
            envs.reset()
            infos, known = step(envs), [dict(NOTHING) for _ in range(4)]
            assert outcome(op, infos, at) == outcome(op, known, at), name
            assert repr(infos) == repr(known), name


def test_an_item_is_one_object(envs: NativeVecEnv) -> None:
    infos = step(envs)
    second, mine = infos[1], {"mine": 1}
    infos[2] = mine
    assert infos[1] is second
    assert list(infos)[1:3] == [second, mine]
    assert list(infos)[1] is second is infos[1] is infos[-3] is infos[1:2][0] is copy.copy(infos)[1]
    assert infos[2] is mine


def test_copies_are_plain_lists() -> None:
    infos = with_news()
    infos[1]["self"] = infos
    copies = [
        copy.copy(infos),
        copy.deepcopy(infos),
        pickle.loads(pickle.dumps(infos)),
        infos[:],
        infos.copy(),
    ]
    assert [type(other) for other in copies] == [list] * 5
    assert copies[1][1]["self"] is copies[1]
    assert copies[2][1]["self"] is copies[2]
    again = type(infos)(infos)
    assert [type(again), again[0] is infos[0], len(again)] == [type(infos), True, 4]


def test_infos_match_a_sequence_pattern(envs: NativeVecEnv) -> None:
    match step(envs):
        case [first, *rest]:
            assert (first, rest) == (NOTHING, [NOTHING] * 3)
        case _:
            pytest.fail("no sequence")


MUTATIONS: dict[str, Callable[[list[Any]], Any]] = {
    "new key": lambda infos: infos[1].update(x=1),
    "other value": lambda infos: infos[1].update({"TimeLimit.truncated": True}),
    "cleared": lambda infos: infos[1].clear(),
    "removed": lambda infos: infos.pop(),
    "no dict": lambda infos: infos.__setitem__(1, None),
    "whole, then changed": lambda infos: (list(infos), infos[1].update(x=1)),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_what_a_caller_did_to_the_infos_does_not_come_back(
    envs: NativeVecEnv, mutate: Callable[[list[Any]], Any]
) -> None:
    for _ in range(4):
        mutate(step(envs))
        assert step(envs) == [NOTHING] * 4


CHANGES: dict[str, tuple[Callable[[list[Any]], Any], list[float]]] = {
    "unread": (lambda infos: None, [1, 0, 0, 1]),
    "read": (lambda infos: infos[0], [1, 0, 0, 1]),
    "listed": (list, [1, 0, 0, 1]),
    "set": (lambda infos: infos[1].update({"TimeLimit.truncated": True}), [1, 1, 0, 1]),
    "unset": (lambda infos: infos[0].update({"TimeLimit.truncated": False}), [0, 0, 0, 1]),
    "left out": (lambda infos: infos[3].clear(), [1, 0, 0, 0]),
    "replaced": (lambda infos: infos.__setitem__(0, {}), [0, 0, 0, 1]),
    "no boolean": (lambda infos: infos[1].update({"TimeLimit.truncated": 1}), [1, 1, 0, 1]),
    "reversed": (
        lambda infos: (infos[1].update({"TimeLimit.truncated": True}), infos.reverse()),
        [1, 0, 1, 1],
    ),
}


@pytest.mark.parametrize(("change", "cut"), CHANGES.values(), ids=CHANGES.keys())
def test_replay_reads_what_the_infos_say_now(change: Callable[[list[Any]], Any], cut: list[float]) -> None:
    infos = with_news()
    change(infos)
    buffer = ReplayBuffer(40, spaces.Box(-9, 9, (3,)), spaces.Box(-2, 2, (1,)), n_envs=4)
    obs, numbers = np.zeros((4, 3), np.float32), np.ones(4, np.float32)
    buffer.add(obs, obs, numbers[:, None], numbers, numbers > 0, infos)
    assert buffer.timeouts[0].tolist() == cut


def test_replay_refuses_infos_of_other_environments() -> None:
    buffer = ReplayBuffer(40, spaces.Box(-9, 9, (3,)), spaces.Box(-2, 2, (1,)), n_envs=3)
    obs, numbers = np.zeros((3, 3), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"infos has shape \(4,\)"):
        buffer.add(obs, obs, numbers[:, None], numbers, numbers > 0, with_news())
    assert buffer.pos == 0


def test_infos_that_hold_themselves_are_collected(envs: NativeVecEnv) -> None:
    class Mine:
        pass

    gone = []
    for whole in (False, True):
        infos, mine = step(envs), Mine()
        infos[0].update(mine=mine, infos=infos, envs=envs)
        if whole:
            list(infos)
        gone.append(weakref.ref(mine))
        del infos, mine
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


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


class Witness:
    """Something that can be seen to be gone."""


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_chunk_that_its_infos_lead_back_to_is_garbage(algorithm: Any) -> None:
    envs = NativeVecEnv("CartPole-v1", 2, seed=0)
    model = algorithm("MlpPolicy", envs, seed=0)
    actor, obs, none = native_actor(model.policy), envs.reset(), np.empty(0, np.float32)
    if algorithm is PPO:
        buffer = model.rollout_buffer
        columns = {name: getattr(buffer, name)[:3] for name in ("observations", "actions", "rewards")}
        columns |= {"episode_starts": buffer.episode_starts[:3], "masks": None}
        current = {"obs": obs, "episode_starts": np.ones(2, bool)}
        chunk = actor.collect(envs._core, _native.ActionBounds(low=none, high=none), current, columns)
    else:
        collector = NativeCollector(
            actor, envs._core, model.replay_buffer, envs.action_space, lambda count: [False] * count
        )
        chunk = collector.collect_chunk(obs, 3).last
    info = chunk.infos[0]
    info.update(chunk=chunk, witness=Witness())
    gone = weakref.ref(info["witness"])
    del chunk, info
    gc.collect()
    assert gone() is None
