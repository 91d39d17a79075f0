"""What ``check_env`` has to say about spaces: advice, given as warnings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.preprocessing import is_image_space_channels_first

# NatureCNN's three convolutions leave nothing of a smaller image.
_MIN_IMAGE_SIZE = 36


def _advise(message: str) -> None:
    # the line that called check_env is several frames up and not worth counting to
    warnings.warn(message, UserWarning, stacklevel=2)


def _check_start(space: spaces.Space[Any], role: str, key: str = "") -> None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start != 0):
        where = f" (key='{key}')" if key else ""
        _advise(
            f"{type(space).__name__} {role} space{where} with a non-zero start (start={space.start}) "
            f"is not supported. Use a wrapper that subtracts it, or let the {role} space start at 0."
        )


def _check_multidiscrete(space: spaces.Space[Any], role: str) -> None:
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        _advise(
            f"The MultiDiscrete {role} space uses a multidimensional array {space.nvec} "
            "which is not supported. Flatten it to one dimension with a wrapper."
        )


def check_image_space(space: spaces.Box, key: str = "") -> None:
    """
    Advise on a space that looks like an image (three axes).

    :param space: the space
    :param key: its key, when it is part of a ``Dict``
    """
    if space.dtype != np.uint8:
        _advise(
            f"It seems that your observation {key} is an image but its `dtype` is ({space.dtype}) "
            "whereas it has to be `np.uint8`. If it is not an image, flatten it to a vector."
        )
    if np.any(space.low != 0) or np.any(space.high != 255):
        _advise(
            f"It seems that your observation space {key} is an image but the upper and lower bounds "
            "are not in [0, 255]. The CNN policy divides images by 255."
        )
    sides = space.shape[1:] if is_image_space_channels_first(space) else space.shape[:2]
    if min(sides) < _MIN_IMAGE_SIZE:
        _advise(
            f"The minimal resolution for an image is {_MIN_IMAGE_SIZE}x{_MIN_IMAGE_SIZE} for the default "
            f"`CnnPolicy`, observation {key} has {sides[0]}x{sides[1]}. Use your own features extractor."
        )


def check_box_observation(space: spaces.Box, key: str = "") -> None:
    """
    Advise on the shape of an observation.

    :param space: the space
    :param key: its key, when it is part of a ``Dict``
    """
    if len(space.shape) == 3:
        check_image_space(space, key)
    elif len(space.shape) != 1:
        _advise(
            f"Your observation {key} has an unconventional shape {space.shape} "
            "(neither an image, nor a 1D vector). We recommend you to flatten it "
            "to a 1D vector or to use a custom policy that processes it."
        )


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return [space, *space.spaces.values()]
    return [space, *space.spaces] if isinstance(space, spaces.Tuple) else [space]


def check_unsupported_observation(space: spaces.Space[Any]) -> bool:
    """
    Warn about observation spaces that no policy takes.

    :param space: the observation space
    :return: True when what the environment returns cannot be checked either
    """
    _check_start(space, "observation")
    _check_multidiscrete(space, "observation")
    if isinstance(space, spaces.Dict):
        for key, subspace in space.spaces.items():
            _check_start(subspace, "observation", key)
        if any(isinstance(subspace, spaces.Dict) for subspace in space.spaces.values()):
            _advise(
                "Nested observation spaces are not supported (Dict spaces inside Dict space). "
                "Flatten it to one level of keys: "
                "`dict(a=Box(), b=Box())` rather than `dict(ab=dict(a=Box(), b=Box()))`."
            )
    if isinstance(space, spaces.Tuple):
        _advise(
            "The observation space is a Tuple, this is currently not supported. Convert it to a Dict "
            "(cf. https://gymnasium.farama.org/api/spaces/composite/#dict), which is."
        )
    return _warn_unchecked(space)


def _warn_unchecked(space: spaces.Space[Any]) -> bool:
    parts = _parts(space)
    found = [
        # gymnasium 0.29 has no OneOf
        ("OneOf", isinstance(space, getattr(spaces, "OneOf", ())), ""),
        ("Sequence", any(isinstance(part, spaces.Sequence) for part in parts), " Pad it to a fixed size."),
        ("Graph", any(isinstance(part, spaces.Graph) for part in parts), ""),
    ]
    for name, present, hint in found:
        if present:
            _advise(
                f"{name} observation space is not supported.{hint}\n"
                "Note: The checks for returned values are skipped."
            )
    return any(present for _, present, _ in found)


def check_unsupported_action(space: spaces.Space[Any]) -> None:
    """
    Warn about action spaces that no policy takes.

    :param space: the action space
    """
    _check_start(space, "action")
    _check_multidiscrete(space, "action")
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        _advise(
            f"The action space is a {type(space).__name__}, not based off a numpy array. "
            "This is currently not supported. You should try to flatten the action using a wrapper."
        )


def check_box_action(space: spaces.Box) -> None:
    """
    Advise on continuous actions.

    :param space: the action space
    :raises AssertionError: a bound is infinite
    """
    if np.any(space.low != -1) or np.any(space.high != 1):
        _advise(
            "We recommend you to use a symmetric and normalized Box action space (range=[-1, 1]): "
            "a Gaussian policy starts with actions of about that size."
        )
    assert np.all(np.isfinite([space.low, space.high])), (
        f"Continuous action space must have a finite lower and upper bound, got {space}"
    )
    if space.dtype != np.float32:
        _advise(
            f"Your action space has dtype {space.dtype}, we recommend using np.float32 to avoid cast errors."
        )
