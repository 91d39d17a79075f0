"""Statistics of VecNormalize in files: what comes back, what is refused. SB3's are in tests/parity."""

import io
import json
import pathlib
import pickle
import random
import sys
import types
import zipfile

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.export import NotInSB3
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv, VecNormalize
from support.vec_env_doubles import CountingEnv, DictEnv

OLD = pathlib.Path(__file__).parents[3] / "data" / "archives" / "0.1.0" / "pickles"
SAMPLE = np.array([[3.0, 4.0]])


class Scaled(VecNormalize):
    """A class of the user's."""

    def __init__(self, *args, factor=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor, self.helper = factor, object()


def make(kind=VecNormalize, env_class=CountingEnv, n_envs=2, **kwargs):
    env = kind(DummyVecEnv([env_class] * n_envs), **kwargs)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(n_envs, int))
    return env


def make_dict():
    parts = DictEnv().observation_space.spaces
    keys = [key for key, part in parts.items() if isinstance(part, spaces.Box)]
    assert 0 < len(keys) < len(parts)
    return make(env_class=DictEnv, norm_obs_keys=keys)


def in_file(env, **kwargs):
    stream = io.BytesIO()
    env.save(stream, **kwargs)
    return stream.getvalue()


def read(contents, env_class=CountingEnv):
    return VecNormalize.load(io.BytesIO(contents), DummyVecEnv([env_class]))


@pytest.mark.parametrize("form", ["mlx", "sb3", "pickle"])
def test_what_is_saved_comes_back(form, monkeypatch):
    env = make(gamma=0.5, clip_obs=3.0, clip_reward=2.0, epsilon=1e-3, training=False)
    contents = pickle.dumps(env) if form == "pickle" else in_file(env, format=form)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    loaded = read(contents)
    assert type(loaded) is VecNormalize
    for name in ("gamma", "clip_obs", "clip_reward", "epsilon", "training", "norm_obs", "norm_reward"):
        assert getattr(loaded, name) == getattr(env, name)
    assert np.array_equal(loaded.normalize_obs(SAMPLE), env.normalize_obs(SAMPLE))
    assert np.array_equal(loaded.normalize_reward(SAMPLE), env.normalize_reward(SAMPLE))
    assert loaded.obs_rms.count == env.obs_rms.count
    assert np.array_equal(loaded.get_original_obs(), env.get_original_obs())
    # Another number of environments than there was.
    assert (loaded.num_envs, loaded.returns.tolist()) == (1, [0])
    loaded.seed(3)
    loaded.training = True
    loaded.reset()
    loaded.step(np.zeros(1, int))
    assert loaded.obs_rms.count > env.obs_rms.count
    assert loaded.reset_infos == [{}]


@pytest.mark.parametrize("form", ["mlx", "sb3"])
def test_keys_of_a_dict(form):
    env = make_dict()
    loaded = read(in_file(env, format=form), DictEnv)
    assert loaded.norm_obs_keys == env.norm_obs_keys
    assert loaded.obs_rms.keys() == env.obs_rms.keys()
    for key, statistics in env.obs_rms.items():
        assert np.array_equal(loaded.obs_rms[key].mean, statistics.mean)
    loaded.reset()


def test_without_observations_to_normalise():
    env = make(norm_obs=False)
    loaded = read(in_file(env))
    assert loaded.norm_obs is False
    assert np.array_equal(loaded.normalize_reward(SAMPLE), env.normalize_reward(SAMPLE))


@pytest.mark.parametrize("name", ["vecnormalize.pkl", "statistics", "model.zip"])
def test_the_name_is_the_one_given(tmp_path, name):
    env = make()
    for path in (tmp_path / name, str(tmp_path / name)):
        env.save(path)
        assert [file.name for file in tmp_path.iterdir()] == [name]
        assert zipfile.is_zipfile(path)
        assert VecNormalize.load(path, DummyVecEnv([CountingEnv])).gamma == env.gamma


def test_unknown_formats_files_that_are_not_there_and_other_shapes(tmp_path):
    with pytest.raises(ValueError, match="'mlx' or 'sb3', got 'pkl'"):
        make().save(tmp_path / "file", format="pkl")
    with pytest.raises(FileNotFoundError):
        VecNormalize.load(tmp_path / "file", DummyVecEnv([CountingEnv]))
    with pytest.raises(AssertionError, match="shape"):
        VecNormalize.load(io.BytesIO(in_file(make())), NativeVecEnv("Pendulum-v1", 1))


@pytest.mark.parametrize("name", ["box", "dict"])
def test_pickles_of_0_1_0(name):
    from mlx_baselines3.common.envs import SimpleMultiObsEnv

    venv = NativeVecEnv("Pendulum-v1", 1) if name == "box" else DummyVecEnv([SimpleMultiObsEnv])
    env = VecNormalize.load(OLD / f"vecnormalize_{name}.pkl", venv)
    statistics = env.obs_rms if name == "box" else env.obs_rms["vec"]
    with np.load(OLD / f"vecnormalize_{name}.npz") as expected:
        np.testing.assert_array_equal(statistics.mean, expected["mean"])
        np.testing.assert_array_equal(statistics.var, expected["var"])
        assert (statistics.count, env.ret_rms.var) == (expected["count"], expected["returns"])
    assert (env.gamma, env.clip_obs) == ((0.9, 5.0) if name == "box" else (0.99, 10.0))
    assert env.norm_reward is (name == "box")
    env.reset()


def test_a_class_of_the_users():
    env = make(Scaled, factor=2.5)
    with pytest.warns(UserWarning, match="Not kept.*helper"):
        contents = in_file(env)
    with pytest.warns(UserWarning, match="Not part of.*helper"):
        loaded = read(contents)
    assert type(loaded) is Scaled
    assert loaded.factor == 2.5
    with pytest.raises(NotInSB3, match="Scaled"):
        in_file(env, format="sb3")


def test_a_class_has_to_be_importable_and_imported(monkeypatch):
    class Local(VecNormalize):
        pass

    with pytest.raises(ValueError, match="defined inside a function"):
        in_file(make(Local))
    module = types.ModuleType("users_wrappers")
    module.Elsewhere = type("Elsewhere", (VecNormalize,), {"__module__": "users_wrappers"})
    monkeypatch.setitem(sys.modules, "users_wrappers", module)
    contents = in_file(make(module.Elsewhere))
    assert type(read(contents)) is module.Elsewhere
    monkeypatch.delitem(sys.modules, "users_wrappers")
    with pytest.raises(ModelFileError, match="users_wrappers"):
        read(contents)
    assert "users_wrappers" not in sys.modules


def changed(contents, change):
    """The same archive with other attributes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("attributes"):
                parts = json.loads(data)
                data = json.dumps({**parts, "attributes": {**parts["attributes"], **change}}).encode()
            new.writestr(name, data)
    return out.getvalue()


WRONG = {
    "a number of text": {"gamma": "0.9"},
    "a flag that is a number": {"training": 1},
    "no space": {"observation_space": None},
    "no statistics": {"ret_rms": None},
    "statistics of returns that are not one number": {"ret_rms": "obs_rms"},
    "statistics of another shape": {"obs_rms": "ret_rms"},
    "keys without a Dict": {"norm_obs_keys": ["a"]},
    "an array that is not there": {"old_obs": {":type:": "tensor", "name": "nowhere"}},
    "observations that are text": {"old_obs": "x"},
    "a class that is a function": {"obs_rms": {":type:": "function", "path": "os:system"}},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_attributes_end_in_one_error(case):
    contents = in_file(make())
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        stored = json.loads(archive.read("vec_normalize/attributes"))["attributes"]
    # The name of another attribute stands for its value.
    wrong = WRONG[case].items()
    swapped = {name: stored.get(item, item) if type(item) is str else item for name, item in wrong}
    with pytest.raises(ModelFileError, match="the file of VecNormalize"):
        read(changed(contents, swapped))


def test_a_negative_variance_is_refused():
    env = make()
    env.obs_rms.var[1] = -1
    with pytest.raises(ModelFileError, match="negative"):
        read(in_file(env))


def test_attributes_replace_no_methods_and_unknown_ones_are_left_out():
    loaded = read(changed(in_file(make()), {"step_wait": 3, "reset": None, "other": 1, "venv": 2}))
    assert callable(loaded.step_wait)
    assert not hasattr(loaded.venv, "other")
    assert "other" not in vars(loaded)
    with pytest.warns(UserWarning, match="helper"):
        contents = in_file(make(Scaled))
    with (
        pytest.warns(UserWarning, match="helper"),
        pytest.raises(ModelFileError, match="no attribute 'step_wait'"),
    ):
        read(changed(contents, {"step_wait": 3}))


class Runs:
    traces: list[str] = []

    def __reduce__(self):
        return (self.traces.append, ("run",))


def test_nothing_is_run_and_other_files_are_told_apart(tmp_path):
    env = make()
    env.old_reward = Runs()
    for thing in (env, Runs(), [1], {"a": 1}, spaces.Discrete(2)):
        with pytest.raises(ModelFileError, match="the file of VecNormalize"):
            read(pickle.dumps(thing))
    assert Runs.traces == []
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="did not write it"):
        read((tmp_path / "model.zip").read_bytes())
    for contents, said in ((b"", "empty"), (b"PK\x03\x04", "zip"), (b"x", "VecNormalize")):
        with pytest.raises(ModelFileError, match=said):
            read(contents)


@pytest.mark.parametrize("form", ["mlx", "sb3", "pickle", "dict"])
def test_mutations_end_in_statistics_or_one_error(form):
    env = make_dict() if form == "dict" else make()
    sample = pickle.dumps(env) if form == "pickle" else in_file(env, format="mlx" if form == "dict" else form)
    rng, refused = random.Random(form), 0
    for _ in range(100):
        mutated = bytearray(sample)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(mutated))
            if rng.random() < 0.2:
                del mutated[at : at + rng.choice((1, 4))]
            else:
                mutated[at : at + 1] = rng.randbytes(1)
        try:
            read(bytes(mutated), DictEnv if form == "dict" else CountingEnv)
        except ModelFileError:
            refused += 1
        except AssertionError as error:
            # A sound file, but of other observations.
            assert "shape" in str(error)  # noqa: PT017
    assert refused > 0
