"""Protocol of an algorithm, for modules that the algorithm imports: callbacks, saving, environment setup."""

from __future__ import annotations

import io
import pathlib
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Protocol

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import Schedule
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.vec_env import VecEnv, VecNormalize
from mlx_baselines3.common.vec_env.abstract import GymEnv


class Model(Protocol):
    """
    An algorithm with its policy and environments, implemented by
    :class:`~mlx_baselines3.common.base_class.BaseAlgorithm`, which documents the attributes and methods.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]]
    policy_kwargs: dict[str, Any]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    env: VecEnv | None
    n_envs: int
    learning_rate: float | Schedule
    lr_schedule: Schedule
    use_sde: bool
    verbose: int
    seed: int | None
    device: mx.Device
    num_timesteps: int
    start_time: int
    ep_info_buffer: deque[Any] | None
    ep_success_buffer: deque[Any] | None
    _num_timesteps_at_start: int
    _last_obs: Any
    _custom_logger: bool
    _resumed: Any

    def __init__(
        self,
        policy: type[BasePolicy],
        env: GymEnv | None,
        *,
        device: mx.Device | str,
        _init_setup_model: bool,
    ) -> None: ...

    # A property, because algorithms declare a subclass.
    @property
    def policy(self) -> BasePolicy: ...

    @property
    def logger(self) -> Logger: ...

    def get_env(self) -> VecEnv | None: ...

    def get_vec_normalize_env(self) -> VecNormalize | None: ...

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]: ...

    def get_parameters(self) -> dict[str, dict[str, Any]]: ...

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: mx.Device | str = "auto",
    ) -> None: ...

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        allow_pickle: bool = False,
        format: Literal["mlx", "sb3"] = "mlx",
    ) -> None: ...

    def save_checkpoint(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        within_learn: bool = False,
        allow_pickle: bool = False,
    ) -> None: ...

    def dump_logs(self) -> None: ...

    def _memory(self) -> dict[str, np.ndarray]: ...

    def _set_memory(self, memory: dict[str, np.ndarray]) -> None: ...

    def _setup_model(self) -> None: ...

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv: ...

    def _excluded_save_params(self) -> list[str]: ...

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]: ...
