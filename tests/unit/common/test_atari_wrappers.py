import sys
import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.atari_wrappers import (
    AtariWrapper,
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    StickyActionEnv,
    WarpFrame,
)


class FakeGame(gym.Env):
    """Pixels and rewards are the frame number. Every seventh frame costs one of three lives."""

    observation_space = spaces.Box(0, 255, shape=(6, 4, 3), dtype=np.uint8)

    def __init__(self, length=100, meanings=("NOOP", "FIRE", "UP"), life_every=7):
        self.life_every = life_every
        self.meanings = list(meanings)
        self.action_space = spaces.Discrete(len(self.meanings))
        self.ale = types.SimpleNamespace(lives=lambda: self.lives)
        self.length = length
        self.lives = 0
        self.frame = 0
        self.resets = 0
        self.actions = []

    def get_action_meanings(self):
        return self.meanings

    def _obs(self):
        return np.full((6, 4, 3), self.frame, dtype=np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.frame, self.lives = 0, 3
        self.resets += 1
        self.actions = []
        return self._obs(), {"fresh": True}

    def step(self, action):
        self.frame += 1
        self.actions.append(int(action))
        if self.frame % self.life_every == 0:
            self.lives -= 1
        return self._obs(), float(self.frame), self.frame == self.length, False, {"frame": self.frame}


def test_sticky_actions():
    env = StickyActionEnv(FakeGame(), 1.0)
    env.reset(seed=0)
    env.step(2)
    assert env.unwrapped.actions == [0]
    env = StickyActionEnv(FakeGame(), 0.5)
    env.reset(seed=4)
    rng, expected, last = np.random.default_rng(4), [], 0
    for action in [1, 2, 0, 1, 2, 0, 1, 2]:
        last = action if rng.random() >= 0.5 else last
        expected.append(last)
        env.step(action)
    assert env.unwrapped.actions == expected
    with pytest.raises(AssertionError, match="NOOP"):
        StickyActionEnv(FakeGame(meanings=("UP", "FIRE", "NOOP")), 0.5)


def test_noop_reset():
    env = NoopResetEnv(FakeGame(), noop_max=6)
    obs, info = env.reset(seed=2)
    noops = int(np.random.default_rng(2).integers(1, 7))
    assert obs[0, 0, 0] == noops
    assert env.unwrapped.actions == [0] * noops
    assert info == {"frame": noops}
    env.override_num_noops = 5
    assert env.reset()[0][0, 0, 0] == 5
    over = NoopResetEnv(FakeGame(length=3))
    over.override_num_noops = 4
    obs, _ = over.reset()
    assert (obs[0, 0, 0], over.unwrapped.resets) == (1, 2)


def test_fire_reset():
    env = FireResetEnv(FakeGame())
    obs, info = env.reset()
    assert (obs[0, 0, 0], info, env.unwrapped.actions) == (2, {}, [1, 2])
    over = FireResetEnv(FakeGame(length=2))
    assert over.reset()[0][0, 0, 0] == 0
    assert over.unwrapped.resets == 2
    with pytest.raises(AssertionError, match="FIRE"):
        FireResetEnv(FakeGame(meanings=("NOOP", "UP", "FIRE")))
    with pytest.raises(AssertionError, match="three"):
        FireResetEnv(FakeGame(meanings=("NOOP", "FIRE")))


def test_a_life_is_an_episode_but_not_a_game():
    env = EpisodicLifeEnv(FakeGame(length=20))
    env.reset()
    ends = [env.step(2)[2] for _ in range(7)]
    assert ends == [False] * 6 + [True]
    assert not env.was_real_done
    obs, _ = env.reset()
    assert (obs[0, 0, 0], env.unwrapped.resets) == (8, 1)
    assert env.unwrapped.actions[-1] == 0
    while not env.was_real_done:
        env.step(2)
    assert env.reset()[0][0, 0, 0] == 0
    assert env.unwrapped.resets == 2
    # The no-op of the reset ends the game: it has to restart.
    last = EpisodicLifeEnv(FakeGame(length=8))
    last.reset()
    for _ in range(7):
        last.step(2)
    assert last.reset()[0][0, 0, 0] == 0


def test_max_and_skip():
    env = MaxAndSkipEnv(FakeGame(), skip=4)
    env.reset()
    obs, reward, terminated, _, info = env.step(1)
    assert (obs.max(), reward, terminated, info) == (4, 1 + 2 + 3 + 4, False, {"frame": 4})
    short = MaxAndSkipEnv(FakeGame(length=2), skip=4)
    short.reset()
    assert short.step(1)[1:3] == (3.0, True)


def test_max_is_taken_over_the_last_two_frames():
    class Flicker(FakeGame):
        def _obs(self):
            return np.full((6, 4, 3), [9, 200, 50, 100, 30][self.frame], dtype=np.uint8)

    env = MaxAndSkipEnv(Flicker(), skip=4)
    env.reset()
    assert env.step(0)[0].max() == 100


def test_rewards_are_clipped_to_their_sign():
    env = ClipRewardEnv(FakeGame())
    assert [env.reward(value) for value in (-3.5, 0, 12)] == [-1, 0, 1]
    assert isinstance(env.reward(2), float)


@pytest.fixture
def fake_cv2(monkeypatch):
    """Just enough of OpenCV: the mean of the channels, and whole-number shrinking by averaging."""
    cv2 = types.ModuleType("cv2")
    cv2.COLOR_RGB2GRAY, cv2.INTER_AREA = 7, 3

    def cvt_color(frame, code):
        assert code == 7
        return frame.mean(axis=2).astype(np.uint8)

    def resize(image, size, interpolation):
        assert interpolation == 3
        width, height = size
        blocks = image.reshape(height, image.shape[0] // height, width, image.shape[1] // width)
        return blocks.mean(axis=(1, 3)).astype(np.uint8)

    cv2.cvtColor, cv2.resize = cvt_color, resize
    monkeypatch.setitem(sys.modules, "cv2", cv2)


def test_frames_are_warped(fake_cv2):
    env = WarpFrame(FakeGame(), width=2, height=3)
    assert env.observation_space == spaces.Box(0, 255, shape=(3, 2, 1), dtype=np.uint8)
    frame = np.zeros((6, 4, 3), dtype=np.uint8)
    frame[:2, 2:] = (30, 60, 90)
    assert env.observation(frame)[:, :, 0].tolist() == [[0, 60], [0, 0], [0, 0]]


def test_everything_together(fake_cv2):
    env = AtariWrapper(FakeGame(life_every=17), noop_max=1, screen_size=2)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2, 2, 1)
    # One no-op, then FIRE and UP for four frames each.
    assert env.unwrapped.actions == [0] + [1] * 4 + [2] * 4
    obs, reward, terminated, _, _ = env.step(2)
    assert (obs.max(), reward, terminated) == (13, 1, False)
    assert env.step(2)[2]
    plain = AtariWrapper(
        FakeGame(meanings=("NOOP", "UP")), 0, 1, 2, terminal_on_life_loss=False, clip_reward=False
    )
    plain.reset()
    assert plain.step(1)[1] == 1
    assert plain.unwrapped.actions == [1]
    sticky = AtariWrapper(FakeGame(), screen_size=2, action_repeat_probability=1.0)
    sticky.reset()
    assert set(sticky.unwrapped.actions) == {0}


def test_opencv_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"opencv-python.*mlx-baselines3\[atari\]"):
        WarpFrame(FakeGame()).reset()
