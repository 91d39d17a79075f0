"""Wrappers around vectorised environments, and SB3's path to the vectorised environment itself."""

import inspect
from collections.abc import Sequence
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env._images import tile_images
from mlx_baselines3.common.vec_env.abstract import (
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
    class_path,
)
from mlx_baselines3.common.vec_env.gym_vec_env import as_vec_env

__all__ = [
    "CloudpickleWrapper",
    "VecEnv",
    "VecEnvIndices",
    "VecEnvObs",
    "VecEnvStepReturn",
    "VecEnvWrapper",
    "tile_images",
]


class VecEnvWrapper(VecEnv):
    """
    A ``VecEnv`` around another one. Attributes that the wrapper lacks are looked up further in.

    :param venv: the vectorised environment to wrap; one of Gymnasium's or an EnvPool becomes a ``GymVecEnv``
    :param observation_space: the new observation space; None keeps that of ``venv``
    :param action_space: the new action space; None keeps that of ``venv``
    """

    def __init__(
        self,
        venv: VecEnv,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> None:
        self.venv = venv = as_vec_env(venv)
        super().__init__(
            num_envs=venv.num_envs,
            observation_space=venv.observation_space if observation_space is None else observation_space,
            action_space=venv.action_space if action_space is None else action_space,
        )
        self.class_attributes = dict(inspect.getmembers(self.__class__))

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        return self.venv.seed(seed)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        self.venv.set_options(options)

    def close(self) -> None:
        self.venv.close()

    def render(self, mode: str | None = None) -> np.ndarray | None:
        return self.venv.render(mode=mode)

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.venv.get_images()

    def has_attr(self, attr_name: str) -> bool:
        return self.venv.has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self.venv.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self.venv.set_attr(attr_name, value, indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return self.venv.env_is_wrapped(wrapper_class, indices=indices)

    @property
    def unwrapped(self) -> VecEnv:
        return self.venv.unwrapped

    def __getstate__(self) -> dict[str, Any]:
        # Among the attributes of a class are some that cannot be pickled or copied.
        return {name: value for name, value in self.__dict__.items() if name != "class_attributes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, class_attributes=dict(inspect.getmembers(type(self))))

    def __getattr__(self, name: str) -> Any:
        # A wrapper that pickle or deepcopy has made but not yet filled has nothing to look into.
        if name.startswith("__") or name in ("venv", "class_attributes"):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        if (hidden := self.getattr_depth_check(name, already_found=False)) is not None:
            raise AttributeError(
                f"Attribute '{name}' is ambiguous from {class_path(self)}: more than one wrapper has it, "
                f"and that of {hidden} is hidden. Read it from the wrapper itself (see `unwrap_vec_wrapper`)."
            )
        return self.getattr_recursive(name)

    def _get_all_attributes(self) -> dict[str, Any]:
        """:return: the attributes of this wrapper alone, those of the instance and of its class"""
        return {**self.__dict__, **self.class_attributes}

    def getattr_recursive(self, name: str) -> Any:
        """
        Look an attribute up in this wrapper, then in those further in.

        :param name: name of the attribute
        :return: its value
        """
        if name in self._get_all_attributes():
            return getattr(self, name)
        # getattr on a wrapper would repeat the check for hidden attributes.
        inner = getattr(type(self.venv), "getattr_recursive", None)
        return getattr(self.venv, name) if inner is None else inner(self.venv, name)

    def getattr_depth_check(self, name: str, already_found: bool) -> str | None:
        found_here = name in self._get_all_attributes()
        if found_here and already_found:
            return class_path(self)
        return self.venv.getattr_depth_check(name, already_found or found_here)


class CloudpickleWrapper:
    """
    Lets plain pickle carry lambdas and local functions, through cloudpickle.

    :param var: the value to carry
    """

    def __init__(self, var: Any) -> None:
        self.var = var

    def __getstate__(self) -> Any:
        return cloudpickle.dumps(self.var)

    def __setstate__(self, var: Any) -> None:
        self.var = cloudpickle.loads(var)
