"""The preprocessing of Atari games used since the Nature DQN paper."""

from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common._types import AtariResetReturn as AtariResetReturn
from mlx_baselines3.common._types import AtariStepReturn as AtariStepReturn

if TYPE_CHECKING:
    import cv2 as cv2
else:
    __getattr__ = lazy_names(globals(), optional={"cv2": "cv2"})

# ALE environments offer more than gym.Env declares (`ale`, `get_action_meanings`).
AtariEnv = Any


def _action_meanings(env: AtariEnv) -> list[str]:
    meanings: list[str] = env.unwrapped.get_action_meanings()
    return meanings


class StickyActionEnv(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    Repeat the last action with some probability (Machado et al., https://arxiv.org/abs/1709.06009).

    :param env: environment whose action 0 is NOOP
    :param action_repeat_probability: probability that a step repeats the last action
    """

    def __init__(self, env: gym.Env, action_repeat_probability: float) -> None:
        super().__init__(env)
        self.action_repeat_probability = action_repeat_probability
        assert _action_meanings(env)[0] == "NOOP", f"action 0 must be NOOP, got {_action_meanings(env)}"
        self._sticky_action = 0

    def reset(self, **kwargs: Any) -> AtariResetReturn:
        self._sticky_action = 0
        return self.env.reset(**kwargs)

    def step(self, action: int) -> AtariStepReturn:
        if self.np_random.random() >= self.action_repeat_probability:
            self._sticky_action = action
        return self.env.step(self._sticky_action)


class NoopResetEnv(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    Begin each episode with a random number of no-ops.

    :param env: environment whose action 0 is NOOP
    :param noop_max: largest number of no-ops; the smallest is 1
    """

    def __init__(self, env: gym.Env, noop_max: int = 30) -> None:
        super().__init__(env)
        self.noop_max = noop_max
        self.override_num_noops: int | None = None
        self.noop_action = 0
        assert _action_meanings(env)[0] == "NOOP", f"action 0 must be NOOP, got {_action_meanings(env)}"

    def reset(self, **kwargs: Any) -> AtariResetReturn:
        obs, info = self.env.reset(**kwargs)
        if self.override_num_noops is not None:
            noops = self.override_num_noops
        else:
            noops = int(self.unwrapped.np_random.integers(1, self.noop_max + 1))
        assert noops > 0, f"the number of no-ops must be at least 1, got {noops}"
        for _ in range(noops):
            obs, _, terminated, truncated, info = self.env.step(self.noop_action)
            if terminated or truncated:
                obs, info = self.env.reset(**kwargs)
        return obs, info


class FireResetEnv(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    Press FIRE after a reset, for games that wait for it.

    :param env: environment with at least three actions, of which action 1 is FIRE
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        meanings = _action_meanings(env)
        assert meanings[1] == "FIRE", f"action 1 must be FIRE, got {meanings}"
        assert len(meanings) >= 3, f"at least three actions are needed, got {meanings}"

    def reset(self, **kwargs: Any) -> AtariResetReturn:
        self.env.reset(**kwargs)
        obs = np.zeros(0)
        for action in (1, 2):
            obs, _, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:
                obs, _ = self.env.reset(**kwargs)
        return obs, {}


class EpisodicLifeEnv(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    End an episode with each life lost, but restart the game only when it is over.

    ``reset`` after the loss of a life is a no-op step, so that all states of the game are reached.
    For evaluation use ``make_atari_env(..., wrapper_kwargs=dict(terminal_on_life_loss=False))``.

    :param env: environment with ``ale.lives()``
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.lives = 0
        self.was_real_done = True

    def _count_lives(self) -> int:
        game: AtariEnv = self.env.unwrapped
        return int(game.ale.lives())

    def step(self, action: int) -> AtariStepReturn:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.was_real_done = terminated or truncated
        lives = self._count_lives()
        # Qbert stays at zero lives for some frames before the game is over: that is not one more life lost.
        if 0 < lives < self.lives:
            terminated = True
        self.lives = lives
        return obs, reward, terminated, truncated, info

    def reset(self, **kwargs: Any) -> AtariResetReturn:
        """
        Restart the game if it is over, otherwise go on with the next life.

        :param kwargs: arguments of the environment's reset
        :return: observation, info
        """
        over = self.was_real_done
        if not over:
            obs, _, terminated, truncated, info = self.env.step(0)
            # The no-op can itself end the game.
            over = terminated or truncated
        if over:
            obs, info = self.env.reset(**kwargs)
        self.lives = self._count_lives()
        return obs, info


class MaxAndSkipEnv(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    Take each action several times; return the pixel-wise maximum of the last two frames, as sprites flicker.

    :param env: environment to wrap
    :param skip: number of times that an action is taken; the rewards are summed
    """

    def __init__(self, env: gym.Env, skip: int = 4) -> None:
        super().__init__(env)
        space = env.observation_space
        assert space.dtype is not None, "No dtype specified for the observation space"
        assert space.shape is not None, "No shape defined for the observation space"
        self._obs_buffer = np.zeros((2, *space.shape), dtype=space.dtype)
        self._skip = skip

    def step(self, action: int) -> AtariStepReturn:
        """
        Take an action ``skip`` times, fewer if the episode ends.

        The frame returned when an episode ends early is not meaningful.

        :param action: the action
        :return: observation, summed reward, terminated, truncated, info
        """
        total_reward = 0.0
        for i in range(self._skip):
            obs, reward, terminated, truncated, info = self.env.step(action)
            if i >= self._skip - 2:
                self._obs_buffer[i - self._skip + 2] = obs
            total_reward += float(reward)
            if terminated or truncated:
                break
        return self._obs_buffer.max(axis=0), total_reward, terminated, truncated, info


class ClipRewardEnv(gym.RewardWrapper[np.ndarray, int]):
    """
    Replace rewards by their sign.

    :param env: environment to wrap
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)

    def reward(self, reward: SupportsFloat) -> float:
        """
        :param reward: the reward
        :return: -1, 0 or 1
        """
        return float(np.sign(float(reward)))


class WarpFrame(gym.ObservationWrapper[np.ndarray, int, np.ndarray]):
    """
    Turn frames into greyscale images of a fixed size.

    :param env: environment whose observations are RGB images ``(H, W, 3)``
    :param width: new width
    :param height: new height
    """

    def __init__(self, env: gym.Env, width: int = 84, height: int = 84) -> None:
        super().__init__(env)
        self.width = width
        self.height = height
        assert isinstance(env.observation_space, spaces.Box), (
            f"Expected Box space, got {env.observation_space}"
        )
        space: Any = spaces.Box(0, 255, shape=(height, width, 1), dtype=env.observation_space.dtype)
        self.observation_space = space

    def observation(self, frame: np.ndarray) -> np.ndarray:
        """
        Warp one frame.

        :param frame: RGB image ``(H, W, 3)``
        :return: greyscale image ``(height, width, 1)``
        :raises ImportError: if OpenCV is missing
        """
        try:
            import cv2
        except ImportError as error:
            raise ImportError(
                "opencv-python is needed to resize Atari frames. Install it with "
                "`pip install 'mlx-baselines3[atari]'`."
            ) from error
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        resized: np.ndarray = cv2.resize(grey, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return resized[:, :, None]


class AtariWrapper(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """
    All of the Atari preprocessing: sticky actions, no-op starts, frame skip with max-pooling, an episode per
    life, FIRE on reset, 84x84 greyscale frames, rewards clipped to their sign.

    Frames are skipped here, so use ids that do not skip them: ``"PongNoFrameskip-v4"``.

    :param env: environment to wrap
    :param noop_max: largest number of no-ops at the start; 0 for none
    :param frame_skip: number of times that each action is taken
    :param screen_size: height and width of the frames
    :param terminal_on_life_loss: end an episode with each life lost
    :param clip_reward: replace rewards by their sign
    :param action_repeat_probability: probability of repeating the last action
    """

    def __init__(
        self,
        env: gym.Env,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        action_repeat_probability: float = 0.0,
    ) -> None:
        if action_repeat_probability > 0.0:
            env = StickyActionEnv(env, action_repeat_probability)
        if noop_max > 0:
            env = NoopResetEnv(env, noop_max=noop_max)
        if frame_skip > 1:
            env = MaxAndSkipEnv(env, skip=frame_skip)
        if terminal_on_life_loss:
            env = EpisodicLifeEnv(env)
        if "FIRE" in _action_meanings(env):
            env = FireResetEnv(env)
        env = WarpFrame(env, width=screen_size, height=screen_size)
        if clip_reward:
            env = ClipRewardEnv(env)
        super().__init__(env)
