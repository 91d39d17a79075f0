"""What the classes of this folder share: named arrays of structured spaces, wrappers, copies of infos."""

import warnings
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.preprocessing import check_for_nested_spaces
from mlx_baselines3.common.vec_env.abstract import VecEnv, VecEnvObs

# Sharing one of these between two infos cannot be noticed.
_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, np.generic)


def dict_to_obs(obs_space: spaces.Space[Any], obs_dict: dict[Any, np.ndarray]) -> VecEnvObs:
    """
    Give named arrays the structure of a space; the inverse of what :func:`obs_space_info` describes.

    :param obs_space: the observation space
    :param obs_dict: arrays under the keys of :func:`obs_space_info`
    :return: the dict itself for a Dict space, a tuple for a Tuple space, otherwise the only array
    """
    if isinstance(obs_space, spaces.Dict):
        return obs_dict
    if isinstance(obs_space, spaces.Tuple):
        n_spaces = len(obs_space.spaces)
        assert len(obs_dict) == n_spaces, (
            f"expected {n_spaces} observations for {obs_space}, got {len(obs_dict)}"
        )
        return tuple(obs_dict[index] for index in range(n_spaces))
    assert set(obs_dict) == {None}, (
        f"expected one unnamed observation for {obs_space}, got keys {list(obs_dict)}"
    )
    return obs_dict[None]


def obs_space_info(
    obs_space: spaces.Space[Any],
) -> tuple[list[Any], dict[Any, tuple[int, ...]], dict[Any, np.dtype]]:
    """
    Describe the arrays that an observation consists of.

    The keys are those of a Dict space, the positions of a Tuple space, and ``None`` for any other space.

    :param obs_space: the observation space
    :return: the keys, their shapes, their dtypes
    :raises NotImplementedError: if a Dict or Tuple is nested in another
    """
    check_for_nested_spaces(obs_space)
    subspaces: dict[Any, spaces.Space[Any]]
    if isinstance(obs_space, spaces.Dict):
        subspaces = dict(obs_space.spaces)
    elif isinstance(obs_space, spaces.Tuple):
        subspaces = dict(enumerate(obs_space.spaces))
    else:
        assert not hasattr(obs_space, "spaces"), f"Unsupported structured space '{type(obs_space)}'"
        subspaces = {None: obs_space}
    shapes = {key: tuple(space.shape or ()) for key, space in subspaces.items()}
    dtypes = {key: np.dtype(space.dtype) for key, space in subspaces.items()}
    return list(subspaces), shapes, dtypes


def check_shape_equal(space1: spaces.Space[Any], space2: spaces.Space[Any]) -> None:
    """
    Check that two ``Box`` spaces have one shape; ``Dict`` spaces are compared key by key, others pass.

    :param space1: a space
    :param space2: another one
    :raises AssertionError: keys or shapes differ
    """
    if isinstance(space1, spaces.Dict):
        assert isinstance(space2, spaces.Dict), (
            f"spaces must be of the same type: {type(space1)} != {type(space2)}"
        )
        keys1, keys2 = space1.spaces.keys(), space2.spaces.keys()
        assert keys1 == keys2, f"spaces must have the same keys: {list(keys1)} != {list(keys2)}"
        for key in keys1:
            check_shape_equal(space1.spaces[key], space2.spaces[key])
    elif isinstance(space1, spaces.Box):
        assert space1.shape == space2.shape, (
            f"spaces must have the same shape: {space1.shape} != {space2.shape}"
        )


def unwrap_wrapper(env: gym.Env, wrapper_class: type[gym.Wrapper]) -> gym.Wrapper | None:
    """
    Find a wrapper around an environment.

    :param env: the environment
    :param wrapper_class: the wrapper to look for
    :return: the outermost wrapper of that class, None if there is none
    """
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return env
        env = env.env
    return None


def is_wrapped(env: gym.Env, wrapper_class: type[gym.Wrapper]) -> bool:
    """
    Say whether an environment carries a wrapper.

    :param env: the environment
    :param wrapper_class: the wrapper to look for
    :return: True if it is there, at any depth
    """
    return unwrap_wrapper(env, wrapper_class) is not None


def no_images(env: VecEnv) -> list[None]:
    """
    Say that environments do not draw themselves into arrays.

    :param env: environments whose render mode is not ``rgb_array``
    :return: None for each of them
    """
    warnings.warn(
        f"Images need render_mode='rgb_array', but the environments have '{env.render_mode}'.", stacklevel=3
    )
    return [None] * env.num_envs


def copy_value(value: Any) -> Any:
    """
    Copy what can change, as :func:`copy.deepcopy` does, but fast for the usual contents of an info.

    :param value: an observation, or a value found in an info
    :return: a value that shares nothing mutable with the original
    """
    if isinstance(value, _IMMUTABLE):
        return value
    if type(value) is np.ndarray and not value.dtype.hasobject:
        return value.copy()
    if type(value) is dict:
        return {key: copy_value(item) for key, item in value.items()}
    return deepcopy(value)
