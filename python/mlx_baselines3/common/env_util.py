"""Make environments, one or many, wrapped as algorithms want them."""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym

from mlx_baselines3.common.atari_wrappers import AtariWrapper
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import DummyVecEnv, VecEnv
from mlx_baselines3.common.vec_env import SubprocVecEnv as SubprocVecEnv
from mlx_baselines3.common.vec_env.patch_gym import _patch_env
from mlx_baselines3.common.vec_env.util import is_wrapped as is_wrapped
from mlx_baselines3.common.vec_env.util import unwrap_wrapper as unwrap_wrapper


def make_vec_env(
    env_id: str | Callable[..., gym.Env],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """
    Make a vectorised environment out of ``n_envs`` monitored ones.

    :param env_id: id of a registered environment, or anything that returns an environment when called
    :param n_envs: number of environments
    :param seed: environment ``i`` is seeded with ``seed + i`` at the first reset
    :param start_index: number of the first environment, in file names and in the seeds of action spaces
    :param monitor_dir: folder for the monitor files; None writes none, the episodes are measured all the same
    :param wrapper_class: wrapper, or function that wraps, put around the ``Monitor``
    :param env_kwargs: arguments for making an environment
    :param vec_env_cls: ``DummyVecEnv`` (None), ``SubprocVecEnv``, ``NativeVecEnv`` or a class of your own
    :param vec_env_kwargs: arguments of ``vec_env_cls``
    :param monitor_kwargs: arguments of ``Monitor``
    :param wrapper_kwargs: arguments of ``wrapper_class``
    :return: the vectorised environment, seeded for its first reset
    :raises ValueError: if ``NativeVecEnv`` is asked for what only Python environments can do
    """
    vec_env_kwargs = vec_env_kwargs or {}
    if vec_env_cls is not None and _is_native(vec_env_cls):
        refused = {
            "wrapper_class": wrapper_class,
            "wrapper_kwargs": wrapper_kwargs,
            "monitor_kwargs": monitor_kwargs,
            "start_index": start_index,
        }
        vec_env = _make_native(vec_env_cls, env_id, n_envs, monitor_dir, env_kwargs, vec_env_kwargs, refused)
        if seed is not None:
            vec_env.action_space.seed(seed)
    else:
        env_fns = []
        for rank in range(start_index, start_index + n_envs):
            action_seed = None if seed is None else seed + rank
            monitor_path = None if monitor_dir is None else os.path.join(monitor_dir, str(rank))
            make = partial(
                _make_env, env_id, env_kwargs or {}, action_seed, monitor_path, monitor_kwargs or {}
            )
            env_fns.append(partial(_make_wrapped, make, wrapper_class, wrapper_kwargs or {}))
        constructor: Callable[..., VecEnv] = vec_env_cls or DummyVecEnv
        vec_env = constructor(env_fns, **vec_env_kwargs)
    vec_env.seed(seed)
    return vec_env


def _make_env(
    env_id: str | Callable[..., gym.Env],
    env_kwargs: dict[str, Any],
    action_seed: int | None,
    monitor_path: str | None,
    monitor_kwargs: dict[str, Any],
) -> gym.Env:
    if not isinstance(env_id, str):
        env = _patch_env(env_id(**env_kwargs))
    elif "render_mode" in env_kwargs:
        env = gym.make(env_id, **env_kwargs)
    else:
        try:
            env = gym.make(env_id, render_mode="rgb_array", **env_kwargs)
        except TypeError:
            # The environment knows no render_mode. Any other TypeError comes back from this call.
            env = gym.make(env_id, **env_kwargs)
    # The environment itself is seeded at its first reset.
    if action_seed is not None:
        env.action_space.seed(action_seed)
    return Monitor(env, filename=monitor_path, **monitor_kwargs)


def _make_wrapped(
    make: Callable[[], gym.Env], wrapper_class: Callable[..., gym.Env] | None, wrapper_kwargs: dict[str, Any]
) -> gym.Env:
    env = make()
    return env if wrapper_class is None else wrapper_class(env, **wrapper_kwargs)


def _is_native(vec_env_cls: Any) -> bool:
    # Whoever passes the class has imported it, so there is no need to load the Rust core to find out.
    module = sys.modules.get("mlx_baselines3.common.vec_env.native_vec_env")
    return (
        module is not None and isinstance(vec_env_cls, type) and issubclass(vec_env_cls, module.NativeVecEnv)
    )


def _make_native(
    vec_env_cls: Callable[..., VecEnv],
    env_id: str | Callable[..., gym.Env],
    n_envs: int,
    monitor_dir: str | None,
    env_kwargs: dict[str, Any] | None,
    vec_env_kwargs: dict[str, Any],
    refused: dict[str, Any],
) -> VecEnv:
    if not isinstance(env_id, str):
        raise ValueError(
            f"NativeVecEnv makes its environments from an id, got {env_id!r}. Use vec_env_cls=DummyVecEnv."
        )
    for name, value in refused.items():
        if value:
            raise ValueError(
                f"NativeVecEnv steps its environments in Rust and cannot honour {name}={value!r}. "
                f"Leave it out, or use vec_env_cls=DummyVecEnv."
            )
    kwargs = dict(env_kwargs or {})
    arguments = {
        "render_mode": kwargs.pop("render_mode", "rgb_array"),
        "monitor_dir": monitor_dir,
        **vec_env_kwargs,
    }
    return vec_env_cls(env_id, n_envs=n_envs, env_kwargs=kwargs or None, **arguments)


def make_atari_env(
    env_id: str | Callable[..., gym.Env],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
) -> VecEnv:
    """
    Make a vectorised environment of Atari games behind :class:`AtariWrapper`.

    By default the loss of a life ends an episode, and the reset after it is a no-op step. For a reset that
    always restarts the game, e.g. for evaluation, pass ``wrapper_kwargs=dict(terminal_on_life_loss=False)``.

    :param env_id: id of a registered environment, or anything that returns an environment when called
    :param n_envs: number of environments
    :param seed: environment ``i`` is seeded with ``seed + i`` at the first reset
    :param start_index: number of the first environment
    :param monitor_dir: folder for the monitor files; None writes none
    :param wrapper_kwargs: arguments of ``AtariWrapper``
    :param env_kwargs: arguments for making an environment
    :param vec_env_cls: ``DummyVecEnv`` (None), ``SubprocVecEnv`` or a class of your own
    :param vec_env_kwargs: arguments of ``vec_env_cls``
    :param monitor_kwargs: arguments of ``Monitor``
    :return: the vectorised environment, seeded for its first reset
    """
    return make_vec_env(
        env_id,
        n_envs=n_envs,
        seed=seed,
        start_index=start_index,
        monitor_dir=monitor_dir,
        wrapper_class=AtariWrapper,
        env_kwargs=env_kwargs,
        vec_env_cls=vec_env_cls,
        vec_env_kwargs=vec_env_kwargs,
        monitor_kwargs=monitor_kwargs,
        wrapper_kwargs=wrapper_kwargs,
    )
