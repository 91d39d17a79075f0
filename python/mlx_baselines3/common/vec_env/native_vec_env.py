"""Vectorized environments stepped in Rust."""

import copy
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from mlx_baselines3 import _native
from mlx_baselines3.common.monitor import ResultsWriter
from mlx_baselines3.common.vec_env._gym_counterpart import GymCounterpart, encode_constant
from mlx_baselines3.common.vec_env._native_setup import (
    check_id,
    is_as_shipped,
    numerics,
    register_own,
    reset_bounds,
    seed_words,
)
from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

_StepReturn = tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]

_SPECS = _native.env_specs()
register_own(_SPECS)
_STATE_VERSION = 1
# Parts of a running environment that a caller may replace, through the Gymnasium counterpart.
_MUTABLE = {"state", "np_random", "_np_random", "last_u"}
_LIMIT_NAMES = {"_max_episode_steps", "max_episode_steps"}
# Monitor's history of all episodes, which is in the infos and not stored here.
_HISTORY = {
    "rewards", "episode_returns", "episode_lengths", "episode_times", "total_steps",
    "get_total_steps", "get_episode_rewards", "get_episode_lengths", "get_episode_times",
}  # fmt: skip
# The method of environments that forbid actions.
_MASKS = "action_masks"
# Attributes of DummyVecEnv that programs may access.
_OF_DUMMY = {"envs", "buf_obs", "buf_dones", "buf_rews", "buf_infos", "actions", "keys"}


class NativeVecEnv(VecEnv):
    """
    Gymnasium's classic-control environments, stepped in Rust: the numbers of
    ``make_vec_env(env_id, n_envs, seed=seed)`` bit for bit, without Python in each step.

    The environments are monitored: the info of an episode's last step has Monitor's entry ``episode``.
    Attributes, methods and rendering are Gymnasium's: a Gymnasium environment is created on demand, gets the
    state and returns it. :meth:`get_attr` therefore returns copies. :meth:`set_attr` changes the physics,
    whereas ``DummyVecEnv`` would set the outermost wrapper's attribute.

    The infos of a step are a list whose dicts are created when they are first read, because most programs
    read few. It is a ``list`` to ``isinstance`` and in its behaviour, and its copies, slices and pickles are
    plain lists; but ``type(infos) is list`` is False, and code that accesses a list's memory, such as
    ``json.dumps``, needs ``list(infos)``.

    A pickle or a deep copy contains the whole state, random generators included.

    Large vectors are stepped on several threads, at most one per core; the environment variable
    ``MLX_BASELINES3_THREADS`` sets a different number. The results do not depend on it.

    :param env_id: one of CartPole-v1, Pendulum-v1, Acrobot-v1, MountainCar-v0, MountainCarContinuous-v0, and
        mlx_baselines3/InvalidAction-v0, whose ``env_method("action_masks")`` is Rust's too
    :param n_envs: number of environments, at least 1
    :param seed: environment ``i`` is seeded with ``seed + i`` at the first reset; None draws a seed
    :param render_mode: Gymnasium's; ``rgb_array`` or ``human``
    :param monitor_dir: folder for the monitor files; None writes none
    :param env_kwargs: arguments of ``gymnasium.make``
    :raises ValueError: if there is no native environment of that id, ``n_envs`` is less than 1, or
        ``MLX_BASELINES3_THREADS`` is not a number of threads
    :raises TypeError: if Gymnasium rejects the ``env_kwargs``
    """

    def __init__(
        self,
        env_id: str,
        n_envs: int = 1,
        seed: int | None = None,
        render_mode: str | None = None,
        monitor_dir: str | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        check_id(env_id, _SPECS)
        whole = isinstance(n_envs, int | np.integer) and not isinstance(n_envs, bool)
        if not whole or n_envs < 1:
            raise ValueError(f"n_envs is {n_envs}, expected at least 1 environment.")
        if n_envs > sys.maxsize:
            raise MemoryError(f"n_envs is {n_envs}, more than there is memory for.")
        self.env_id = env_id
        self._make_kwargs: dict[str, Any] = {"render_mode": render_mode, **(env_kwargs or {})}
        if render_mode not in (None, self._make_kwargs["render_mode"]):
            raise ValueError(f"render_mode is {render_mode!r}, but env_kwargs says {env_kwargs!r}.")
        self.render_mode = self._make_kwargs["render_mode"]
        first = GymCounterpart(env_id, self._make_kwargs)
        self._core = _native.EnvBatch(env_id, n_envs, **numerics())
        self._core.time_limit = first.time_limit
        for name, value in first.constants(_SPECS[env_id]["params"]).items():
            for env in range(n_envs):
                self._core.set_param(env, name, value)
        super().__init__(n_envs, first.env.observation_space, first.env.action_space)
        self.metadata = first.env.metadata
        self._counterparts: dict[int, GymCounterpart] = {0: first}
        self._extra_attrs: list[dict[str, Any]] = [{} for _ in range(n_envs)]
        self._last_seeds: list[int | None] = [None] * n_envs
        self._pending: Any = None
        self._closed = False
        self._monitor_dir = monitor_dir
        self._writers = self._open_monitor_files(override_existing=True)
        if seed is not None:
            self.seed(seed)
            self.action_space.seed(seed)

    def __getattr__(self, name: str) -> Any:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name in _OF_DUMMY:
            message += (
                ": environments stepped in Rust have no Python objects. get_attr(), set_attr() and "
                "env_method() read, change and call their attributes. For Gymnasium's objects create the "
                f"environments with DummyVecEnv([lambda: gymnasium.make({self.env_id!r})]), or set the "
                "environment variable MLX_BASELINES3_NATIVE_ENVS=0."
            )
        raise AttributeError(message, name=name, obj=self)

    @staticmethod
    def supports(env_id: str) -> bool:
        """
        Check whether a Gymnasium id has an equivalent native environment.

        :param env_id: a Gymnasium id
        :return: True if there is a native environment, and the id is registered as shipped by Gymnasium
        """
        return env_id in _SPECS and is_as_shipped(env_id, _SPECS[env_id])

    def reset(self) -> np.ndarray:
        """
        Start a new episode in every environment.

        :return: the first observations ``(n_envs, obs)``, float32
        :raises RuntimeError: if the environments are closed
        :raises ValueError: if the options of :meth:`set_options` do not fit
        """
        spec = _SPECS[self.env_id]
        bounds = [reset_bounds(self.env_id, spec, options) for options in self._options]
        seeds = list(self._seeds)
        for env, seed in enumerate(seeds):
            if seed is None and not self._core.has_rng(env):
                seeds[env] = secrets.randbits(128)
        obs = self._core.reset([seed_words(seed) for seed in seeds], bounds)
        self._last_seeds = [
            old if new is None else new for old, new in zip(self._last_seeds, seeds, strict=True)
        ]
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        if self.render_mode == "human":
            self.env_method("render")
        return obs

    def step(self, actions: np.ndarray) -> _StepReturn:
        """
        Step every environment; one whose episode ends is reset at once.

        :param actions: integers ``(n_envs,)`` or floats ``(n_envs, 1)``, float32 or float64
        :return: observations ``(n_envs, obs)``, rewards ``(n_envs,)``, both float32, dones, infos
        :raises ValueError: if an action has the wrong shape, dtype or range; no environment is stepped then
        :raises RuntimeError: before the first reset, or if the environments are closed
        """
        outcome = self._core.step(actions)
        if self._writers or self.render_mode == "human":
            self._after_step(*outcome[2:])
        return outcome

    def _after_step(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        if self._writers:
            for env in np.flatnonzero(dones):
                self._writers[env].write_row(infos[env]["episode"])
        if self.render_mode == "human":
            self.env_method("render")

    def step_async(self, actions: np.ndarray) -> None:
        """
        Store the actions for :meth:`step_wait`.

        :param actions: as for :meth:`step`
        """
        self._pending = actions

    def step_wait(self) -> _StepReturn:
        """
        Step with the actions of :meth:`step_async`.

        :return: as for :meth:`step`
        :raises RuntimeError: if there are no actions
        """
        actions, self._pending = self._pending, None
        if actions is None:
            raise RuntimeError("step_wait() was called without actions; call step_async(actions) first.")
        return self.step(actions)

    def close(self) -> None:
        """Close renderers and monitor files. Stepping and resetting are errors from then on."""
        self._core.close()
        self._closed = True
        for counterpart in self._counterparts.values():
            counterpart.env.close()
        for writer in self._writers:
            writer.close()
        self._writers = []

    def _open_monitor_files(self, override_existing: bool) -> list[ResultsWriter]:
        if self._monitor_dir is None or self._closed:
            return []
        header: dict[str, float | str] = {"t_start": self._core.t_start, "env_id": self.env_id}
        paths = [os.path.join(self._monitor_dir, str(env)) for env in range(self.num_envs)]
        return [ResultsWriter(path, header, override_existing=override_existing) for path in paths]

    def _counterpart(self, env: int) -> GymCounterpart:
        """The Gymnasium counterpart of environment ``env``, in its current state."""
        if not 0 <= env < self.num_envs:
            raise IndexError(f"environment index {env} is out of range for {self.num_envs} environment(s)")
        if env not in self._counterparts:
            counterpart = self._counterparts[env] = GymCounterpart(self.env_id, self._make_kwargs)
            for name, value in self._extra_attrs[env].items():
                setattr(counterpart.env, name, value)
        counterpart = self._counterparts[env]
        core = self._core
        counterpart.push(core.get_state(env), core.time_limit, core.t_start, self._last_seeds[env])
        return counterpart

    def _targets(self, indices: VecEnvIndices) -> list[int]:
        return [range(self.num_envs)[env] for env in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Render every environment with Gymnasium's renderer.

        :return: one RGB image ``(H, W, 3)`` per environment, or None unless the render mode is ``rgb_array``
        """
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        return self.env_method("render")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute of the Gymnasium environments in their current state.

        :param attr_name: name of the attribute
        :param indices: indices of the environments, all by default
        :return: a copy of the value per selected environment
        :raises AttributeError: if Gymnasium has no such attribute, or it is Monitor's history of all episodes
        """
        if attr_name == "render_mode":
            return [self.render_mode for _ in self._targets(indices)]
        self._refuse_history(attr_name)
        return [self._counterpart(env).env.get_wrapper_attr(attr_name) for env in self._targets(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute: a physical constant, the state, the time limit, or a custom one.

        :param attr_name: name of the attribute
        :param value: the value, the same for all
        :param indices: indices of the environments, all by default
        :raises ValueError: if the value is invalid, or the native environment does not support the attribute
        """
        targets = self._targets(indices)
        if attr_name in _LIMIT_NAMES:
            if len(set(targets)) != self.num_envs:
                raise ValueError("The time limit is one for all environments; set it without indices.")
            self._core.time_limit = value
        elif attr_name in _SPECS[self.env_id]["params"]:
            number = encode_constant(attr_name, value)
            for env in targets:
                self._core.set_param(env, attr_name, number)
                setattr(self._counterpart(env).base, attr_name, value)
        elif attr_name in _MUTABLE:
            for env in targets:
                counterpart = self._counterpart(env)
                setattr(counterpart.base, attr_name, copy.deepcopy(value))
                self._pull(env, counterpart)
        else:
            self._set_extra(attr_name, value, targets)

    def _set_extra(self, attr_name: str, value: Any, targets: list[int]) -> None:
        for env in targets:
            if attr_name == "render_mode" or hasattr(self._counterpart(env).base, attr_name):
                constants = ", ".join(_SPECS[self.env_id]["params"])
                raise ValueError(
                    f"{attr_name} of the native {self.env_id} cannot be changed to {value!r}: it can change "
                    f"{constants}, state and max_episode_steps. Use DummyVecEnv for anything else."
                )
        for env in targets:
            self._extra_attrs[env][attr_name] = value
            setattr(self._counterpart(env).env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of the Gymnasium environments; its changes of their state are applied.

        :param method_name: name of the method
        :param method_args: its arguments
        :param indices: indices of the environments, all by default
        :param method_kwargs: its keyword arguments
        :return: one result per selected environment
        :raises AttributeError: if Gymnasium has no such method, or it reads Monitor's history
        """
        self._refuse_history(method_name)
        if method_name == _MASKS and _SPECS[self.env_id]["choices"]:
            # Asked at each step: too often for a counterpart.
            masks = self._core.action_masks() != 0
            return [masks[env] for env in self._targets(indices)]
        results = []
        for env in self._targets(indices):
            counterpart = self._counterpart(env)
            results.append(counterpart.env.get_wrapper_attr(method_name)(*method_args, **method_kwargs))
            self._pull(env, counterpart)
        return results

    def _pull(self, env: int, counterpart: GymCounterpart) -> None:
        self._core.set_state(env, counterpart.pull(self._core.get_state(env)))

    def _refuse_history(self, name: str) -> None:
        if name in _HISTORY:
            raise AttributeError(
                f"NativeVecEnv stores no history of episodes, so it has no {name}. Read "
                "infos[i]['episode'], give a monitor_dir, or wrap it in VecMonitor."
            )

    def env_is_wrapped(
        self, wrapper_class: "type[gym.Wrapper[Any, Any, Any, Any]]", indices: VecEnvIndices = None
    ) -> list[bool]:
        """
        Check whether the environments behave as if wrapped in a class; Monitor and TimeLimit are built in.

        :param wrapper_class: a wrapper
        :param indices: indices of the environments, all by default
        :return: one result per selected environment
        """
        wrapped = any(isinstance(wrapper, wrapper_class) for wrapper in self._counterpart(0).wrappers())
        return [wrapped for _ in self._targets(indices)]

    def get_state(self) -> dict[str, Any]:
        """
        Copy the state that a later run needs to continue exactly: physics, constants, generators, running
        episodes.

        :return: plain Python values, ready for JSON
        """
        return {
            "version": _STATE_VERSION,
            "env_id": self.env_id,
            "time_limit": self._core.time_limit,
            "t_start": self._core.t_start,
            "seeds": list(self._seeds),
            "last_seeds": list(self._last_seeds),
            "options": copy.deepcopy(self._options),
            "envs": [self._core.get_state(env) for env in range(self.num_envs)],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Continue from a state of :meth:`get_state`.

        :param state: a state of the same environment id and number of environments
        :raises ValueError: if its version, id or number of environments differs, or it is corrupted; nothing
            has changed then
        """
        expected = {"version": _STATE_VERSION, "env_id": self.env_id}
        for key, value in expected.items():
            if state.get(key) != value:
                raise ValueError(f"The saved state has {key}={state.get(key)!r}, expected {value!r}.")
        if len(state["envs"]) != self.num_envs:
            raise ValueError(
                f"The saved state has {len(state['envs'])} environments, expected {self.num_envs}."
            )
        before = [self._core.get_state(env) for env in range(self.num_envs)]
        try:
            self._restore(state["envs"])
        except (ValueError, TypeError, OverflowError) as error:
            self._restore(before)
            raise ValueError(f"The saved state is corrupted: {error}") from error
        self._core.time_limit, self._core.t_start = state["time_limit"], state["t_start"]
        self._seeds, self._last_seeds = list(state["seeds"]), list(state["last_seeds"])
        self._options = copy.deepcopy(state["options"])

    def _restore(self, envs: list[dict[str, Any]]) -> None:
        for env, state in enumerate(envs):
            self._core.set_state(env, state)

    def __getstate__(self) -> dict[str, Any]:
        # Renderers and open files are not copied; a copy creates them on demand.
        left_behind = {"_core", "_counterparts", "_writers"}
        kept = {key: value for key, value in self.__dict__.items() if key not in left_behind}
        return {**kept, "_saved": self.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        self.__dict__.update(state)
        self._counterparts = {}
        self._core = _native.EnvBatch(self.env_id, self.num_envs, **numerics())
        self.set_state(saved)
        if self._closed:
            self._core.close()
        self._writers = self._open_monitor_files(override_existing=False)


def stepped_in_rust(env: VecEnv) -> Any:
    """
    :param env: environments
    :return: the native environments, if no Python wrapper has to see each step; else None
    """
    if type(env) is not NativeVecEnv or env._writers or env.render_mode == "human":
        return None
    return None if "step" in vars(env) else env._core


def forbids_natively(env: VecEnv) -> bool:
    """
    :param env: environments
    :return: whether they are stepped in Rust and forbid actions there
    """
    return stepped_in_rust(env) is not None and bool(_SPECS[env.env_id]["choices"])  # type: ignore[attr-defined]


def why_stepped_in_python(env: VecEnv) -> str | None:
    """
    :param env: environments
    :return: what is between Rust and the steps of native environments, to complete "because"; None if nothing
        is (:func:`stepped_in_rust`), or the environments are not native
    """
    native = env.unwrapped
    if not isinstance(native, NativeVecEnv):
        return None
    if native is not env:
        return f"the environments are wrapped in {type(env).__name__}"
    if type(env) is not NativeVecEnv:
        return f"the environments are a {type(env).__name__}"
    if env._writers:
        return "the environments write monitor files"
    if env.render_mode == "human":
        return "the environments are shown on the screen"
    return "the environments have their own step" if "step" in vars(env) else None
