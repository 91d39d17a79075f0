"""The rule of docs/saving.md: what a name in a file leads to, in each place and for each wrong kind."""

import collections
import copy
import inspect
import io
import json
import pickle
import re
import sys
import types
import warnings
import zipfile

import cloudpickle
import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common import utils
from mlx_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from mlx_baselines3.common.formats import slots as _slots
from mlx_baselines3.common.formats.names import UnknownName, current_path, find, path_of, public_path
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.save_util import ModelFileError, data_to_json, json_to_data
from mlx_baselines3.common.torch_layers import FlattenExtractor
from mlx_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.vec_env import NativeVecEnv, SubprocVecEnv
from mlx_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from support import ROOT

PAGE = (ROOT / "docs" / "saving.md").read_text()
SMALL = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [3]}}

USERS = """
import collections, enum
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from mlx_baselines3.common.noise import NormalActionNoise
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.torch_layers import FlattenExtractor

class Linear:
    def __init__(self, start):
        self.start = float(start)
        self.made = True
        self.kind = "line"
    def __call__(self, progress_remaining):
        return progress_remaining * self.start

class Policy(ActorCriticPolicy): pass
class Extractor(FlattenExtractor): pass
class Activation(nn.Module):
    def __call__(self, x): return x
class Optimizer(optim.Adam): pass
class Replay(ReplayBuffer): pass
class Rollout(RolloutBuffer): pass
class Noise(NormalActionNoise): pass
class Plain: pass
class Colour(enum.Enum):
    RED = 1
Pair = collections.namedtuple("Pair", "a b")
def function(*args): raise AssertionError("a file called a function")
from os import system

class Meta(type): pass
class WithMeta(metaclass=Meta):
    def __call__(self, progress): return progress
class Slotted:
    __slots__ = ("start",)
    def __call__(self, progress): return progress
class Hooked(Linear):
    def __setattr__(self, name, value): raise AssertionError("a file ran code")
class Property(Linear):
    @property
    def start(self): return 1.0
    @start.setter
    def start(self, value): raise AssertionError("a file ran code")
class Stdlib(collections.UserDict):
    def __call__(self, progress): return progress
class TwoArguments:
    def __call__(self, a, b): return a
class Mortal(Linear):
    def __del__(self): pass
"""


@pytest.fixture(scope="module")
def users():
    """A module of the user's, imported."""
    module = types.ModuleType("users_of_the_rule")
    sys.modules[module.__name__] = module
    exec(USERS, module.__dict__)
    yield module
    del sys.modules[module.__name__]


def named(path, tag="class"):
    return {":type:": tag, "path": path}


def made(tag, path, state):
    return {":type:": tag, "class": path, "state": state}


OWN = "mlx_baselines3.common"
# An entry of each kind, from this package and MLX, and from the user's module.
SAMPLES = {
    "policy": (named(f"{OWN}.policies:ActorCriticPolicy"), named("users_of_the_rule:Policy")),
    "features extractor": (named(f"{OWN}.torch_layers:NatureCNN"), named("users_of_the_rule:Extractor")),
    "activation": (named("mlx.nn:Tanh"), named("users_of_the_rule:Activation")),
    "optimizer": (named("mlx.optimizers:Adam"), named("users_of_the_rule:Optimizer")),
    "replay buffer": (named(f"{OWN}.buffers:ReplayBuffer"), named("users_of_the_rule:Replay")),
    "rollout buffer": (named(f"{OWN}.buffers:DictRolloutBuffer"), named("users_of_the_rule:Rollout")),
    "schedule": (
        made("object", f"{OWN}.utils:ConstantSchedule", {"val": 0.5}),
        made("schedule", "users_of_the_rule:Linear", {"start": 0.5, "made": True, "kind": "x"}),
    ),
    "action noise": (
        json.loads(data_to_json({"x": NormalActionNoise(np.zeros(1), np.ones(1))}))["x"],
        made("object", "users_of_the_rule:Noise", {"_mu": 0.0, "_sigma": 1.0, "_dtype": None}),
    ),
    "train frequency": (
        json.loads(data_to_json({"x": TrainFreq(1, TrainFrequencyUnit.STEP)}))["x"],
        {":type:": "namedtuple", "class": "users_of_the_rule:Pair", "items": [1, 2]},
    ),
    "goal selection strategy": (
        json.loads(data_to_json({"x": GoalSelectionStrategy.FUTURE}))["x"],
        {":type:": "enum", "class": "users_of_the_rule:Colour", "name": "RED"},
    ),
}
# What no slot takes.
NEVER = {
    "a process": named(f"{OWN}.vec_env:SubprocVecEnv"),
    "environments": named(f"{OWN}.vec_env:NativeVecEnv"),
    "an algorithm": named("mlx_baselines3.ppo.ppo:PPO"),
    "a function of the user's": named("users_of_the_rule:function", "function"),
    "a function as a class": named("users_of_the_rule:function"),
    "a function of this package": named(f"{OWN}.save_util:load_from_pkl", "function"),
    "a function of MLX": named("mlx.nn.layers.activations:relu", "function"),
    "another class of the user's": named("users_of_the_rule:Plain"),
    "a detour": named("users_of_the_rule:system", "function"),
    "the standard library": named("subprocess:Popen"),
    "a schedule of the standard library": made("schedule", "functools:partial", {}),
    "a function of the standard library": named("os:system", "function"),
    "a builtin": named("builtins:eval", "function"),
    "what is not imported": named("a_module_nobody_imported:Thing"),
    "Gymnasium": named("gymnasium.core:Env"),
    "a method": named("users_of_the_rule:Policy.predict", "function"),
    "code of its own": made("offered", "users_of_the_rule:Plain", {}),
    "an object": made("object", "users_of_the_rule:Plain", {}),
    "an instance of a policy": made("object", f"{OWN}.policies:ActorCriticPolicy", {}),
    "no schedule": made("schedule", "users_of_the_rule:Plain", {}),
    "a schedule of a method": made("schedule", f"{OWN}.utils:LinearSchedule", {"start": 1}),
}


def table(first_heading):
    """The cells of the table of the page that begins with a heading."""
    lines = PAGE[PAGE.index(f"| {first_heading} |") :].splitlines()
    rows = lines[2 : next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


ROWS = {slot: kind for names, kind in table("Slot") for slot in re.findall(r"`(\w+)`", names) or [names]}


def test_the_page_has_the_table_of_the_code():
    assert ROWS.pop("any other") == "data"
    internal = {"_base_noise", "_noises"}
    assert {slot: kind for slot, kind in _slots.SLOTS.items() if slot not in internal} == ROWS
    ROWS["any other"] = "data"
    kinds = {row[0] for row in table("Kind")}
    assert kinds == {*_slots.KINDS, *_slots.OBJECTS, "data"} == set(ROWS.values())
    assert kinds == {*SAMPLES, "data"}
    foreign = {row[0] for row in table("Kind") if row[2] == "nothing"}
    assert foreign == {"action noise", "train frequency", "goal selection strategy", "data"}


def read(slot, entry):
    """What is restored of an entry in a slot, at the top and among the arguments of the policy."""
    results = []
    for text in ({slot: entry}, {"policy_kwargs": {"features_extractor_kwargs": {slot: [entry]}}}):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = json_to_data(json.dumps(text))
        assert len(said) == (0 if data else 1)
        if not data:
            assert f"custom_objects={{'{next(iter(text))}': ...}}" in str(said[0].message)
        results.append(bool(data))
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize("slot", [*ROWS])
def test_every_slot_with_every_kind(slot, users):
    takes = ROWS[slot]
    foreign = {row[0]: row[2] != "nothing" for row in table("Kind")}
    key = "something" if slot == "any other" else slot
    for kind, (own, theirs) in SAMPLES.items():
        data_object = takes == "data" and kind not in _slots.KINDS
        assert read(key, copy.deepcopy(own)) == (kind == takes or data_object), (slot, kind)
        assert read(key, copy.deepcopy(theirs)) == (kind == takes and foreign[kind]), (slot, kind)
    for what, entry in NEVER.items():
        assert not read(key, entry), (slot, what)


def test_numbers_are_taken_everywhere_and_data_types_where_data_are():
    assert json_to_data('{"learning_rate": 0.5, "policy_kwargs": {"net_arch": [3]}}')
    assert read("_dtype", named("numpy:float32"))
    assert not read("learning_rate", named("numpy:float32"))
    assert not read("_dtype", named("numpy:ndarray"))


def test_several_refused_entries_are_named_in_one_warning(users):
    text = {"learning_rate": NEVER["a detour"], "clip_range": NEVER["a builtin"], "n": 1}
    with pytest.warns(
        UserWarning, match=r"`learning_rate`.*`clip_range`.*'learning_rate': ..., 'clip"
    ) as said:
        assert json_to_data(json.dumps(text)) == {"n": 1}
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *[
            (name, {"start": 1.0})
            for name in ("WithMeta", "Slotted", "Hooked", "Property", "Stdlib", "Mortal")
        ],
        ("TwoArguments", {}),
        ("Linear", {"start": [1.0]}),
        ("Linear", {"start": None}),
        ("Linear", {"__class__": 1}),
        ("Linear", {"__call__": 1}),
        ("Linear", {"not a name": 1}),
    ],
)
def test_schedules_that_are_more_than_their_attributes_are_refused(name, state, users):
    with pytest.warns(UserWarning, match="learning_rate"):
        assert not json_to_data(
            json.dumps({"learning_rate": made("schedule", f"users_of_the_rule:{name}", state)})
        )


def forged(model, change, entry="data"):
    stream, out = io.BytesIO(), io.BytesIO()
    model.save(stream) if entry == "data" else model.save_checkpoint(stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            contents = old.read(name)
            if name == entry:
                table = json.loads(contents)
                change(table)
                contents = json.dumps(table).encode()
            new.writestr(name, contents)
    out.seek(0)
    return out


@pytest.fixture(scope="module")
def ppo():
    return PPO("MlpPolicy", NativeVecEnv("CartPole-v1", seed=0), seed=0, **SMALL).learn(8)


def test_schedule_objects_survive_a_file(users, tmp_path):
    rate, clip = users.Linear(1e-2), users.Linear(0.4)
    clip.start = np.float32(0.5)
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=rate, clip_range=clip, clip_range_vf=clip, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "model")
        assert b"pickle" not in zipfile.ZipFile(tmp_path / "model.zip").read("data")
        loaded = PPO.load(tmp_path / "model")
    assert vars(loaded.learning_rate) == {"start": 1e-2, "made": True, "kind": "line"}
    assert type(loaded.learning_rate) is users.Linear
    assert (loaded.lr_schedule(0.5), loaded.clip_range(0.5), loaded.clip_range_vf(1)) == (5e-3, 0.25, 0.5)


def test_schedule_objects_of_sb3s_files_are_read_by_the_same_rule(users):
    entry = {":type:": "<class 'x'>", ":serialized:": _base64(cloudpickle.dumps(users.Linear(0.25)))}
    data = json_to_data(json.dumps({"learning_rate": entry}))
    assert data["learning_rate"](0.5) == 0.125
    for slot, value in (
        ("action_noise", users.Linear(1)),
        ("learning_rate", users.Plain()),
        ("learning_rate", users.Policy),
        ("activation_fn", users.Policy),
        ("learning_rate", users.function),
    ):
        with pytest.warns(UserWarning, match=f"Could not restore `{slot}`"):
            assert not json_to_data(
                json.dumps({slot: {**entry, ":serialized:": _base64(pickle.dumps(value))}})
            )
    assert sb3_zip.read_pickle(pickle.dumps(users.Policy)) is users.Policy


def _base64(data):
    import base64

    return base64.b64encode(data).decode()


def test_an_environment_is_never_taken_from_a_file(ppo, tmp_path, monkeypatch):
    (tmp_path / "marker_of_the_rule.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for env in ("marker_of_the_rule:Any-v0", "CartPole-v1", 3, {"a": 1}):
        with pytest.warns(UserWarning, match="Not taken from the file.*`env`") as said:
            assert PPO.load(forged(ppo, lambda data, env=env: data.update(env=env))).env is None
        assert len(said) == 1
    assert "marker_of_the_rule" not in sys.modules


@pytest.mark.parametrize(
    "name", ["_setup_model", "predict", "learn", "set_random_seed", "load", "__class__", "a b"]
)
def test_attributes_replace_no_methods(ppo, name):
    with pytest.raises(ModelFileError, match=f"data: .*{name}"):
        PPO.load(forged(ppo, lambda data: data.update({name: 5})))


def test_properties_defaults_and_machinery_stay(ppo):
    entries = {
        "logger": 1,
        "policy_aliases": {},
        "_resumed": 7,
        "_updater": 3,
        "policy": 1,
        "mine": [1],
    }
    with pytest.warns(UserWarning, match=r"`_resumed`, `_updater`, `policy`\."):
        model = PPO.load(forged(ppo, lambda data: data.update(entries)))
    assert {"logger", "policy_aliases"}.isdisjoint(vars(model))
    assert (model._resumed, model.mine) == (None, [1])
    assert isinstance(model.policy, ActorCriticPolicy)


def test_attributes_of_a_users_algorithm(users, tmp_path):
    class Own(PPO):
        warmth = 1.0

        def cool(self):
            """A method."""

    model = Own("MlpPolicy", "CartPole-v1", **SMALL)
    model.warmth, model.notes = 0.5, {"a": (1, 2)}
    model.save(tmp_path / "model")
    loaded = Own.load(tmp_path / "model")
    assert (loaded.warmth, loaded.notes) == (0.5, {"a": (1, 2)})
    with pytest.raises(ModelFileError, match="`cool` is a part of the class Own"):
        Own.load(forged(model, lambda data: data.update(cool=1)))


def test_what_the_user_gives_is_not_held_against_the_rule(ppo, users):
    given = {"env": gym.make("CartPole-v1"), "learning_rate": users.function}
    file = forged(ppo, lambda data: data.update(env="CartPole-v1", learning_rate=NEVER["a builtin"]))
    with pytest.raises(ModelFileError, match="a file called a function"):
        # It is used, since the user said so.
        PPO.load(file, custom_objects={**given, "learning_rate": _raising})
    given["learning_rate"] = lambda progress: 0.5
    assert PPO.load(file, custom_objects=given).env.num_envs == 1


def _raising(progress):
    raise ValueError("a file called a function")


def test_extractors_and_activations_from_a_file_are_not_called_before_they_are_checked(ppo):
    calls = []

    class Trap:
        def __init__(self, *args, **kwargs):
            calls.append(args)

    module = types.ModuleType("trap_of_the_rule")
    Trap.__module__, Trap.__qualname__, module.Trap = module.__name__, "Trap", Trap
    sys.modules[module.__name__] = module
    try:
        for slot in ("features_extractor_class", "activation_fn", "optimizer_class"):
            for path in ("trap_of_the_rule:Trap", public_path(SubprocVecEnv)):
                arguments = {"net_arch": [3], slot: named(path), "features_extractor_kwargs": {}}
                with pytest.warns(UserWarning, match="`policy_kwargs`"), pytest.raises(ModelFileError):
                    PPO.load(forged(ppo, lambda data, a=arguments: data.update(policy_kwargs=a)))
        for slot in ("replay_buffer_class", "rollout_buffer_class", "learning_rate", "clip_range"):
            with pytest.warns(UserWarning, match=f"`{slot}`"):
                PPO.load(forged(ppo, lambda data, s=slot: data.update({s: named("trap_of_the_rule:Trap")})))
    finally:
        del sys.modules[module.__name__]
    assert calls == []


ALGORITHMS = {PPO: "CartPole-v1", A2C: "CartPole-v1", DQN: "CartPole-v1"} | dict.fromkeys(
    (SAC, TD3, DDPG), "Pendulum-v1"
)
PUBLIC = {
    *("policies", "buffers", "vec_env", "vec_env.vec_normalize", "vec_env.dummy_vec_env", "utils", "noise"),
    *("type_aliases", "running_mean_std", "torch_layers"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_files_name_public_paths_only(algorithm):
    kwargs = {"n_steps": 8} if algorithm in (PPO, A2C) else {"buffer_size": 40, "learning_starts": 100}
    kwargs |= {"batch_size": 8} if algorithm is PPO else {}
    kwargs |= (
        {"action_noise": NormalActionNoise(np.zeros(1), np.ones(1))} if algorithm in (SAC, TD3, DDPG) else {}
    )
    env = NativeVecEnv(ALGORITHMS[algorithm], 2)
    given = {"net_arch": [3], "activation_fn": nn.Tanh, "optimizer_class": optim.AdamW}
    given |= {"features_extractor_class": FlattenExtractor}
    model = algorithm("MlpPolicy", env, policy_kwargs=given, **kwargs).learn(8)
    stream = io.BytesIO()
    model.save_checkpoint(stream)
    policies = io.BytesIO()
    model.policy.save(policies)
    paths = set()
    for file in (stream, policies):
        with zipfile.ZipFile(file) as archive:
            texts = [archive.read(name).decode("utf-8", "replace") for name in archive.namelist()]
        paths |= {path for text in texts for path in re.findall(r"[A-Za-z_0-9.]+:[A-Z][A-Za-z0-9_.]+", text)}
    ours = {path for path in paths if path.startswith("mlx")}
    assert len(ours) >= 5
    modules = {path.partition(":")[0] for path in ours}
    assert modules <= {f"{OWN}.{name}" for name in PUBLIC} | {
        *("mlx.nn", "mlx.optimizers"),
        *(f"mlx_baselines3.{name}.policies" for name in ("dqn", "sac", "td3")),
    }
    for path in ours:
        module, _, name = path.partition(":")
        assert name.partition(".")[0] in vars(sys.modules[module]), path


def test_old_names_are_understood():
    for old, new in {
        "actor_critic:ActorCriticPolicy": ActorCriticPolicy,
        "buffers.rollout:RolloutBuffer": RolloutBuffer,
        "buffers.replay:ReplayBuffer": ReplayBuffer,
        "vec_env.native_vec_env:NativeVecEnv": NativeVecEnv,
    }.items():
        assert find(f"{OWN}.{old}") is new
        assert path_of(new) == current_path(f"{OWN}.{old}") != f"{OWN}.{old}"
    assert find("mlx.nn.layers.activations:Tanh") is find("mlx.nn:Tanh") is nn.Tanh
    schedule = find(f"{OWN}.base_policy:BasePolicy._dummy_schedule")
    assert schedule(1.0) == ActorCriticPolicy._dummy_schedule(1.0)
    assert path_of(schedule) == f"{OWN}.policies:BasePolicy._dummy_schedule"


def test_no_other_function_is_found():
    for name, thing in vars(utils).items():
        if inspect.isfunction(thing):
            with pytest.raises(UnknownName, match=r"function|is really"):
                find(f"{OWN}.utils:{name}")
    assert find(f"{OWN}.utils:FloatSchedule") is utils.FloatSchedule
    assert isinstance(mx.array(1), mx.array)


def test_what_users_give_in_unusual_types_comes_back(tmp_path):
    kwargs = {"net_arch": [np.int64(3)]}
    model = DQN(
        "MlpPolicy", "CartPole-v1", verbose=False, tensorboard_log=None, buffer_size=40, policy_kwargs=kwargs
    )
    model.learning_starts, model.target_update_interval, model.tensorboard_log = 1e2, 1e4, tmp_path / "logs"
    model.ep_info_buffer = collections.deque([{"r": np.ones(1), "l": 3}], maxlen=5)
    model._total_timesteps = 1e5
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = DQN.load(tmp_path / "model")
    assert (loaded.learning_starts, loaded._total_timesteps, loaded.verbose) == (100, 100_000, False)
    assert loaded.tensorboard_log == tmp_path / "logs"
