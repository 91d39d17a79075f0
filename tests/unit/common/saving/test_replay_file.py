"""Replay buffers in files: what comes back, for whom, and what is refused."""

import io
import json
import pickle
import random
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN, SAC
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.export import NotInSB3
from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.saving.replay import load_replay_buffer, save_replay_buffer
from mlx_baselines3.common.vec_env import NativeVecEnv
from mlx_baselines3.her import GoalSelectionStrategy, HerReplayBuffer

BOX = spaces.Box(-2.0, 2.0, (3,), np.float32)
PIXELS = spaces.Box(0, 255, (1, 4, 4), np.uint8)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), BOX))
BOTH = spaces.Dict({"a": BOX, "b": PIXELS})
KINDS = {
    "plain": (ReplayBuffer, BOX, {"n_envs": 2}),
    "flags": (ReplayBuffer, PIXELS, {"handle_timeout_termination": False}),
    "compact": (ReplayBuffer, BOX, {"optimize_memory_usage": True}),
    "dict": (DictReplayBuffer, BOTH, {"n_envs": 2}),
    "n_step": (NStepReplayBuffer, BOX, {"n_steps": 4, "gamma": 0.9}),
    "her": (HerReplayBuffer, GOALS, {"goal_selection_strategy": "final", "n_sampled_goal": 2}),
    "her_infos": (HerReplayBuffer, GOALS, {"copy_info_dict": True}),
}


class GoalEnvs:
    """Stands in for a VecEnv."""

    def env_method(self, name, achieved, desired, infos, indices=None):
        return [-np.abs(achieved - desired).sum(axis=1) + sum("step" in info for info in infos)]


def draw(rng, space, n_envs):
    if isinstance(space, spaces.Dict):
        return {key: draw(rng, part, n_envs) for key, part in space.spaces.items()}
    return rng.uniform(0, 2, (n_envs, *space.shape)).astype(space.dtype)


def fill(buffer, space, steps):
    """Episodes of four steps, every other one cut by a time limit."""
    rng = np.random.default_rng(steps)
    obs = draw(rng, space, buffer.n_envs)
    for step in range(steps):
        following, done = draw(rng, space, buffer.n_envs), step % 4 == 3
        infos = [{"TimeLimit.truncated": step % 8 == 7, "step": step}] * buffer.n_envs
        action = rng.uniform(-1, 1, (buffer.n_envs, 2))
        buffer.add(obs, following, action, np.full(buffer.n_envs, step), np.full(buffer.n_envs, done), infos)
        obs = draw(rng, space, buffer.n_envs) if done else following
    return buffer


def make(name, steps, size=10):
    kind, space, kwargs = KINDS[name]
    extra = {"env": GoalEnvs()} if kind is HerReplayBuffer else {}
    buffer = kind(size * kwargs.get("n_envs", 1), space, ACTIONS, **extra, **kwargs)
    return fill(buffer, space, steps)


def in_file(buffer):
    stream = io.BytesIO()
    save_replay_buffer(buffer, stream)
    return stream.getvalue()


def read(contents):
    return load_replay_buffer(io.BytesIO(contents))


def sampled(buffer):
    if isinstance(buffer, HerReplayBuffer) and buffer.env is None:
        buffer.set_env(GoalEnvs())
    np.random.seed(3)  # noqa: NPY002
    fields = buffer.sample(50)._asdict()
    flat = {}
    for name, field in fields.items():
        flat |= {f"{name}.{key}": value for key, value in field.items()} if isinstance(field, dict) else {}
        flat |= {} if isinstance(field, dict) or field is None else {name: field}
    return {name: np.array(value) for name, value in flat.items()}


def assert_alike(one, other):
    assert type(one) is type(other)
    first, second = sampled(one), sampled(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.fixture
def no_pickles(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was opened or written")

    for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.mark.parametrize("steps", [7, 14])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_saved_comes_back_and_goes_on(no_pickles, name, steps):
    buffer = make(name, steps)
    other = read(in_file(buffer))
    assert (other.pos, other.full, other.size()) == (buffer.pos, buffer.full, buffer.size())
    assert other.observation_space == buffer.observation_space
    assert other.handle_timeout_termination == buffer.handle_timeout_termination
    assert_alike(buffer, other)
    # The episodes under way go on.
    for each in (buffer, other):
        fill(each, KINDS[name][1], 6)
    assert_alike(buffer, other)


@pytest.mark.parametrize("steps", [7, 14])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "compact"])
def test_sb3s_format_is_read_back(tmp_path, name, steps):
    from mlx_baselines3.common.saving.to_sb3 import export_replay_buffer

    buffer = make(name, steps)
    export_replay_buffer(buffer, tmp_path / "buffer")
    assert (tmp_path / "buffer.pkl").read_bytes()[:2] == b"\x80\x04"
    assert_alike(buffer, load_replay_buffer(tmp_path / "buffer"))


def test_infos_that_could_not_be_read_back_are_told_when_saving(monkeypatch):
    # Beside few rows, infos may take 64 MiB.
    monkeypatch.setattr(_safetensors, "_MAX_HEADER", 3000)
    buffer = make("her_infos", 14)
    for row in range(10):
        buffer.infos[row, 0]["text"] = "x" * 300
    with pytest.raises(ValueError, match="copy_info_dict"):
        in_file(buffer)
    # Beside many rows, a quarter of the file.
    large = make("her_infos", 14, size=400)
    large.pos, large.full = 0, True
    large.infos[:, 0] = [{"text": "x" * 5}] * 400
    contents = in_file(large)
    with (
        zipfile.ZipFile(io.BytesIO(contents)) as archive,
        archive.open("replay_buffer/columns.safetensors") as file,
    ):
        assert int.from_bytes(file.read(8), "little") > 3000
    assert read(contents).infos[399, 0] == {"text": "xxxxx"}


def test_only_rows_in_use_are_written():
    small, large = (len(in_file(make("plain", 7, size))) for size in (10, 10_000))
    assert large - small < 100


def test_her_keeps_its_settings():
    other = read(in_file(make("her", 7)))
    assert other.env is None
    assert other.goal_selection_strategy is GoalSelectionStrategy.FINAL
    assert (other.n_sampled_goal, other.her_ratio) == (2, 1 - 1 / 3)
    infos = read(in_file(make("her_infos", 7))).infos
    assert [None if info is None else info["step"] for info in infos[:, 0]] == [*range(7), None, None, None]


@pytest.mark.parametrize("name", ["buffer", "buffer.pkl", "buffer.zip", "my.replay"])
def test_names_and_suffixes_are_those_given(tmp_path, name):
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=20, learning_starts=100).learn(8)
    for path in (tmp_path / name, str(tmp_path / name)):
        model.save_replay_buffer(path)
        expected = name if "." in name else f"{name}.pkl"
        assert [file.name for file in tmp_path.iterdir()] == [expected]
        other = DQN("MlpPolicy", "CartPole-v1", buffer_size=20)
        other.load_replay_buffer(path)
        np.testing.assert_array_equal(other.replay_buffer.observations, model.replay_buffer.observations)


def test_open_files(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=20, learning_starts=100).learn(8)
    for form in ("mlx", "sb3"):
        stream = io.BytesIO()
        model.save_replay_buffer(stream, format=form)
        with pytest.raises(ModelFileError, match=r"seek\(0\)"):
            model.load_replay_buffer(stream)
        stream.seek(0)
        model.load_replay_buffer(stream)
        assert model.replay_buffer.pos == 8
        with open(tmp_path / "file", "wb") as file:
            model.save_replay_buffer(file, format=form)
        with open(tmp_path / "file", "rb") as file:
            model.load_replay_buffer(file)
    with pytest.raises(ValueError, match="'mlx' or 'sb3', got 'zip'"):
        model.save_replay_buffer(tmp_path / "file", format="zip")
    assert model.replay_buffer.device == model.device


def test_a_training_goes_on_with_it(tmp_path):
    kwargs = {"buffer_size": 64, "learning_starts": 8, "batch_size": 8, "seed": 0}
    model = DQN("MlpPolicy", NativeVecEnv("CartPole-v1", 2), **kwargs).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    before = model.replay_buffer
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is not before
    model.learn(40, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 32


class Marked(ReplayBuffer):
    """A class of the user's with a constructor of its own."""

    def __init__(self, *args, marks=3, **kwargs):
        super().__init__(*args, **kwargs)
        self.marks, self.priorities = marks, np.full(self.buffer_size, 0.5)
        self.names, self.helper = {"a": (1, "b")}, object()


class Wide(ReplayBuffer):
    """A column of another dtype than the space's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rewards = np.zeros((self.buffer_size, self.n_envs), np.float64)


def test_a_class_of_the_users():
    buffer = fill(Marked(10, BOX, ACTIONS, marks=5), BOX, 7)
    buffer.priorities[3] = 9
    with pytest.warns(UserWarning, match=r"Not kept.*Marked\.helper"):
        contents = in_file(buffer)
    with pytest.warns(UserWarning, match=r"Not part of.*Marked\.helper"):
        other = read(contents)
    assert type(other) is Marked
    assert (other.marks, other.names) == (5, {"a": (1, "b")})
    assert other.priorities.tolist() == buffer.priorities.tolist()
    assert_alike(buffer, other)
    with pytest.raises(NotInSB3, match="Marked"):
        DQN.save_replay_buffer(types.SimpleNamespace(replay_buffer=buffer, verbose=0), "x", format="sb3")


def test_a_column_of_another_dtype_keeps_all_rows():
    other = read(in_file(fill(Wide(10, BOX, ACTIONS), BOX, 7)))
    assert other.rewards.dtype == np.float64
    assert other.rewards.tolist() == [[float(row)] for row in range(7)] + [[0.0]] * 3
    fill(other, BOX, 6)


def test_a_class_has_to_be_importable_and_imported(monkeypatch):
    class Local(ReplayBuffer):
        pass

    with pytest.raises(ValueError, match="defined inside a function"):
        in_file(Local(10, BOX, ACTIONS))
    module = types.ModuleType("users_buffers")
    kind = type("Elsewhere", (ReplayBuffer,), {"__module__": "users_buffers"})
    module.Elsewhere = kind
    monkeypatch.setitem(sys.modules, "users_buffers", module)
    contents, pickled = in_file(kind(10, BOX, ACTIONS)), pickle.dumps(kind(10, BOX, ACTIONS))
    assert type(read(contents)) is type(read(pickled)) is kind
    monkeypatch.delitem(sys.modules, "users_buffers")
    for file in (contents, pickled):
        with pytest.raises(ModelFileError, match="users_buffers"):
            read(file)
    assert "users_buffers" not in sys.modules


def with_layout(contents, change):
    """The same archive with another layout."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("layout"):
                data = json.dumps(change(json.loads(data))).encode()
            new.writestr(name, data)
    return out.getvalue()


WRONG_LAYOUTS = {
    "no table": lambda parts: [1],
    "no class": lambda parts: {**parts, "class": 3},
    "another class": lambda parts: {**parts, "class": "mlx_baselines3.common.utils:LinearSchedule"},
    "a function": lambda parts: {**parts, "class": "os:system"},
    "no size": lambda parts: {name: part for name, part in parts.items() if name != "buffer_size"},
    "size of text": lambda parts: {**parts, "buffer_size": "10"},
    "no rows": lambda parts: {**parts, "buffer_size": 0},
    "fewer rows than there are": lambda parts: {**parts, "buffer_size": 3},
    "more rows than there can be": lambda parts: {**parts, "buffer_size": 10**18},
    "a number beyond any": lambda parts: {**parts, "buffer_size": 10**40},
    "other environments": lambda parts: {**parts, "n_envs": 3},
    "a flag of text": lambda parts: {**parts, "optimize_memory_usage": "yes"},
    "no space": lambda parts: {**parts, "observation_space": None},
    "another space": lambda parts: {**parts, "observation_space": parts["action_space"]},
    "a space for dicts": lambda parts: {**parts, "class": "mlx_baselines3.common.buffers:DictReplayBuffer"},
}


@pytest.mark.parametrize("case", WRONG_LAYOUTS)
def test_wrong_layouts_end_in_one_error(case):
    contents = with_layout(in_file(make("plain", 7)), WRONG_LAYOUTS[case])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*enough memory")
        with pytest.raises(ModelFileError, match="replay buffer's file"):
            read(contents)


@pytest.mark.parametrize("attribute", ["pos", "full", "buffer_size", "n_envs", "rewards"])
def test_what_leads_outside_is_refused(attribute):
    buffer = make("plain", 7)
    setattr(buffer, attribute, {"rewards": np.zeros((3, 2))}.get(attribute, 11))
    if attribute in ("buffer_size", "n_envs"):
        contents = with_layout(in_file(buffer), lambda parts: {**parts, attribute: 10})
    else:
        contents = in_file(buffer)
    with pytest.raises(ModelFileError, match="replay buffer's file"):
        read(contents)


@pytest.mark.parametrize("name", ["ep_start", "ep_length", "_current_ep_start"])
def test_marks_of_episodes_that_lead_outside_are_refused(name):
    for value in (-1, 11):
        buffer = make("her", 7)
        getattr(buffer, name)[0] = value
        for contents in (in_file(buffer), pickle.dumps(buffer)):
            with pytest.raises(ModelFileError, match=name):
                read(contents)


class Runs:
    """Unpickled, it would leave a trace."""

    traces: list[str] = []

    def __reduce__(self):
        return (self.traces.append, ("run",))


def test_nothing_in_a_pickle_is_run_and_other_things_are_told_apart():
    for thing, said in (([1, 2], "holds a list"), (Runs(), "holds another object"), ({}, "holds a dict")):
        with pytest.raises(AssertionError, match=said) as caught:
            read(pickle.dumps(thing))
        assert isinstance(caught.value, ModelFileError)
    buffer = make("plain", 7)
    buffer.observation_space = Runs()
    with pytest.raises(ModelFileError, match="not called"):
        read(pickle.dumps(buffer))
    assert Runs.traces == []
    stream = io.BytesIO()
    DQN("MlpPolicy", "CartPole-v1", buffer_size=20).save(stream)
    with pytest.raises(ModelFileError, match="not of a replay buffer"):
        read(stream.getvalue())


SAMPLES = {
    **{f"{name}-mlx": (name, in_file) for name in KINDS},
    **{f"{name}-pickle": (name, pickle.dumps) for name in KINDS},
}


@pytest.mark.parametrize("case", SAMPLES)
def test_mutations_end_in_a_buffer_or_one_error(case):
    name, write = SAMPLES[case]
    sample = write(make(name, 7))
    rng, refused = random.Random(case), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            mutated = bytearray(sample)
            for _ in range(rng.choice((1, 1, 2, 8))):
                at = rng.randrange(len(mutated))
                if rng.random() < 0.2:
                    del mutated[at : at + rng.choice((1, 4))]
                else:
                    mutated[at : at + 1] = rng.randbytes(1)
            try:
                buffer = read(bytes(mutated))
            except ModelFileError:
                refused += 1
            else:
                assert isinstance(buffer, ReplayBuffer)
    assert refused > 0
