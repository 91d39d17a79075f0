"""Creation, seeds and reset options of native environments."""

import functools
from typing import Any

import gymnasium as gym
import numpy as np

from mlx_baselines3 import _native


def register_own(specs: "dict[str, _native.EnvSpec]") -> None:
    """
    Register this package's own native environments with Gymnasium, whose ids have its name in front.

    :param specs: the result of ``env_specs``
    """
    for env_id, spec in specs.items():
        if env_id.startswith("mlx_baselines3/") and env_id not in gym.registry:
            gym.register(env_id, spec["entry_point"], max_episode_steps=spec["max_episode_steps"])


@functools.cache
def numerics() -> dict[str, bool]:
    """
    Determine version- and platform-dependent numerics of the installed NumPy, Gymnasium and Python.

    :return: keyword arguments of ``EnvBatch``
    """
    draws = np.random.Generator(np.random.PCG64(0)).random(64)
    uniform = np.random.Generator(np.random.PCG64(0)).uniform(-0.6, -0.4, 64)
    return {
        "weak_scalars": (np.float32(1) * 0.1).dtype == np.float32,
        "pow_squares": gym.__version__.startswith("0."),
        "fused_uniform": bool(np.any(-0.6 + (-0.4 - -0.6) * draws != uniform)),
        "compensated_sum": sum([1.0, 1e100, 1.0, -1e100]) == 2.0,
    }


def is_as_shipped(env_id: str, spec: "_native.EnvSpec") -> bool:
    """
    Check whether an id is registered as shipped by Gymnasium.

    :param env_id: a Gymnasium id
    :param spec: its entry of ``env_specs``
    :return: False if the id is missing, or registered with another class, other arguments or more wrappers
    """
    registered: Any = gym.registry.get(env_id)
    return (
        registered is not None
        and registered.entry_point == spec["entry_point"]
        and registered.max_episode_steps == spec["max_episode_steps"]
        and not registered.kwargs
        and registered.order_enforce
        and not getattr(registered, "additional_wrappers", ())
        and not getattr(registered, "autoreset", False)
        and not getattr(registered, "apply_api_compatibility", False)
    )


def check_id(env_id: str, specs: "dict[str, _native.EnvSpec]") -> None:
    """
    Reject an id without an equivalent native environment.

    :param env_id: a Gymnasium id
    :param specs: the result of ``env_specs``
    :raises ValueError: if there is no such environment, or the id is registered differently than shipped
    """
    if env_id not in specs:
        raise ValueError(
            f"There is no native environment {env_id!r}, only {', '.join(specs)}. Use DummyVecEnv."
        )
    if not is_as_shipped(env_id, specs[env_id]):
        raise ValueError(
            f"{env_id} is registered differently than Gymnasium ships it, so the native environment would "
            f"not be the same: {gym.registry.get(env_id)}. Use DummyVecEnv."
        )


def seed_words(seed: int | None) -> list[int] | None:
    """
    Split a seed into words as NumPy's ``SeedSequence`` does.

    :param seed: 0 or more, of any size
    :return: its 32-bit words, least significant first
    :raises ValueError: if it is negative
    """
    if seed is None:
        return None
    seed = int(seed)
    if seed < 0:
        raise ValueError(f"The seed of an environment is {seed}, expected 0 or more.")
    return [seed >> shift & 0xFFFFFFFF for shift in range(0, max(seed.bit_length(), 1), 32)]


def reset_bounds(env_id: str, spec: "_native.EnvSpec", options: dict[str, Any]) -> list[float] | None:
    """
    Read the two bounds of the initial state from ``reset(options=...)``.

    :param env_id: a Gymnasium id, for the error
    :param spec: its entry of ``env_specs``
    :param options: ``low`` and ``high``, or ``x_init`` and ``y_init``; Gymnasium ignores other keys
    :return: both numbers, None without options
    :raises ValueError: if they are not finite numbers, or the range is empty
    """
    if not options:
        return None
    values = [
        options.get(name, default)
        for name, default in zip(spec["options"], spec["default_bounds"], strict=True)
    ]
    named = dict(zip(spec["options"], values, strict=True))
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"The reset options {named} of {env_id} are not numbers.") from error
    # Pendulum's numbers are half-widths around zero, the others are lower and upper bounds.
    in_order = min(numbers) >= 0 if "x_init" in named else numbers[0] <= numbers[1]
    if not (in_order and np.isfinite(numbers).all()):
        raise ValueError(f"The reset options {named} of {env_id} are not a finite, non-empty range.")
    return numbers
