"""Transposition of images to channels first."""

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvStepReturn, VecEnvWrapper
from mlx_baselines3.common.vec_env.gym_vec_env import as_vec_env


class VecTransposeImage(VecEnvWrapper):
    """
    Transpose images from HxWxC to CxHxW, the layout of SB3's convolutional policies.

    :param venv: vectorised environment whose observations are images, or dicts that may contain some
    :param skip: do not transpose, if the detection of channel-last images would be wrong
    """

    def __init__(self, venv: VecEnv, skip: bool = False) -> None:
        venv = as_vec_env(venv)
        space = venv.observation_space
        assert is_image_space(space) or isinstance(space, spaces.Dict), (
            f"The observation space must be an image or dictionary observation space, got {space}"
        )
        self.skip = skip
        if skip:
            super().__init__(venv)
            return
        if isinstance(space, spaces.Dict):
            self.image_space_keys = [key for key, part in space.spaces.items() if is_image_space(part)]
            dict_space = deepcopy(space)
            for key in self.image_space_keys:
                dict_space.spaces[key] = self.transpose_space(_as_box(space.spaces[key]), key)
            super().__init__(venv, observation_space=dict_space)
        else:
            super().__init__(venv, observation_space=self.transpose_space(_as_box(space)))

    @staticmethod
    def transpose_space(observation_space: spaces.Box, key: str = "") -> spaces.Box:
        """
        Transpose the shape of an image space.

        :param observation_space: channel-last image space ``(H, W, C)``
        :param key: its key in a Dict space, for the error message
        :return: the same space with shape ``(C, H, W)``
        """
        assert is_image_space(observation_space), f"The observation space {key} must be an image"
        assert not is_image_space_channels_first(observation_space), (
            f"The observation space {key} must follow the channel last convention, got {observation_space}"
        )
        height, width, channels = observation_space.shape
        dtype: Any = observation_space.dtype
        return spaces.Box(low=0, high=255, shape=(channels, height, width), dtype=dtype)

    @staticmethod
    def transpose_image(image: np.ndarray) -> np.ndarray:
        """
        Transpose one image or a batch.

        :param image: ``(H, W, C)`` or ``(N, H, W, C)``
        :return: a view ``(C, H, W)`` or ``(N, C, H, W)``
        """
        return np.transpose(image, (2, 0, 1) if image.ndim == 3 else (0, 3, 1, 2))

    def transpose_observations(self, observations: Any) -> Any:
        """
        Transpose the images among the observations.

        :param observations: one observation or a batch; an array, or a dict of them
        :return: new observations; the arrays are views or the arrays passed in
        """
        if self.skip:
            return observations
        if isinstance(observations, dict):
            images = {key: self.transpose_image(observations[key]) for key in self.image_space_keys}
            return {**observations, **images}
        return self.transpose_image(observations)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            info = infos[index]
            if "terminal_observation" in info:
                info["terminal_observation"] = self.transpose_observations(info["terminal_observation"])
        return self.transpose_observations(observations), rewards, dones, infos

    def reset(self) -> Any:
        """
        Start a new episode in every environment.

        :return: the first observations, images channel-first
        """
        return self.transpose_observations(self.venv.reset())


def _as_box(space: spaces.Space[Any]) -> spaces.Box:
    assert isinstance(space, spaces.Box)
    return space
