"""Preprocessing of observations: image checks, one-hot encoding, shapes and sizes."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.nn.integer_observations import are_readable, check_integers, first_values

if TYPE_CHECKING:
    import mlx.core as mx


def is_image_space_channels_first(observation_space: spaces.Box) -> bool:
    """
    Distinguish channel-first (CxHxW) from channel-last images (HxWxC): channels are the smallest dimension.

    :param observation_space: an image space (see :func:`is_image_space`)
    :return: True for channel-first
    """
    smallest = int(np.argmin(observation_space.shape))
    if smallest == 1:
        warnings.warn(
            "Treating image space as channels-last, while second dimension was smallest of the three.",
            stacklevel=2,
        )
    return smallest == 0


def is_image_space(
    observation_space: spaces.Space[Any],
    check_channels: bool = False,
    normalized_image: bool = False,
) -> bool:
    """
    Check whether a space contains images: a three-dimensional Box of uint8 from 0 to 255.

    :param observation_space: the space
    :param check_channels: also require 1, 3 or 4 channels (stacked frames have more)
    :param normalized_image: the images are already normalised: do not check dtype and bounds
    :return: True for an image space
    """
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 3:
        return False
    if not normalized_image:
        if observation_space.dtype != np.uint8:
            return False
        if np.any(observation_space.low != 0) or np.any(observation_space.high != 255):
            return False
    if not check_channels:
        return True
    channel_axis = 0 if is_image_space_channels_first(observation_space) else -1
    return observation_space.shape[channel_axis] in (1, 3, 4)


def maybe_transpose(observation: np.ndarray, observation_space: spaces.Space[Any]) -> np.ndarray:
    """
    Transpose a channel-last image to the channel-first layout of the space, if that makes the shapes match.

    :param observation: an image ``(H, W, C)`` or a batch ``(N, H, W, C)``; others are returned unchanged
    :param observation_space: the space that the observation should match
    :return: the observation, channel-first if the space is channel-first
    """
    if not is_image_space(observation_space) or _fits(observation, observation_space):
        return observation
    if observation.ndim not in (3, 4):
        return observation
    transposed = np.moveaxis(observation, -1, -3)
    return transposed if _fits(transposed, observation_space) else observation


def _fits(observation: np.ndarray, space: spaces.Space[Any]) -> bool:
    return observation.shape == space.shape or observation.shape[1:] == space.shape


def preprocess_obs(
    obs: "mx.array | dict[str, mx.array]",
    observation_space: spaces.Space[Any],
    normalize_images: bool = True,
) -> "mx.array | dict[str, mx.array]":
    """
    Convert a batch of observations to float32 for a network: images in [0, 1], integers one-hot encoded.

    In a compiled step, which cannot inspect values, an integer outside of its space is encoded as zeros; the
    algorithms check the inputs of compiled steps beforehand.

    :param obs: batch of observations, batch axis first; a dict of them for a Dict space
    :param observation_space: the space of one observation
    :param normalize_images: divide images by 255
    :return: float32 arrays: ``(batch, *shape)`` for Box and MultiBinary, ``(batch, n)`` for Discrete,
        ``(batch, sum(nvec))`` for MultiDiscrete
    :raises NotImplementedError: for any other space
    :raises RuntimeError: an integer is outside of its space
    """
    import mlx.core as mx

    if isinstance(observation_space, spaces.Dict):
        assert isinstance(obs, dict), f"Expected dict, got {type(obs)}"
        # Dict spaces are not nested, see check_for_nested_spaces.
        space = observation_space
        parts: dict[str, Any] = {
            k: preprocess_obs(part, space[k], normalize_images) for k, part in obs.items()
        }
        return parts

    assert isinstance(obs, mx.array), f"Expected an mx.array, got {type(obs)}"
    if isinstance(observation_space, spaces.Box):
        if not (normalize_images and is_image_space(observation_space)):
            return obs.astype(mx.float32)
        if obs.ndim != 4 or not is_image_space_channels_first(observation_space):
            return obs.astype(mx.float32) / 255.0
        # Turned while it is scaled: MLX convolves with the channels last, and its layers turn it back.
        return (obs.transpose(0, 2, 3, 1).astype(mx.float32) / 255.0).transpose(0, 3, 1, 2)
    if isinstance(observation_space, spaces.Discrete | spaces.MultiDiscrete):
        return _one_hot(obs, observation_space)
    if isinstance(observation_space, spaces.MultiBinary):
        return obs.astype(mx.float32)
    raise NotImplementedError(f"Preprocessing not implemented for {observation_space}")


def _one_hot(obs: "mx.array", space: spaces.Discrete | spaces.MultiDiscrete) -> "mx.array":
    """
    :param obs: numbers ``(batch,)``, or ``(batch, n_columns)`` for MultiDiscrete
    :param space: the space of one row
    :return: float32 codes
    :raises RuntimeError: a number is outside of the space
    """
    import mlx.core as mx

    if are_readable():
        try:
            numbers = np.asarray(obs)
        except (ValueError, RuntimeError):
            # MLX's two errors inside of a function that a user compiles.
            pass
        else:
            check_integers(numbers, space)
    if mx.issubdtype(obs.dtype, mx.floating):
        obs = obs.astype(mx.int32)
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot_columns(obs, space)
    first = int(space.start)
    values = mx.arange(first, first + int(space.n))
    return (obs[..., None] == values).astype(mx.float32)


def _one_hot_columns(obs: "mx.array", space: spaces.MultiDiscrete) -> "mx.array":
    """
    Concatenate the one-hot codes of all columns with one gather and one comparison.

    :param obs: integers ``(batch, n_columns)``
    :param space: the space of one row
    :return: float32 codes ``(batch, sum(nvec))``
    """
    import mlx.core as mx

    starts, sizes = (numbers.tolist() for numbers in first_values(space))
    columns = mx.array(np.repeat(np.arange(len(sizes)), sizes))
    values = mx.array(np.concatenate([np.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)]))
    rows = obs.reshape(obs.shape[0], len(sizes))
    return (mx.take(rows, columns, axis=1) == values).astype(mx.float32)


def get_obs_shape(observation_space: spaces.Space[Any]) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """
    Get the shape in which a buffer stores one observation.

    :param observation_space: the observation space
    :return: the shape, or a dict of shapes for a Dict space
    :raises NotImplementedError: for a space that buffers do not store
    """
    if isinstance(observation_space, spaces.Box | spaces.MultiBinary):
        return tuple(observation_space.shape)
    if isinstance(observation_space, spaces.Discrete):
        return (1,)
    if isinstance(observation_space, spaces.MultiDiscrete):
        return (len(observation_space.nvec),)
    if isinstance(observation_space, spaces.Dict):
        shapes: dict[str, Any] = {
            key: get_obs_shape(space) for key, space in observation_space.spaces.items()
        }
        return shapes
    raise NotImplementedError(f"{observation_space} observation space is not supported")


def get_flattened_obs_dim(observation_space: spaces.Space[Any]) -> int:
    """
    Get the number of features of one observation, flattened, after :func:`preprocess_obs`. Not for images.

    :param observation_space: the observation space
    :return: number of features
    """
    # Gymnasium's flatdim may count the columns of a MultiDiscrete instead of its one-hot codes.
    if isinstance(observation_space, spaces.MultiDiscrete):
        return int(np.sum(observation_space.nvec))
    return int(spaces.utils.flatdim(observation_space))


def get_action_dim(action_space: spaces.Space[Any]) -> int:
    """
    Get the number of entries of one action.

    :param action_space: the action space
    :return: 1 for Discrete, otherwise the number of entries of the array
    :raises NotImplementedError: for a space other than Box, Discrete, MultiDiscrete and MultiBinary
    """
    if isinstance(action_space, spaces.Box):
        return int(np.prod(action_space.shape))
    if isinstance(action_space, spaces.Discrete):
        return 1
    if isinstance(action_space, spaces.MultiDiscrete):
        return len(action_space.nvec)
    if isinstance(action_space, spaces.MultiBinary):
        assert isinstance(action_space.n, int), (
            f"Multi-dimensional MultiBinary({action_space.n}) action space is not supported. "
            "You can flatten it instead."
        )
        return int(action_space.n)
    raise NotImplementedError(f"{action_space} action space is not supported")


def check_for_nested_spaces(obs_space: spaces.Space[Any]) -> None:
    """
    Reject nested Dict and Tuple spaces.

    :param obs_space: the observation space
    :raises NotImplementedError: if spaces are nested
    """
    if isinstance(obs_space, spaces.Dict):
        subspaces = list(obs_space.spaces.values())
    elif isinstance(obs_space, spaces.Tuple):
        subspaces = list(obs_space.spaces)
    else:
        return
    if any(isinstance(space, spaces.Dict | spaces.Tuple) for space in subspaces):
        raise NotImplementedError(
            "Nested observation spaces are not supported (Tuple/Dict space inside Tuple/Dict space)."
        )
