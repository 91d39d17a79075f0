"""Is this one observation or a batch of them, and are two spaces the same? Reached through ``utils``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces


def is_vectorized_box_observation(observation: np.ndarray, observation_space: spaces.Box) -> bool:
    """
    Tell a batch of ``Box`` observations from a single one.

    :param observation: ``(*shape)`` or ``(n_env, *shape)``
    :param observation_space: the space of one observation
    :return: True for a batch
    :raises ValueError: the shape is neither
    """
    shape = observation_space.shape
    if observation.shape == shape:
        return False
    if observation.shape[1:] == shape:
        return True
    raise ValueError(
        f"Error: Unexpected observation shape {observation.shape} for Box environment, "
        f"please use {shape} or (n_env, {', '.join(map(str, shape))}) for the observation shape."
    )


def is_vectorized_discrete_observation(
    observation: int | np.ndarray, observation_space: spaces.Discrete
) -> bool:
    """
    Tell a batch of ``Discrete`` observations from a single one.

    :param observation: an int, ``()`` or ``(n_env,)``
    :param observation_space: the space of one observation
    :return: True for a batch
    :raises ValueError: the shape is neither
    """
    if isinstance(observation, int) or observation.shape == ():
        return False
    if observation.ndim == 1:
        return True
    raise ValueError(
        f"Error: Unexpected observation shape {observation.shape} for Discrete environment, "
        "please use () or (n_env,) for the observation shape."
    )


def is_vectorized_multidiscrete_observation(
    observation: np.ndarray, observation_space: spaces.MultiDiscrete
) -> bool:
    """
    Tell a batch of ``MultiDiscrete`` observations from a single one.

    :param observation: ``(k,)`` or ``(n_env, k)`` for ``k`` components
    :param observation_space: the space of one observation
    :return: True for a batch
    :raises ValueError: the shape is neither
    """
    length = len(observation_space.nvec)
    if observation.shape == (length,):
        return False
    if observation.ndim == 2 and observation.shape[1] == length:
        return True
    raise ValueError(
        f"Error: Unexpected observation shape {observation.shape} for MultiDiscrete environment, "
        f"please use ({length},) or (n_env, {length}) for the observation shape."
    )


def is_vectorized_multibinary_observation(
    observation: np.ndarray, observation_space: spaces.MultiBinary
) -> bool:
    """
    Tell a batch of ``MultiBinary`` observations from a single one.

    :param observation: ``(*shape)`` or ``(n_env, *shape)``
    :param observation_space: the space of one observation
    :return: True for a batch
    :raises ValueError: the shape is neither
    """
    shape = observation_space.shape
    if observation.shape == shape:
        return False
    if observation.ndim == len(shape) + 1 and observation.shape[1:] == shape:
        return True
    raise ValueError(
        f"Error: Unexpected observation shape {observation.shape} for MultiBinary environment, "
        f"please use {shape} or (n_env, {', '.join(map(str, shape))}) for the observation shape."
    )


def is_vectorized_dict_observation(
    observation: dict[str, np.ndarray], observation_space: spaces.Dict
) -> bool:
    """
    Tell a batch of ``Dict`` observations from a single one; all keys must agree.

    :param observation: one array for each key, each ``(*shape)`` or each ``(n_env, *shape)``
    :param observation_space: the space of one observation
    :return: True for a batch
    :raises ValueError: some keys hold a batch and others do not, or a shape is wrong
    """
    shapes = {key: np.shape(observation[key]) for key in observation_space.spaces}
    if all(shapes[key] == space.shape for key, space in observation_space.spaces.items()):
        return False
    # a scalar has no batch axis, although its shape[1:] is () too
    odd_keys = [
        key
        for key, space in observation_space.spaces.items()
        if shapes[key] == () or shapes[key][1:] != space.shape
    ]
    if not odd_keys:
        return True
    key = odd_keys[0]
    try:
        is_vectorized_observation(observation[key], observation_space.spaces[key])
        detail = ""
    except ValueError as error:
        detail = str(error)
    raise ValueError(
        "There seems to be a mix of vectorized and non-vectorized observations. "
        f"Unexpected observation shape {shapes[key]} for key {key} "
        f"of type {observation_space.spaces[key]}. {detail}"
    )


_CHECKS: dict[type[spaces.Space[Any]], Any] = {
    spaces.Box: is_vectorized_box_observation,
    spaces.Discrete: is_vectorized_discrete_observation,
    spaces.MultiDiscrete: is_vectorized_multidiscrete_observation,
    spaces.MultiBinary: is_vectorized_multibinary_observation,
    spaces.Dict: is_vectorized_dict_observation,
}


def is_vectorized_observation(
    observation: int | np.ndarray | dict[str, np.ndarray], observation_space: spaces.Space[Any]
) -> bool:
    """
    Tell a batch of observations from a single one.

    :param observation: the observation or the batch
    :param observation_space: the space of one observation
    :return: True for a batch
    :raises ValueError: the shape fits neither, or the space is not one of Box, Discrete, MultiDiscrete,
        MultiBinary, Dict
    """
    for space_type, check in _CHECKS.items():
        if isinstance(observation_space, space_type):
            return bool(check(observation, observation_space))
    raise ValueError(
        f"Error: Cannot determine if the observation is vectorized with the space type {observation_space}."
    )


def without_far_bounds(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """
    Gymnasium 0.29 bounds what has no bound by the largest float32, later versions by infinity.

    :param space: a space
    :return: for a ``Box`` of floats, or a ``Dict`` with some, the same with infinity in the place of such
        bounds; any other space as it is
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: without_far_bounds(part) for key, part in space.spaces.items()})
    if type(space) is not spaces.Box or space.dtype.kind != "f":
        return space
    far = np.finfo(space.dtype).max
    low, high = (
        np.where(np.abs(bound) >= far, np.copysign(np.inf, bound), bound).astype(space.dtype)
        for bound in (space.low, space.high)
    )
    return spaces.Box(low, high, space.shape, space.dtype.type)


def with_terminal_observations(
    obs: Any, dones: np.ndarray, infos: list[dict[str, Any]], unnormalize: Callable[[Any], Any] | None = None
) -> Any:
    """
    Environments reset themselves: what followed the last action of an episode is in its info.

    :param obs: (n_envs, ...) observations of a step, or a dictionary of them; they stay as they are
    :param dones: (n_envs,) which episodes ended
    :param infos: one per environment
    :param unnormalize: gives the observations of the infos the form of ``obs``
    :return: what followed the actions
    """
    ended = [i for i in np.flatnonzero(dones) if infos[i].get("terminal_observation") is not None]
    if not ended:
        return obs
    obs = {key: part.copy() for key, part in obs.items()} if isinstance(obs, dict) else obs.copy()
    for i in ended:
        terminal = infos[i]["terminal_observation"]
        if unnormalize is not None:
            terminal = unnormalize(terminal)
        if isinstance(obs, dict):
            for key, part in obs.items():
                part[i] = terminal[key]
        else:
            obs[i] = terminal
    return obs
