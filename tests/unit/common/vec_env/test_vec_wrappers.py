import json
import pathlib
import sys
import types

import gymnasium as gym
import numpy as np
import pandas
import pytest
from gymnasium import error, spaces

from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    StackedObservations,
    VecCheckNan,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecTransposeImage,
    VecVideoRecorder,
)
from support.vec_env_doubles import CountingEnv, DictEnv, ImageEnv, TupleEnv

ACTIONS = np.zeros(1, dtype=np.int64)


def vec(env_class=CountingEnv, *args):
    return DummyVecEnv([lambda: env_class(*args)])


# Transpose


def test_transpose_moves_the_channels_to_the_front():
    env = VecTransposeImage(vec(ImageEnv, 1))
    assert env.observation_space == spaces.Box(0, 255, shape=(3, 4, 5), dtype=np.uint8)
    obs = env.reset()
    assert obs.shape == (1, 3, 4, 5)
    assert obs[0, :, 2, 3].tolist() == [0, 10, 20]
    obs, _, _, infos = env.step(ACTIONS)
    assert infos[0]["terminal_observation"][:, 0, 0].tolist() == [1, 11, 21]
    assert obs[0, :, 0, 0].tolist() == [0, 10, 20]


def test_transpose_touches_only_the_images_of_a_dict():
    env = VecTransposeImage(vec(DictEnv, 1))
    assert env.observation_space["image"].shape == (3, 4, 5)
    assert env.venv.observation_space["image"].shape == (4, 5, 3)
    env.reset()
    obs, _, _, infos = env.step(ACTIONS)
    assert obs["image"].shape == (1, 3, 4, 5)
    assert obs["a"].tolist() == [[0, 0]]
    assert infos[0]["terminal_observation"]["image"][:, 0, 0].tolist() == [0, 1, 0]
    assert infos[0]["terminal_observation"]["a"].tolist() == [1, 10]


def test_transpose_can_be_skipped_and_refuses_what_is_no_image():
    assert VecTransposeImage(vec(ImageEnv), skip=True).reset().shape == (1, 4, 5, 3)
    with pytest.raises(AssertionError, match="image"):
        VecTransposeImage(vec())
    with pytest.raises(AssertionError, match="channel last"):
        VecTransposeImage.transpose_space(spaces.Box(0, 255, shape=(3, 8, 8), dtype=np.uint8))


# Stacking


def test_stacks_of_vectors_and_their_terminal_observation():
    env = VecFrameStack(vec(CountingEnv, 3), n_stack=2)
    assert env.observation_space.shape == (4,)
    first = env.reset()
    assert first.tolist() == [[0, 0, 0, 0]]
    assert env.step(ACTIONS)[0].tolist() == [[0, 0, 1, 10]]
    third = env.step(ACTIONS)[0]
    assert third.tolist() == [[1, 10, 2, 20]]
    obs, _, dones, infos = env.step(ACTIONS)
    assert dones[0]
    assert infos[0]["terminal_observation"].tolist() == [2, 20, 3, 30]
    assert obs.tolist() == [[0, 0, 0, 0]]
    env.step(ACTIONS)
    env.reset()
    assert third.tolist() == [[1, 10, 2, 20]]


def test_stacks_of_images_find_the_channels():
    last = VecFrameStack(vec(ImageEnv), n_stack=3)
    last.reset()
    obs = last.step(ACTIONS)[0]
    assert obs.shape == (1, 4, 5, 9)
    assert obs[0, 0, 0].tolist() == [0, 0, 0, 0, 10, 20, 1, 11, 21]
    first = VecFrameStack(VecTransposeImage(vec(ImageEnv)), n_stack=2)
    first.reset()
    obs = first.step(ACTIONS)[0]
    assert obs.shape == (1, 6, 4, 5)
    assert obs[0, :, 0, 0].tolist() == [0, 10, 20, 1, 11, 21]
    assert VecFrameStack(vec(ImageEnv), 2, channels_order="first").reset().shape == (1, 8, 5, 3)


def test_stacks_of_dicts():
    env = DummyVecEnv([lambda: gym.wrappers.FilterObservation(DictEnv(2), ["a", "image"])])
    stacked = VecFrameStack(env, 2, channels_order={"a": "last", "image": "last"})
    assert stacked.observation_space["image"].shape == (4, 5, 6)
    stacked.reset()
    stacked.step(ACTIONS)
    obs, _, _, infos = stacked.step(ACTIONS)
    assert infos[0]["terminal_observation"]["a"].tolist() == [1, 10, 2, 20]
    assert infos[0]["terminal_observation"]["image"][0, 0].tolist() == [0, 1, 0, 0, 2, 0]
    assert obs["a"].tolist() == [[0, 0, 0, 0]]


def test_stacking_bounds_and_refusals():
    space = spaces.Box(np.array([-1, -2], dtype=np.float32), np.array([1, 2], dtype=np.float32))
    stack = StackedObservations(1, 2, space)
    # Entry by entry, as SB3 has them.
    assert stack.stacked_observation_space.high.tolist() == [1, 1, 2, 2]
    assert StackedObservations.compute_stacking(3, space) == (False, -1, (6,), -1)
    assert StackedObservations.compute_stacking(3, space, "first") == (True, 1, (6,), 0)
    with pytest.raises(AssertionError, match="'sideways'"):
        StackedObservations(1, 2, space, "sideways")
    with pytest.raises(TypeError, match="dict"):
        StackedObservations(1, 2, space, {"a": "last"})
    with pytest.raises(TypeError, match="Discrete"):
        StackedObservations(1, 2, spaces.Discrete(2))
    with pytest.raises(AssertionError, match="VecFrameStack"):
        VecFrameStack(vec(TupleEnv), 2)
    with pytest.warns(UserWarning, match="terminal_observation"):
        stack.update(np.ones((1, 2), dtype=np.float32), np.array([True]), [{}])


# Monitor


def test_vec_monitor_counts_and_writes(tmp_path):
    path = tmp_path / "run"
    env = VecMonitor(
        DummyVecEnv([lambda: CountingEnv(2), lambda: CountingEnv(3)]), str(path), info_keywords=("t",)
    )
    env.reset()
    episodes = []
    for _ in range(4):
        for info in env.step(np.zeros(2, dtype=np.int64))[3]:
            if "episode" in info:
                episodes.append(
                    (float(info["episode"]["r"]), int(info["episode"]["l"]), info["episode"]["t"])
                )
    env.close()
    # In the order of the steps that end them: 1 + 2, 1 + 2 + 3, 1 + 2. Column t is that of info_keywords.
    assert episodes == [(3, 2, 2), (6, 3, 3), (3, 2, 2)]
    assert env.episode_count == 3
    lines = (tmp_path / "run.monitor.csv").read_text().splitlines()
    assert json.loads(lines[0][1:])["env_id"] == "None"
    assert lines[1].startswith("r,l,t")
    assert len(lines) == 5


def test_vec_monitor_starts_again_at_reset_and_warns_of_two_monitors(tmp_path):
    env = VecMonitor(vec(CountingEnv, 2), str(tmp_path / "a.monitor.csv"))
    env.reset()
    env.step(ACTIONS)
    env.reset()
    env.step(ACTIONS)
    info = env.step(ACTIONS)[3][0]
    assert (info["episode"]["r"], info["episode"]["l"]) == (3, 2)
    env.close()
    frame = pandas.read_csv(tmp_path / "a.monitor.csv", skiprows=1)
    assert frame[["r", "l"]].to_numpy().tolist() == [[3, 2]]
    with pytest.warns(UserWarning, match="already wrapped"):
        VecMonitor(DummyVecEnv([lambda: Monitor(CountingEnv())]))


# NaN


class BadEnv(CountingEnv):
    """Observations of inf after action 1."""

    def step(self, action):
        obs, *rest = super().step(0)
        return (obs * np.inf if action == 1 else obs, *rest)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_check_nan_names_kind_and_origin():
    env = VecCheckNan(vec(BadEnv, 9), raise_exception=True)
    env.reset()
    with pytest.raises(ValueError, match=r"found nan in actions(.|\n)*RL model"):
        env.step(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"found inf in observations(.|\n)*environment(.|\n)*action=\[1\]"):
        env.step(np.array([1]))
    assert env.step(np.array([0]))[0].tolist() == [[2, 20]]
    VecCheckNan(env.venv, raise_exception=True, check_inf=False).step(np.array([1]))


def test_check_nan_warns_once_or_always():
    env = VecCheckNan(vec(BadEnv, 9))
    env.reset()
    with pytest.warns(UserWarning, match="inf"):
        env.step(np.array([1]))
    env.step(np.array([1]))
    always = VecCheckNan(env.venv, warn_once=False)
    for _ in range(2):
        with pytest.warns(UserWarning, match="inf"):
            always.step(np.array([1]))
    assert env.check_array_value("x", np.array([np.nan, -np.inf])) == [("x", "inf"), ("x", "nan")]


def test_check_nan_looks_into_dicts_and_tuples():
    env = VecCheckNan(vec(TupleEnv), raise_exception=True)
    with pytest.raises(ValueError, match=r"found nan in observations\.1"):
        env._check_val("reset", observations=(np.zeros(1), np.array([np.nan])))
    with pytest.raises(ValueError, match=r"found nan in observations\.k"):
        env._check_val("reset", observations={"k": np.array([np.nan])})
    with pytest.raises(TypeError, match="str"):
        env._check_val("reset", observations="text")


# Extraction


def test_extract_one_entry():
    env = VecExtractDictObs(vec(DictEnv, 1), "a")
    assert env.observation_space.shape == (2,)
    assert env.reset().tolist() == [[0, 0]]
    obs, _, _, infos = env.step(ACTIONS)
    assert obs.tolist() == [[0, 0]]
    assert infos[0]["terminal_observation"].tolist() == [1, 10]
    with pytest.raises(KeyError, match="nope"):
        VecExtractDictObs(vec(DictEnv), "nope")
    with pytest.raises(AssertionError, match="Dict"):
        VecExtractDictObs(vec(), "a")


# Video


@pytest.fixture
def videos(monkeypatch):
    """A MoviePy whose files hold what it is asked to write: frames per second, first pixel of each frame."""

    class ImageSequenceClip:
        def __init__(self, frames, fps):
            self.frames, self.fps = frames, fps

        def write_videofile(self, path):
            pixels = [int(frame[0, 0, 0]) for frame in self.frames]
            pathlib.Path(path).write_text(json.dumps([self.fps, pixels]))

    modules = ["moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"]
    for name in modules:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[modules[-1]].ImageSequenceClip = ImageSequenceClip


def test_video_of_chosen_steps(videos, tmp_path, capsys):
    env = VecVideoRecorder(vec(CountingEnv, 50), str(tmp_path / "new"), lambda step: step % 5 == 0, 2, "run")
    env.reset()
    for _ in range(6):
        env.step(ACTIONS)
    env.close()
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "new").iterdir()}
    assert found == {
        "run-step-0-to-step-2.mp4": [7, [0, 1, 2]],
        "run-step-5-to-step-7.mp4": [7, [5, 6]],
    }
    assert "Saving video to" in capsys.readouterr().out


def test_video_needs_arrays_and_moviepy(videos, tmp_path, monkeypatch):
    silent = DummyVecEnv([lambda: CountingEnv(render_mode=None)])
    with pytest.raises(AssertionError, match="rgb_array"):
        VecVideoRecorder(silent, str(tmp_path), lambda step: True)
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(error.DependencyNotInstalled, match="pip install") as caught:
        VecVideoRecorder(vec(), str(tmp_path), lambda step: True)
    assert isinstance(caught.value, ImportError)
