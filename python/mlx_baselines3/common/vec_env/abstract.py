"""The vectorised environment: many environments behind one ``reset`` and one ``step``."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env._images import tile_images
from mlx_baselines3.common.vec_env._window import show_image

VecEnvIndices = int | Iterable[int] | None
"""Which environments of a ``VecEnv`` a call is about; ``None`` means all of them."""

VecEnvObs = np.ndarray | dict[str, np.ndarray] | tuple[np.ndarray, ...]
"""A batch of observations: every array has the environment index as first axis."""

VecEnvStepReturn = tuple[VecEnvObs, np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Observations, rewards ``(n_envs,)`` float32, dones ``(n_envs,)`` bool, one info dict per environment."""


class VecEnv(ABC):
    """
    Many independent environments stepped together.

    An environment that ends an episode is reset within the same step: the observation returned is the first
    of the next episode, and the last one of the old is in ``infos[i]["terminal_observation"]``.

    :param num_envs: number of environments
    :param observation_space: observation space of one environment
    :param action_space: action space of one environment
    """

    def __init__(
        self, num_envs: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.num_envs = num_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._reset_seeds()
        self._reset_options()
        self.render_mode = self._common_render_mode()
        self.metadata: dict[str, Any] = {"render_modes": self._supported_render_modes()}

    def _common_render_mode(self) -> str | None:
        try:
            modes = self.get_attr("render_mode")
        except AttributeError:
            warnings.warn(
                "The `render_mode` attribute is not defined in your environment. It will be set to None.",
                stacklevel=4,
            )
            return None
        assert all(mode == modes[0] for mode in modes), (
            f"render_mode mode should be the same for all environments, got {modes}"
        )
        mode: str | None = modes[0]
        return mode

    def _supported_render_modes(self) -> list[str]:
        if self.render_mode is None:
            return []
        # An array can also be shown to a person: render() opens a window for it.
        return ["human", "rgb_array"] if self.render_mode == "rgb_array" else [self.render_mode]

    def _reset_seeds(self) -> None:
        """Forget the seeds waiting for the next reset."""
        self._seeds: list[int | None] = [None] * self.num_envs

    def _reset_options(self) -> None:
        """Forget the options waiting for the next reset."""
        self._options: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

    @abstractmethod
    def reset(self) -> VecEnvObs:
        """
        Start a new episode in every environment.

        Seeds from :meth:`seed` and options from :meth:`set_options` are used once, by this reset.

        :return: the first observations
        """

    @abstractmethod
    def step_async(self, actions: np.ndarray) -> None:
        """
        Hand every environment its action; :meth:`step_wait` collects the outcome.

        :param actions: one action per environment, the environment index first
        """

    @abstractmethod
    def step_wait(self) -> VecEnvStepReturn:
        """
        Collect the outcome of the last :meth:`step_async`.

        :return: observations, rewards ``(n_envs,)``, dones ``(n_envs,)``, infos
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the environments hold."""

    def has_attr(self, attr_name: str) -> bool:
        """
        Say whether every environment has an attribute.

        :param attr_name: name of the attribute
        :return: False if at least one environment lacks it
        """
        try:
            self.get_attr(attr_name)
        except AttributeError:
            return False
        return True

    @abstractmethod
    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute of the environments, looking through their wrappers.

        :param attr_name: name of the attribute
        :param indices: which environments, all by default
        :return: one value per environment asked
        :raises AttributeError: if an environment lacks it
        """

    @abstractmethod
    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute on the outermost wrapper of the environments.

        :param attr_name: name of the attribute
        :param value: the value, the same for all
        :param indices: which environments, all by default
        """

    @abstractmethod
    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of the environments.

        :param method_name: name of the method
        :param method_args: positional arguments of the call
        :param indices: which environments, all by default
        :param method_kwargs: keyword arguments of the call
        :return: one result per environment called
        """

    @abstractmethod
    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Say which environments carry a wrapper.

        :param wrapper_class: the Gymnasium wrapper to look for
        :param indices: which environments, all by default
        :return: one answer per environment asked
        """

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        """
        Step every environment once.

        :param actions: one action per environment, the environment index first
        :return: observations, rewards ``(n_envs,)``, dones ``(n_envs,)``, infos
        """
        self.step_async(actions)
        return self.step_wait()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Render every environment to an RGB array.

        :return: one image ``(H, W, 3)`` per environment, None where there is none
        """
        raise NotImplementedError(f"{type(self).__name__} cannot render to images.")

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """
        Render the environments, tiled into one image when there are several.

        Gymnasium fixes the mode when an environment is made. ``"human"`` on an ``"rgb_array"`` environment
        shows the image in an OpenCV window.

        :param mode: None for the mode of the environments
        :return: the image ``(H, W, 3)`` in ``"rgb_array"`` mode, otherwise None
        """
        show_array = mode == "human" and self.render_mode == "rgb_array"
        if mode and mode != self.render_mode and not show_array:
            warnings.warn(
                f"You asked to render with mode='{mode}', but the environments were made with "
                f"render_mode='{self.render_mode}'. Pass the render mode when you make the environments.",
                stacklevel=2,
            )
            return None
        mode = mode or self.render_mode
        if mode is None:
            warnings.warn("You tried to render environments made without a `render_mode`.", stacklevel=2)
            return None
        if self.render_mode != "rgb_array":
            self.env_method("render")
            return None
        image = tile_images([image for image in self.get_images() if image is not None])
        if mode == "human":
            show_image(image)
            return None
        return image

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Choose the seeds of the next :meth:`reset`: environment ``i`` gets ``seed + i``.

        :param seed: the first seed; None draws one from NumPy's global generator
        :return: the seed of each environment
        """
        if seed is None:
            # NumPy's global generator is the one that `set_random_seed` controls.
            seed = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))  # noqa: NPY002
        self._seeds = [seed + index for index in range(self.num_envs)]
        return self._seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """
        Choose the ``options`` of the next :meth:`reset`.

        :param options: one dict for all environments, or a list with one dict for each
        :raises ValueError: if a list has the wrong length
        """
        if isinstance(options, list):
            if len(options) != self.num_envs:
                raise ValueError(
                    f"set_options got a list of {len(options)} dicts for {self.num_envs} environments. "
                    "Pass one dict per environment, or a single dict for all of them."
                )
            self._options = deepcopy(options)
        else:
            self._options = [deepcopy(options or {}) for _ in range(self.num_envs)]

    @property
    def unwrapped(self) -> "VecEnv":
        """The ``VecEnv`` inside all ``VecEnvWrapper``s."""
        return self

    def getattr_depth_check(self, name: str, already_found: bool) -> str | None:
        """
        Find an attribute that a wrapper further out hides.

        :param name: name of the attribute
        :param already_found: whether a wrapper further out has it
        :return: the class whose attribute is hidden, if any
        """
        return class_path(self) if already_found and hasattr(self, name) else None

    def _get_indices(self, indices: VecEnvIndices) -> Iterable[int]:
        """
        :param indices: None (all), one or several
        :return: the indices
        """
        if indices is None:
            return range(self.num_envs)
        if isinstance(indices, int | np.integer):
            return [int(indices)]
        return indices


GymEnv = gym.Env[Any, Any] | VecEnv
"""An environment, or many of them: what algorithms take. Reached through ``type_aliases``."""


def class_path(obj: object) -> str:
    """
    :param obj: anything
    :return: its class, for messages: ``"module.name"``
    """
    return f"{type(obj).__module__}.{type(obj).__name__}"
