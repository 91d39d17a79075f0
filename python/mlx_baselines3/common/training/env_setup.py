"""From what a user passes as ``env`` to the VecEnv that an algorithm trains in."""

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._model import Model
from mlx_baselines3.common.env_util import is_wrapped
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.preprocessing import (
    check_for_nested_spaces,
    is_image_space,
    is_image_space_channels_first,
)
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    NativeVecEnv,
    VecEnv,
    VecMonitor,
    VecTransposeImage,
    as_vec_env,
    is_vecenv_wrapped,
    is_vector_env,
)
from mlx_baselines3.common.vec_env.abstract import GymEnv
from mlx_baselines3.common.vec_env.patch_gym import _patch_env

_NATIVE_SWITCH = "MLX_BASELINES3_NATIVE_ENVS"


def maybe_make_env(env: GymEnv | str, verbose: int) -> GymEnv:
    """
    Make an environment from its id. The five classic-control ids that Gymnasium ships give a
    :class:`NativeVecEnv`, unless the id was registered anew or ``MLX_BASELINES3_NATIVE_ENVS=0``.

    :param env: an id, or an environment, which is handed back as it is
    :param verbose: 1 prints what is made
    :return: the environment
    """
    if not isinstance(env, str):
        return env
    if verbose >= 1:
        print(f"Creating environment from the given name '{env}'")
    if os.environ.get(_NATIVE_SWITCH, "1") != "0" and NativeVecEnv.supports(env):
        if verbose >= 1:
            print(
                f"Using the native Rust version of {env}, step for step the same as Gymnasium's "
                f"({_NATIVE_SWITCH}=0 switches it off)."
            )
        return NativeVecEnv(env, n_envs=1, render_mode="rgb_array")
    # Rendering to arrays lets a program record videos; some environments know no render_mode.
    try:
        return gym.make(env, render_mode="rgb_array")
    except TypeError:
        return gym.make(env)


def measured(env: Any) -> VecEnv:
    """
    Make a VecEnv of Gymnasium's vector environment or an EnvPool, in which episodes are measured.

    :param env: the vector environment
    :return: a GymVecEnv, in a VecMonitor unless its environments have Monitors
    """
    vec_env = as_vec_env(env)
    return vec_env if all(vec_env.env_is_wrapped(Monitor)) else VecMonitor(vec_env)


def wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
    """
    Put an environment into the wrappers that training needs: Monitor, DummyVecEnv, VecTransposeImage.
    Gymnasium's vector environments and EnvPools become a GymVecEnv with a VecMonitor instead.

    :param env: the environment
    :param verbose: 1 prints what is done
    :param monitor_wrapper: whether to wrap a single environment in a Monitor
    :return: a VecEnv
    """

    def say(message: str) -> None:
        if verbose >= 1:
            print(message)

    if is_vector_env(env):
        say("Wrapping the env in a GymVecEnv.")
        env = measured(env) if monitor_wrapper else as_vec_env(env)
        if isinstance(env, VecMonitor):
            say("Wrapping the env with a `VecMonitor` wrapper")
    if not isinstance(env, VecEnv):
        env = _patch_env(env)
        if not is_wrapped(env, Monitor) and monitor_wrapper:
            say("Wrapping the env with a `Monitor` wrapper")
            env = Monitor(env)
        say("Wrapping the env in a DummyVecEnv.")
        single_env = env
        env = DummyVecEnv([lambda: single_env])
    check_for_nested_spaces(env.observation_space)
    if not is_vecenv_wrapped(env, VecTransposeImage) and _has_channel_last_image(env.observation_space):
        say("Wrapping the env in a VecTransposeImage.")
        env = VecTransposeImage(env)
    return env


def _has_channel_last_image(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return any(_has_channel_last_image(part) for part in space.spaces.values())
    return (
        isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space)
    )


def check_spaces(
    model: Model,
    policy: str | type[Any],
    support_multi_env: bool,
    supported_action_spaces: tuple[type[spaces.Space[Any]], ...] | None,
) -> None:
    """
    Refuse environments that the algorithm or the policy cannot use.

    :param model: an algorithm whose spaces and number of environments are set
    :param policy: name or class of the policy, as the user gave it
    :param support_multi_env: whether the algorithm trains with several environments
    :param supported_action_spaces: action spaces that the algorithm can use; None for all
    :raises AssertionError: if the action space is not supported, or continuous without finite bounds
    :raises ValueError: if there are too many environments, or policy or gSDE do not fit the spaces
    """
    name = type(model).__name__
    if supported_action_spaces is not None:
        supported = ", ".join(space.__name__ for space in supported_action_spaces)
        assert isinstance(model.action_space, supported_action_spaces), (
            f"The algorithm only supports {supported} as action spaces but {model.action_space} was provided"
        )
    if not support_multi_env and model.n_envs > 1:
        raise ValueError(
            f"{name} does not support multiple envs; it requires a single vectorized environment, "
            f"got {model.n_envs}."
        )
    if policy in ("MlpPolicy", "CnnPolicy") and isinstance(model.observation_space, spaces.Dict):
        raise ValueError(
            f"You must use `MultiInputPolicy` when working with dict observation space, not {policy}"
        )
    if isinstance(model.action_space, spaces.Box):
        bounds = np.array([model.action_space.low, model.action_space.high])
        assert np.all(np.isfinite(bounds)), (
            f"Continuous action space must have a finite lower and upper bound, got {model.action_space}"
        )
    elif model.use_sde:
        raise ValueError(
            "generalized State-Dependent Exploration (gSDE) can only be used with continuous actions, "
            f"not with {model.action_space}."
        )
