"""Conversion of OpenAI Gym environments and spaces to Gymnasium's, through shimmy."""

import sys
import warnings
from importlib.util import find_spec
from inspect import signature
from types import ModuleType
from typing import Any

import gymnasium

gym_installed = find_spec("gym") is not None


def _loaded_gym() -> ModuleType | None:
    # An object can only be gym's if gym has been imported, so gym is not imported for this test.
    return sys.modules.get("gym")


def _import_shimmy(what: str) -> Any:
    try:
        import shimmy  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"You provided an OpenAI Gym {what}; shimmy is needed to convert it to Gymnasium. "
            "Install it with `pip install 'shimmy>=2.0'`."
        ) from error
    return shimmy


def _patch_env(env: Any) -> "gymnasium.Env[Any, Any]":
    """
    Return a Gymnasium environment for any environment.

    :param env: a Gymnasium environment (returned unchanged) or an OpenAI Gym one (wrapped by shimmy)
    :return: a Gymnasium environment
    :raises ValueError: if it is neither, for instance PettingZoo's
    :raises ImportError: if shimmy is needed and missing
    """
    if isinstance(env, gymnasium.Env):
        return env
    if hasattr(env, "possible_agents"):
        raise ValueError(
            f"The environment is of type {type(env)}, PettingZoo's, and has several agents. SuperSuit "
            "converts it to a vector environment with one entry per agent: "
            "`supersuit.pettingzoo_env_to_vec_env_v1(parallel_env)`. If its agents take turns, first convert "
            "it to a parallel environment: `pettingzoo.utils.conversions.aec_to_parallel(env)`."
        )
    gym = _loaded_gym()
    if gym is None or not isinstance(env, gym.Env):
        raise ValueError(
            f"The environment is of type {type(env)}, which is neither a Gymnasium nor an OpenAI Gym "
            "environment. Derive it from `gymnasium.Env`."
        )
    shimmy = _import_shimmy("environment")
    warnings.warn(
        "You provided an OpenAI Gym environment. It is wrapped in a compatibility layer that may cause "
        "issues: we strongly recommend to port it to Gymnasium.",
        stacklevel=2,
    )
    # Gym 0.26 moved the seed to reset.
    if "seed" in signature(env.unwrapped.reset).parameters:
        patched: gymnasium.Env[Any, Any] = shimmy.GymV26CompatibilityV0(env=env)
    else:
        patched = shimmy.GymV21CompatibilityV0(env=env)
    return patched


def _convert_space(space: Any) -> "gymnasium.Space[Any]":
    """
    Return a Gymnasium space for any space.

    :param space: a Gymnasium space (returned unchanged) or an OpenAI Gym one
    :return: a Gymnasium space
    :raises ValueError: if it is neither, for instance PettingZoo's
    :raises ImportError: if shimmy is needed and missing
    """
    if isinstance(space, gymnasium.Space):
        return space
    gym = _loaded_gym()
    if gym is None or not isinstance(space, gym.Space):
        raise ValueError(
            f"The space is of type {type(space)}, which is neither a Gymnasium nor an OpenAI Gym space. "
            "Use one of `gymnasium.spaces`."
        )
    shimmy = _import_shimmy("space")
    warnings.warn(
        "You loaded a model that was trained using OpenAI Gym. "
        "We strongly recommend transitioning to Gymnasium by saving that model again.",
        stacklevel=2,
    )
    converted: gymnasium.Space[Any] = shimmy.openai_gym_compatibility._convert_space(space)
    return converted
