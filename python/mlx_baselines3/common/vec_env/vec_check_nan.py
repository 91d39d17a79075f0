"""Detection of NaN and infinity."""

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn, VecEnvWrapper


class VecCheckNan(VecEnvWrapper):
    """
    Report NaN and infinity in actions, observations and rewards, and whether they come from agent or
    environment.

    :param venv: the vectorised environment to wrap
    :param raise_exception: raise a ValueError instead of a UserWarning
    :param warn_once: warn only the first time
    :param check_inf: check for infinity too
    :raises NotImplementedError: if the actions are dicts
    """

    def __init__(
        self, venv: VecEnv, raise_exception: bool = False, warn_once: bool = True, check_inf: bool = True
    ) -> None:
        super().__init__(venv)
        self.raise_exception = raise_exception
        self.warn_once = warn_once
        self.check_inf = check_inf
        self._user_warned = False
        self._actions: np.ndarray | None = None
        self._observations: VecEnvObs | None = None
        if isinstance(self.action_space, spaces.Dict):
            raise NotImplementedError("VecCheckNan doesn't support dict action spaces")

    def step_async(self, actions: np.ndarray) -> None:
        self._check_val(event="step_async", actions=actions)
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._check_val(event="step_wait", observations=observations, rewards=rewards, dones=dones)
        self._observations = observations
        return observations, rewards, dones, infos

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._check_val(event="reset", observations=observations)
        self._observations = observations
        return observations

    def check_array_value(self, name: str, value: np.ndarray) -> list[tuple[str, str]]:
        """
        Check one array for infinity and NaN.

        :param name: name of the array
        :param value: the array
        :return: a pair of the name and ``"inf"`` or ``"nan"`` for each kind found
        """
        found = []
        if self.check_inf and np.any(np.isinf(value)):
            found.append((name, "inf"))
        if np.any(np.isnan(value)):
            found.append((name, "nan"))
        return found

    def _check_val(self, event: str, **values: Any) -> None:
        if not self.raise_exception and self.warn_once and self._user_warned:
            return
        found = [
            issue
            for name, value in values.items()
            for part_name, part in _parts(name, value)
            for issue in self.check_array_value(part_name, part)
        ]
        if not found:
            return
        self._user_warned = True
        origin = {
            "reset": "environment observation (at reset)",
            "step_wait": f"environment, Last given value was: \r\n\taction={self._actions}",
            "step_async": f"RL model, Last given value was: \r\n\tobservations={self._observations}",
        }[event]
        issues = ", ".join(f"found {kind} in {name}" for name, kind in found)
        message = f"{issues}.\r\nOriginated from the {origin}"
        if self.raise_exception:
            raise ValueError(message)
        warnings.warn(message, UserWarning, stacklevel=4)


def _parts(name: str, value: Any) -> list[tuple[str, np.ndarray]]:
    if isinstance(value, np.ndarray | list):
        return [(name, np.asarray(value))]
    if isinstance(value, dict):
        return [(f"{name}.{key}", part) for key, part in value.items()]
    if isinstance(value, tuple):
        return [(f"{name}.{index}", part) for index, part in enumerate(value)]
    raise TypeError(f"Unsupported observation type {type(value)}.")
