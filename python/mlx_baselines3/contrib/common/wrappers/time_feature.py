"""A wrapper that shows an agent how much time is left."""

from typing import Any, SupportsFloat, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["TimeFeatureObs", "TimeFeatureWrapper"]

TimeFeatureObs: TypeAlias = np.ndarray | dict[str, np.ndarray]


class TimeFeatureWrapper(gym.Wrapper[TimeFeatureObs, Any, Any, Any]):
    """
    Appends the remaining share of the episode, 1 at its start and 0 at its end, to the observations of an
    environment with a time limit (https://arxiv.org/abs/1712.00378). The wrapped environment keeps its space.

    :param env: an environment with Box observations of one axis, or Dict observations with such a Box under
        the key ``observation``
    :param max_steps: steps of an episode; used only if the environment's specification has no time limit
    :param test_mode: the feature is always 1, to see whether an agent acts by it alone
    :raises AssertionError: the observations are of another kind
    """

    def __init__(self, env: gym.Env[Any, Any], max_steps: int = 1000, test_mode: bool = False):
        super().__init__(env)
        space = env.observation_space
        needed = "TimeFeatureWrapper needs Box observations of one axis, or Dict observations with such a Box"
        assert isinstance(space, spaces.Box | spaces.Dict), f"{needed}, got {space}."
        inner: Any = space
        if isinstance(space, spaces.Dict):
            assert "observation" in space.spaces, f"{needed} under the key `observation`, got {space}."
            inner = space["observation"]
        assert isinstance(inner, spaces.Box), f"{needed}, got {space}."
        assert len(inner.shape) == 1, f"{needed}, got {space}."
        self.dtype = inner.dtype
        longer = spaces.Box(
            low=np.append(inner.low, 0).astype(self.dtype),
            high=np.append(inner.high, 1).astype(self.dtype),
            dtype=self.dtype.type,
        )
        if isinstance(space, spaces.Dict):
            self.observation_space = spaces.Dict({**space.spaces, "observation": longer})  # type: ignore[assignment]
        else:
            self.observation_space = longer
        limit = None if env.spec is None else env.spec.max_episode_steps
        self._max_steps = max_steps if limit is None else limit
        self._current_step = 0
        self._test_mode = test_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TimeFeatureObs, dict[str, Any]]:
        """
        :param seed: seed of the environment
        :param options: options of the environment
        :return: the first observation, and the info
        """
        self._current_step = 0
        obs, info = self.env.reset(seed=seed, options=options)
        return self._get_obs(obs), info

    def step(self, action: Any) -> tuple[TimeFeatureObs, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        :param action: the action
        :return: observation, reward, whether the episode has terminated or was truncated, and the info
        """
        self._current_step += 1
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._get_obs(obs), reward, terminated, truncated, info

    def _get_obs(self, obs: TimeFeatureObs) -> TimeFeatureObs:
        """:return: the observation with the time feature behind it"""
        left = 1.0 if self._test_mode else 1 - self._current_step / self._max_steps
        feature = np.array(left, dtype=self.dtype)
        if isinstance(obs, dict):
            return {**obs, "observation": np.append(obs["observation"], feature)}
        return np.append(obs, feature)
