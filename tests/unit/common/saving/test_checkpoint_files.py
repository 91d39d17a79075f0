"""The files of checkpoints: what is in them, and what a damaged or forged one does."""

import io
import json
import threading
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.buffers import (
    DictReplayBuffer,
    DictRolloutBuffer,
    NStepReplayBuffer,
    ReplayBuffer,
    RolloutBuffer,
)
from mlx_baselines3.common.formats.archive import ArchiveReader
from mlx_baselines3.common.save_util import ModelFileError
from mlx_baselines3.common.saving.buffer_stream import read_buffer, write_buffer
from support.checkpoint_runs import assert_same_parameters, learn, make, saved
from support.random_env import RandomEnv

BOX_OF_ONE = spaces.Box(-1.0, 1.0, (1,))
SMALL = {"policy_kwargs": {"net_arch": [4]}}
PPO_ARGS = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, **SMALL}


def test_a_checkpoint_is_a_model_too(tmp_path):
    model = make("dqn")
    learn(model, 60)
    model.save_checkpoint(tmp_path / "checkpoint")
    with zipfile.ZipFile(tmp_path / "checkpoint.zip") as archive:
        assert {"checkpoint/run", "checkpoint/env", "checkpoint/replay_buffer.safetensors"} < set(
            archive.namelist()
        )
    assert_same_parameters(model, DQN.load(tmp_path / "checkpoint"))


def test_the_replay_buffer_comes_back_in_place():
    model = make("sac")
    learn(model, 100)
    stream = saved(model)
    resumed = SAC.load_checkpoint(stream)
    old, new = model.replay_buffer, resumed.replay_buffer
    assert (new.pos, new.full, new.size()) == (old.pos, old.full, 105)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
        assert getattr(new, name).flags.writeable
    # Still Rust's memory: what is added is what Rust samples.
    assert new.observations.base is not None
    with zipfile.ZipFile(stream) as archive:
        stored = archive.getinfo("checkpoint/replay_buffer.safetensors").file_size
    # 106 of 150 rows: two observations of 3, an action and 3 scalars
    assert stored < 106 * 10 * 4 + 4000


BOX, DICT = spaces.Box(-1.0, 1.0, (3,)), spaces.Dict({"a": spaces.Box(0, 255, (2, 2), np.uint8)})


def fill(buffer, steps):
    rng = np.random.default_rng(0)
    space = buffer.observation_space
    space.seed(0)
    for step in range(steps):
        obs, after = (
            {key: np.stack([part.sample(), part.sample()]) for key, part in space.spaces.items()}
            if isinstance(space, spaces.Dict)
            else np.stack([space.sample(), space.sample()])
            for _ in range(2)
        )
        action, scalars = rng.normal(size=(2, 1)), rng.normal(size=(2, 3)).astype(np.float32)
        if isinstance(buffer, RolloutBuffer):
            buffer.add(obs, action, scalars[:, 0], scalars[:, 1] > 0, scalars[:, 2], scalars[:, 1])
        else:
            infos = [{"TimeLimit.truncated": bool(step % 3 == 0)}, {}]
            buffer.add(obs, after, action, scalars[:, 0], np.array([step % 3 == 0, False]), infos)


@pytest.mark.parametrize(
    ("kind", "space", "kwargs"),
    [
        (ReplayBuffer, BOX, {}),
        (ReplayBuffer, BOX, {"optimize_memory_usage": True, "handle_timeout_termination": False}),
        (NStepReplayBuffer, BOX, {"n_steps": 3}),
        (DictReplayBuffer, DICT, {}),
        (RolloutBuffer, BOX, {}),
        (DictRolloutBuffer, DICT, {}),
    ],
)
@pytest.mark.parametrize("steps", [0, 4, 10, 17])
def test_buffers_of_every_kind(kind, space, kwargs, steps):
    rolls = issubclass(kind, RolloutBuffer)
    size = 10 if rolls else 20
    buffer, twin = (kind(size, space, BOX_OF_ONE, n_envs=2, **kwargs) for _ in range(2))
    fill(buffer, min(steps, 10) if rolls else steps)
    if rolls and steps == 17:
        list(buffer.get(4))
    stream, lost = io.BytesIO(), []
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("buffer", b"".join(bytes(piece) for piece in write_buffer(buffer, lost, "buffer")))
    addresses = [column.ctypes.data for column in (twin.actions, twin.rewards)]
    read_buffer(twin, ArchiveReader(stream, "file"), "buffer")
    assert lost == []
    assert [column.ctypes.data for column in (twin.actions, twin.rewards)][1:] == addresses[1:]
    assert (twin.pos, twin.full, twin.size()) == (buffer.pos, buffer.full, buffer.size())
    for name, value in vars(buffer).items():
        for key, part in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(part, np.ndarray):
                other = getattr(twin, name) if key is None else getattr(twin, name)[key]
                np.testing.assert_array_equal(other, part, err_msg=f"{name} {key}")
    if steps > 0 and (not rolls or buffer.full):
        draws = []
        for each in (buffer, twin):
            np.random.seed(0)  # noqa: NPY002
            draws.append(next(each.get(5)) if rolls else each.sample(6))
        assert str(draws[0]) == str(draws[1])


def wide_model(rows=2000, width=2000):
    env = RandomEnv(spaces.Box(-1.0, 1.0, (width,)), spaces.Box(-1.0, 1.0, (1,)))
    return TD3("MlpPolicy", env, buffer_size=rows, policy_kwargs={"net_arch": [2]})


def test_large_buffers_are_streamed(tmp_path):
    model = wide_model()
    buffer = model.replay_buffer
    buffer.observations[...] = np.arange(2000, dtype=np.float32)[:, None, None]
    buffer.pos, buffer.full = 0, True
    model.save_checkpoint(tmp_path / "checkpoint")
    size = (tmp_path / "checkpoint.zip").stat().st_size
    assert size > 32_000_000

    def peak_of(work):
        tracemalloc.start()
        result = work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result, peak

    # What comes on top of the buffer, whose own memory is Rust's and not traced
    assert peak_of(lambda: model.save_checkpoint(tmp_path / "again"))[1] < 0.1 * size
    env = model.get_env()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded, peak = peak_of(lambda: TD3.load_checkpoint(tmp_path / "checkpoint", env=env))
    assert peak < 0.1 * size
    np.testing.assert_array_equal(loaded.replay_buffer.observations, buffer.observations)


def test_reading_while_it_is_written_anew(tmp_path):
    path = tmp_path / "checkpoint.zip"
    model = make("dqn")
    learn(model, 40)
    model.save_checkpoint(path)
    seen, problems, done = [], [], threading.Event()

    def read():
        while not done.is_set():
            try:
                with zipfile.ZipFile(path) as archive:
                    seen.append(json.loads(archive.read("data"))["num_timesteps"])
                    assert archive.testzip() is None
            except Exception as error:  # of a thread, to be shown by the test
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(30):
        model.num_timesteps = 1000 + step
        model.save_checkpoint(path)
    done.set()
    reader.join()
    assert problems == []
    assert seen == sorted(seen)
    assert DQN.load_checkpoint(path).num_timesteps == 1029
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.zip"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", **PPO_ARGS)
    model.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="is no checkpoint"):
        PPO.load_checkpoint(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        PPO.load_checkpoint(tmp_path / "nothing")
    model.save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="a checkpoint of PPO, not of A2C"):
        A2C.load_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "entry", ["checkpoint/run", "checkpoint/env", "checkpoint/replay_buffer.safetensors"]
)
def test_damage_is_noticed(entry):
    model = make("dqn")
    learn(model, 40)
    contents = saved(model).getvalue()
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        start = contents.index(archive.read(entry))
        size = archive.getinfo(entry).file_size
    for offset in range(0, size, max(1, size // 6)):
        flipped = bytearray(contents)
        flipped[start + offset] ^= 1
        with pytest.raises(ModelFileError):
            DQN.load_checkpoint(io.BytesIO(bytes(flipped)))


def forged(contents, entry, change):
    """The same archive with another text in an entry, and a right CRC."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, json.dumps(change(json.loads(data))) if name == entry else data)
    stream.seek(0)
    return stream


@pytest.mark.parametrize(
    ("entry", "change"),
    [
        ("checkpoint/run", lambda run: {**run, "logged": 3}),
        ("checkpoint/run", lambda run: {**run, "at_start": "x"}),
        ("checkpoint/run", lambda run: {**run, "generators": {**run["generators"], "mlx": [1]}}),
        ("checkpoint/run", lambda run: {**run, "action_space": {":type:": "space", "class": "os"}}),
        ("checkpoint/run", lambda run: {**run, "action_space": 3}),
        ("checkpoint/run", lambda run: {**run, "matrices": []}),
        ("checkpoint/run", lambda run: {**run, "matrices": {":type:": "class", "path": "os:system"}}),
        ("checkpoint/run", lambda run: [run]),
        ("checkpoint/env", lambda env: {**env, "names": []}),
        ("checkpoint/env", lambda env: {**env, "native": {**env["native"], "envs": [{}, {}]}}),
        ("checkpoint/env", lambda env: {**env, "make": {"env_id": "Nothing-v0"}}),
        ("checkpoint/env", lambda env: {**env, "layers": [{"step": {"value": 1}}]}),
        ("checkpoint/env", lambda env: {**env, "n_envs": 10**15}),
        ("checkpoint/env", lambda env: {**env, "layers": [{**env["layers"][0], "step": {"value": 1}}]}),
        ("checkpoint/env", lambda env: {**env, "layers": [{**env["layers"][0], "__class__": {"value": 1}}]}),
    ],
)
def test_forged_records_are_refused(entry, change):
    model = make("ppo_normalized")
    learn(model, 32)
    # A ModelFileError is one; the environments themselves refuse with a plain one.
    with pytest.raises(ValueError, match=r"\w"):
        PPO.load_checkpoint(forged(saved(model).getvalue(), entry, change))
