"""What a native vector of environments needs to know before it can be made, seeded and reset."""

import functools
from typing import Any

import gymnasium as gym
import numpy as np

from mlx_baselines3 import _native


@functools.cache
def numerics() -> dict[str, bool]:
    """
    Find out what the installed NumPy, Gymnasium and Python do where versions and platforms differ.

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
    Say whether Gymnasium has an id registered the way it ships it.

    :param env_id: a Gymnasium id
    :param spec: its entry of ``env_specs``
    :return: False if the id is gone, or leads to another class, other arguments or more wrappers
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
    Refuse an id that no native environment can stand in for.

    :param env_id: a Gymnasium id
    :param specs: what ``env_specs`` gave
    :raises ValueError: if there is no such environment, or the id is registered in another way than shipped
    """
    if env_id not in specs:
        raise ValueError(
            f"There is no native environment {env_id!r}, only {', '.join(specs)}. Use DummyVecEnv."
        )
    if not is_as_shipped(env_id, specs[env_id]):
        raise ValueError(
            f"{env_id} is registered with Gymnasium in another way than Gymnasium ships it, so the native "
            f"environment would not be the same: {gym.registry.get(env_id)}. Use DummyVecEnv."
        )


def seed_words(seed: int | None) -> list[int] | None:
    """
    Cut a seed as NumPy's ``SeedSequence`` does.

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
    Read the two numbers of ``reset(options=...)`` from which an initial state is drawn.

    :param env_id: a Gymnasium id, for the error
    :param spec: its entry of ``env_specs``
    :param options: ``low`` and ``high``, or ``x_init`` and ``y_init``; Gymnasium ignores other keys
    :return: both numbers, None without options
    :raises ValueError: if they are no finite numbers, or make an empty range
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
    # Pendulum's numbers are half-widths around zero, the others' are a lower and an upper bound.
    in_order = min(numbers) >= 0 if "x_init" in named else numbers[0] <= numbers[1]
    if not (in_order and np.isfinite(numbers).all()):
        raise ValueError(f"The reset options {named} of {env_id} do not make a finite, non-empty range.")
    return numbers
