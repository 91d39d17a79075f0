"""The Gymnasium counterpart of a native environment, for attributes, methods and rendering."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from mlx_baselines3.common.monitor import Monitor

_PLAIN_WRAPPERS = {"Monitor", "TimeLimit", "OrderEnforcing"}
# Flags that Gymnasium spells as words: the word that counts as 1, and the one that counts as 0.
_WORDS = {"kinematics_integrator": ("semi-implicit", "euler"), "book_or_nips": ("nips", "book")}


_GYMNASIUM_0 = gym.__version__.startswith("0.")


def encode_constant(name: str, value: Any) -> float:
    """
    Encode a constant for the native environment.

    :param name: Gymnasium's attribute
    :param value: its value in Gymnasium
    :return: the number; flags are 0 or 1
    :raises ValueError: if the value is not a number
    """
    if name in _WORDS:
        # Gymnasium tests for one of the strings only, and treats any other value as the other one.
        on, off = _WORDS[name]
        return float(value != off) if name == "kinematics_integrator" else float(value == on)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}, expected a number.") from error


class GymCounterpart:
    """
    A Gymnasium environment that gets the state of a native one, acts, and returns the state.

    :param env_id: a Gymnasium id
    :param env_kwargs: arguments of ``gymnasium.make``
    :raises TypeError: if Gymnasium rejects the arguments
    :raises ValueError: if the arguments add wrappers that the native environment does not support
    """

    def __init__(self, env_id: str, env_kwargs: dict[str, Any]) -> None:
        self.env_id = env_id
        # The checker compares consecutive steps, which this environment does not see.
        self.env = Monitor(gym.make(env_id, **{**env_kwargs, "disable_env_checker": True}))
        self.base: Any = self.env.unwrapped
        extra = [type(w).__name__ for w in self.wrappers() if type(w).__name__ not in _PLAIN_WRAPPERS]
        if extra:
            raise ValueError(
                f"env_kwargs={env_kwargs!r} wraps {env_id} in {', '.join(extra)}, which NativeVecEnv "
                "does not support. Omit it, or use DummyVecEnv."
            )

    def wrappers(self) -> "list[gym.Wrapper[Any, Any, Any, Any]]":
        """
        :return: the wrappers, outermost first
        """
        found = []
        env: Any = self.env
        while isinstance(env, gym.Wrapper):
            found.append(env)
            env = env.env
        return found

    @property
    def time_limit(self) -> int | None:
        """
        :return: steps until an episode is truncated, or None
        """
        limits = [w._max_episode_steps for w in self.wrappers() if isinstance(w, TimeLimit)]
        # Gymnasium truncates when the steps reach or exceed the limit, so a limit below 1 acts as 1.
        return max(limits[0], 1) if limits else None

    def constants(self, names: "list[str]") -> dict[str, float]:
        """
        Read the physical constants.

        :param names: Gymnasium's attributes; those missing in this version are omitted
        :return: their numbers
        """
        return {n: encode_constant(n, getattr(self.base, n)) for n in names if hasattr(self.base, n)}

    def push(self, state: dict[str, Any], time_limit: int | None, t_start: float, seed: int | None) -> None:
        """
        Set the state of the native environment.

        :param state: the result of ``EnvBatch.get_state``
        :param time_limit: steps until an episode is truncated
        :param t_start: start of the episode clock, in seconds since 1970
        :param seed: the seed of the last seeded reset, if there was one
        """
        self._push_physics(state)
        if state["rng"] is not None:
            rng = state["rng"]
            bits = np.random.PCG64(0)
            bits.state = {
                "bit_generator": "PCG64",
                "state": {"state": rng["state"], "inc": rng["inc"]},
                "has_uint32": rng["has_uint32"],
                "uinteger": rng["uinteger"],
            }
            self.base.np_random = np.random.Generator(bits)
            if seed is not None and hasattr(self.base, "_np_random_seed"):
                self.base._np_random_seed = seed
        ready, steps = state["ready"], state["steps"]
        for wrapper in self.wrappers():
            if isinstance(wrapper, TimeLimit):
                limit: Any = wrapper
                limit._elapsed_steps = steps if ready else None
                limit._max_episode_steps = time_limit
            elif hasattr(wrapper, "_has_reset"):
                wrapper._has_reset = ready
        self.env.t_start = t_start
        self.env.needs_reset = not ready
        self.env.rewards = [state["total"]] + [0.0] * (steps - 1) if steps else []

    def _push_physics(self, state: dict[str, Any]) -> None:
        for name, value in state["params"].items():
            # Written only if it differs, to keep Gymnasium's types.
            if hasattr(self.base, name) and encode_constant(name, getattr(self.base, name)) != value:
                words = _WORDS.get(name)
                setattr(self.base, name, value if words is None else words[0 if value else 1])
        if not state["ready"]:
            return
        physics = np.array(state["state"], dtype=np.float32 if state["single"] else np.float64)
        in_tuples = {"MountainCar-v0", "CartPole-v1"} if _GYMNASIUM_0 else {"MountainCar-v0"}
        as_tuple = self.env_id in in_tuples and state["steps"] > 0
        self.base.state = tuple(physics) if as_tuple else physics
        if hasattr(self.base, "last_u") or state["last_action"] is not None:
            self.base.last_u = state["last_action"]
        if hasattr(self.base, "steps_beyond_terminated"):
            self.base.steps_beyond_terminated = None

    def pull(self, state: dict[str, Any]) -> dict[str, Any]:
        """
        Return the state.

        :param state: the state passed to :meth:`push`
        :return: the same with the changes since
        """
        physics = getattr(self.base, "state", None)
        ready = not self.env.needs_reset
        pulled = {
            **state,
            "ready": ready,
            "params": {**state["params"], **self.constants(list(state["params"]))},
        }
        if physics is not None:
            pulled["state"] = [float(x) for x in physics]
            pulled["single"] = getattr(physics, "dtype", None) == np.float32
        last_action = getattr(self.base, "last_u", None)
        pulled["last_action"] = None if last_action is None else float(last_action)
        if self.base._np_random is not None:
            bits = self.base._np_random.bit_generator.state
            pulled["rng"] = {
                **bits["state"],
                "has_uint32": int(bits["has_uint32"]),
                "uinteger": int(bits["uinteger"]),
            }
        steps = len(self.env.rewards)
        if steps != state["steps"]:
            pulled.update(steps=steps, total=float(sum(self.env.rewards)), total_error=0.0)
        return pulled
