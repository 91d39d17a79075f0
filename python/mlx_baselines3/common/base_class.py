"""Base class of algorithms: environments, schedules, logging, prediction, files."""

import io
import pathlib
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common import utils
from mlx_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from mlx_baselines3.common.callbacks.base import unseen_steps
from mlx_baselines3.common.env_util import is_wrapped as is_wrapped
from mlx_baselines3.common.logger import Logger as Logger
from mlx_baselines3.common.monitor import Monitor as Monitor
from mlx_baselines3.common.nn.layer_hints import refuse_torch
from mlx_baselines3.common.nn.optimizers import check_learning_rate
from mlx_baselines3.common.nn.threads import use_mlx
from mlx_baselines3.common.noise import ActionNoise
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.preprocessing import check_for_nested_spaces as check_for_nested_spaces
from mlx_baselines3.common.preprocessing import is_image_space as is_image_space
from mlx_baselines3.common.preprocessing import is_image_space_channels_first as is_image_space_channels_first
from mlx_baselines3.common.save_util import load_from_zip_file as load_from_zip_file
from mlx_baselines3.common.save_util import recursive_getattr as recursive_getattr
from mlx_baselines3.common.save_util import recursive_setattr as recursive_setattr
from mlx_baselines3.common.save_util import save_to_zip_file as save_to_zip_file
from mlx_baselines3.common.saving import checkpoint
from mlx_baselines3.common.saving import model as model_io
from mlx_baselines3.common.saving.run_record import RunRecord
from mlx_baselines3.common.saving.to_sb3 import export_sb3
from mlx_baselines3.common.training.compile_notice import CompileNotice
from mlx_baselines3.common.training.device_choice import choose_device
from mlx_baselines3.common.training.env_setup import check_spaces, maybe_make_env, wrap_env
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.type_aliases import TensorDict as TensorDict
from mlx_baselines3.common.utils import FloatSchedule as FloatSchedule
from mlx_baselines3.common.utils import (
    check_for_correct_spaces,
    get_device,
    safe_mean,
    set_random_seed,
)
from mlx_baselines3.common.utils import get_system_info as get_system_info
from mlx_baselines3.common.utils import update_learning_rate as update_learning_rate
from mlx_baselines3.common.vec_env import DummyVecEnv as DummyVecEnv
from mlx_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    unwrap_vec_normalize,
)
from mlx_baselines3.common.vec_env import VecTransposeImage as VecTransposeImage
from mlx_baselines3.common.vec_env import is_vecenv_wrapped as is_vecenv_wrapped
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "gym")

SelfBaseAlgorithm = TypeVar("SelfBaseAlgorithm", bound="BaseAlgorithm")


class BaseAlgorithm(ABC):
    """
    Base class of all algorithms.

    :param policy: name or class of the policy
    :param env: a Gymnasium environment, a VecEnv, the id of a registered environment, or None for a
        model that is only loaded to predict
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param policy_kwargs: further arguments of the policy
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param support_multi_env: whether the algorithm trains with several environments
    :param monitor_wrapper: wrap a single environment in a Monitor
    :param seed: seed of all random generators
    :param use_sde: state-dependent exploration (gSDE)
    :param sde_sample_freq: number of steps between draws of gSDE's noise matrix; -1: once per rollout
    :param supported_action_spaces: action spaces that the algorithm can use
    :raises AssertionError: if the action space is not supported, or continuous without finite bounds
    :raises ValueError: if the policy's name is unknown or does not fit the observations, gSDE is used with
        discrete actions, or there are more environments than the algorithm supports
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {}
    policy: BasePolicy
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_envs: int
    learning_rate: float | Schedule
    lr_schedule: Schedule
    _logger: Logger
    # An array or a dictionary of arrays; None before the first reset.
    _last_obs: Any
    _last_original_obs: Any
    _last_episode_starts: np.ndarray | None
    ep_info_buffer: deque[Any] | None
    ep_success_buffer: deque[Any] | None
    # The run to continue, between load_checkpoint() and learn().
    _resumed: RunRecord | None = None
    # The last sentence that said why Rust does not do all that it could.
    _why_not_native: str | None = None
    _why_iterating: str | None = None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: mx.Device | str = "auto",
        support_multi_env: bool = False,
        monitor_wrapper: bool = True,
        seed: int | None = None,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        supported_action_spaces: tuple[type[spaces.Space[Any]], ...] | None = None,
    ) -> None:
        refuse_torch(policy, "policy", "mlx_baselines3.common.policies.BasePolicy")
        self.policy_class = self._get_policy_from_name(policy) if isinstance(policy, str) else policy
        self.device = get_device(device)
        self._compile_notice = CompileNotice(verbose)
        # Without a GPU there is no choice.
        self._chooses_device = isinstance(device, str) and device == "auto" and self.device.type == mx.gpu
        if verbose >= 1 and not self._chooses_device:
            print(f"Using {self.device.type.name} device")
        self.verbose = verbose
        # The caller's dict, not a copy, as in SB3: load(policy_kwargs=...) expects A2C's additions.
        self.policy_kwargs = {} if policy_kwargs is None else policy_kwargs
        self.seed = seed
        self.learning_rate = learning_rate
        self.tensorboard_log = tensorboard_log
        self.use_sde = use_sde
        self.sde_sample_freq = sde_sample_freq
        self.action_noise: ActionNoise | None = None
        self._stats_window_size = stats_window_size
        self._init_counters()
        self.env: VecEnv | None = None
        self._vec_normalize_env: VecNormalize | None = None
        if env is not None:
            vec_env = self._wrap_env(maybe_make_env(env, verbose), verbose, monitor_wrapper)
            self.observation_space = vec_env.observation_space
            self.action_space = vec_env.action_space
            self.n_envs = vec_env.num_envs
            self.env = vec_env
            self._vec_normalize_env = unwrap_vec_normalize(vec_env)
            check_spaces(self, policy, support_multi_env, supported_action_spaces)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return wrap_env(env, verbose, monitor_wrapper)

    @abstractmethod
    def _setup_model(self) -> None:
        """Create networks, buffers and optimizers."""

    def _settle_device(self, policy: BasePolicy, batch_size: int) -> BasePolicy:
        """
        With ``device="auto"`` on a machine with a GPU, select the device by the size of a gradient step.

        :param policy: the networks
        :param batch_size: rows of a gradient step
        :return: the same networks, on the device
        """
        if self._chooses_device:
            self.device, reason = choose_device(policy, batch_size)
            if self.verbose >= 1:
                print(f"Using {self.device.type.name} device: {reason} (device='cpu' or 'gpu' forces one)")
        return policy.to(self.device)

    def _memory(self) -> dict[str, np.ndarray]:
        """:return: what the policy remembers of the running episodes: name -> floats"""
        return {}

    def _set_memory(self, memory: dict[str, np.ndarray]) -> None:
        """
        Go on in the middle of episodes.

        :param memory: what :meth:`_memory` gave
        """
        assert not memory, f"{type(self).__name__} remembers nothing of its episodes, got {[*memory]}."

    def _excluded_save_params(self) -> list[str]:
        """:return: attributes that ``save`` omits"""
        return [
            "policy",
            "device",
            "env",
            "replay_buffer",
            "rollout_buffer",
            "_vec_normalize_env",
            "_logger",
            "_custom_logger",
            "_chooses_device",
            "_compile_notice",
            "_updater",
            "_why_not_native",
            "_why_iterating",
            "_resumed",
        ]

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        """
        :param policy_name: for instance "MlpPolicy"
        :return: the class
        :raises ValueError: if the algorithm has no policy of that name
        """
        if policy_name not in self.policy_aliases:
            raise ValueError(
                f"Policy {policy_name} unknown; {type(self).__name__} has {', '.join(self.policy_aliases)}."
            )
        return self.policy_aliases[policy_name]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        """
        :return: attributes with a ``state_dict`` to save ("policy.optimizer" for a nested one), and
            attributes that are single arrays
        """
        return ["policy"], []

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        if progress_bar:
            callback = CallbackList([callback, ProgressBarCallback()])
        callback.init_callback(self)
        return callback

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """
        Prepare the training.

        :param total_timesteps: environment steps
        :param callback: called at every step
        :param reset_num_timesteps: start counting at zero, and reset the environments
        :param tb_log_name: name of the run for tensorboard
        :param progress_bar: show a progress bar
        :return: the number of steps to stop at, and the callback
        """
        assert self.env is not None, "There is no environment to train in: call set_env() first."
        use_mlx()
        self.start_time = time.time_ns()
        if self.ep_info_buffer is None or reset_num_timesteps:
            self.ep_info_buffer = deque(maxlen=self._stats_window_size)
            self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        resumed, self._resumed = None if reset_num_timesteps else self._resumed, None
        if self.action_noise is not None and not (resumed and resumed.within_learn):
            self.action_noise.reset()
        if reset_num_timesteps:
            self.num_timesteps = 0
            self._episode_num = 0
        else:
            total_timesteps += self.num_timesteps
        self._total_timesteps = total_timesteps
        self._num_timesteps_at_start = self.num_timesteps
        if reset_num_timesteps or self._last_obs is None:
            self._last_obs = self.env.reset()
            self._last_episode_starts = np.ones((self.env.num_envs,), dtype=bool)
            if self._vec_normalize_env is not None:
                self._last_original_obs = self._vec_normalize_env.get_original_obs()
        if not self._custom_logger:
            self._logger = utils.configure_logger(
                self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps
            )
        self._compile_notice = CompileNotice(self.verbose)
        if resumed is not None:
            resumed.go_on(self)
        return total_timesteps, self._init_callback(callback, progress_bar)

    def get_env(self) -> VecEnv | None:
        """:return: the training environments, or None"""
        return self.env

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """:return: the VecNormalize wrapper of the training environments, or None"""
        return self._vec_normalize_env

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Replace the training environment.

        :param env: as many environments as before, with the same spaces
        :param force_reset: start new episodes at the next ``learn``
        :raises AssertionError: if the number of environments differs
        :raises ValueError: if the spaces differ
        """
        vec_env = self._wrap_env(env, self.verbose)
        assert vec_env.num_envs == self.n_envs, (
            "The number of environments to be set is different from the number of environments in the "
            f"model: ({vec_env.num_envs} != {self.n_envs}), whereas `set_env` requires them to be the same. "
            f"To load a model with another number of them, use `{type(self).__name__}.load(path, env)`."
        )
        check_for_correct_spaces(vec_env, self.observation_space, self.action_space)
        self._vec_normalize_env = unwrap_vec_normalize(vec_env)
        if force_reset:
            self._last_obs = None
        self.env = vec_env

    @abstractmethod
    def learn(
        self: SelfBaseAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBaseAlgorithm:
        """
        Train.

        :param total_timesteps: environment steps of all environments together; a lower bound, as whole
            rollouts are collected
        :param callback: called at every step; training stops when it returns False
        :param log_interval: rollouts (on-policy) or episodes (off-policy) between two log entries
        :param tb_log_name: name of the run for tensorboard
        :param reset_num_timesteps: start counting at zero; False continues from the last call
        :param progress_bar: show a progress bar (needs tqdm and rich)
        :return: self
        """

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions for one observation or a batch. See :meth:`BasePolicy.predict`.

        :param observation: one observation or a batch
        :param state: returned unchanged (used by recurrent policies)
        :param episode_start: not used (used by recurrent policies)
        :param deterministic: return the most likely actions instead of samples
        :return: one action or a batch of them, and ``state``
        """
        return self.policy.predict(observation, state, episode_start, deterministic)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed Python, NumPy, MLX, the action space and the environments (environment i with ``seed + i``).

        :param seed: the seed; None changes nothing
        """
        if seed is None:
            return
        self._resumed = None
        with ModelCall(self):
            set_random_seed(seed)
        self.action_space.seed(seed)
        if self.env is not None:
            self.env.seed(seed)

    def dump_logs(self) -> None:
        """
        Write one log entry; implemented by the algorithm families.

        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{type(self).__name__} does not write logs.")

    def _record_progress(self, further: Mapping[str, Any] | None = None) -> None:
        """
        Record how the last episodes went, and how far the training is.

        :param further: what else to record, before the share of successes
        """
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        fps = int((self.num_timesteps - self._num_timesteps_at_start) / elapsed)
        record = self.logger.record
        if len(self.ep_info_buffer) > 0 and len(self.ep_info_buffer[0]) > 0:
            record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        record("time/fps", fps)
        record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        for name, value in (further or {}).items():
            record(name, value)
        if len(self.ep_success_buffer) > 0:
            record("rollout/success_rate", safe_mean(self.ep_success_buffer))

    def _explain_once(self, why: str) -> None:
        """
        Say why Rust does not do all that it could.

        :param why: a sentence, not repeated when it was the last one; nothing if Rust does all
        """
        if why != self._why_not_native:
            self._why_not_native = why
            if self.verbose >= 1 and why:
                print(why)

    def _unseen_steps(self, callback: BaseCallback) -> int | None:
        """
        :param callback: that of ``learn``
        :return: steps that it does not have to see from now on; None, and a line that says why, if it lets no
            whole iterations pass
        """
        unseen, why = unseen_steps(callback)
        self._explain_iterations(why)
        return None if why else unseen

    def _explain_iterations(self, why: str) -> None:
        """
        Say why the iterations of ``learn`` are not taken in Rust as a whole.

        :param why: completes "because"; nothing if there is nothing to say
        """
        if self.env is None or stepped_in_rust(self.env) is None or self._why_not_native:
            # Python takes the steps, and what is in between is the least.
            return
        if self.verbose >= 1 and why and why != self._why_iterating:
            self._why_iterating = why
            print(f"Python goes through each iteration of learn(), because {why}.")

    def _dump_logs(self, *args: Any) -> None:
        warnings.warn(
            "algo._dump_logs() is deprecated in favor of algo.dump_logs().", DeprecationWarning, stacklevel=2
        )
        self.dump_logs(*args)

    def _init_counters(self) -> None:
        self.num_timesteps = 0
        self._total_timesteps = 0
        self._num_timesteps_at_start = 0
        self.start_time = 0
        self._episode_num = 0
        self._n_updates = 0
        self._current_progress_remaining = 1.0
        self._last_obs = None
        self._last_original_obs = None
        self._last_episode_starts = None
        self.ep_info_buffer = None
        self.ep_success_buffer = None
        self._custom_logger = False

    def set_logger(self, logger: Logger) -> None:
        """
        Use a custom logger. ``tensorboard_log`` and ``verbose`` no longer determine the outputs.

        :param logger: the logger
        """
        self._logger = logger
        self._custom_logger = True

    @property
    def logger(self) -> Logger:
        """:return: the logger, which exists from the first ``learn`` on"""
        return self._logger

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = FloatSchedule(self.learning_rate)

    def progress_at(self, num_timesteps: int) -> float:
        """
        :param num_timesteps: a count of environment steps
        :return: the progress that remains then: 1 at the start of the training, 0 at its end
        """
        return 1.0 - float(num_timesteps) / float(self._total_timesteps)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        self._current_progress_remaining = 1.0 - float(num_timesteps) / float(total_timesteps)

    def _update_learning_rate(self, optimizers: Any) -> None:
        """
        Record the current learning rate and set it in the optimizers.

        :param optimizers: one or a list
        :raises ValueError: if the rate is negative or not finite
        """
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        if self._current_progress_remaining < 0:
            # The last rollout may exceed total_timesteps: a linear schedule to 0 must not become negative.
            learning_rate = max(learning_rate, 0.0)
        check_learning_rate(learning_rate)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, learning_rate)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """
        Store return, length and success of the episodes that just ended.

        :param infos: one per environment
        :param dones: (n_envs,) which episodes ended
        """
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        for i, info in enumerate(infos):
            if not info:
                continue
            if (episode := info.get("episode")) is not None:
                self.ep_info_buffer.append(episode)
            if (success := info.get("is_success")) is not None and dones is not None and dones[i]:
                self.ep_success_buffer.append(success)

    # Files

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """:return: object name ("policy", "policy.optimizer", …) -> name -> array"""
        with ModelCall(self):
            return model_io.get_parameters(self)

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, TensorDict],
        exact_match: bool = True,
        device: mx.Device | str = "auto",
    ) -> None:
        """
        Replace parameters in place.

        :param load_path_or_dict: a file written by ``save``, or the result of :meth:`get_parameters`
        :param exact_match: every object and every array must be given, and nothing else
        :param device: for compatibility with SB3; MLX arrays are not tied to a device
        :raises ValueError: if an object is unknown, or one is missing and ``exact_match``
        :raises RuntimeError: if arrays are missing or unknown, or a shape differs
        """
        with ModelCall(self):
            model_io.set_parameters(self, load_path_or_dict, exact_match)

    @classmethod
    def load(
        cls: type[SelfBaseAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: mx.Device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        allow_pickle: bool = False,
        **kwargs: Any,
    ) -> SelfBaseAlgorithm:
        """
        Create a model from a file. To change an existing model, use :meth:`set_parameters`.

        :param path: a file written by ``save`` (".zip" may be omitted) or an open binary file
        :param env: environments to use; None creates a model that can only predict
        :param device: "auto", "cpu", "gpu" or an ``mx.Device``
        :param custom_objects: values to use instead of stored ones, by attribute name
        :param print_system_info: print the system that saved the file and the current one
        :param force_reset: start new episodes at the next ``learn``
        :param allow_pickle: open the pickles in the file, with a warning that names them; they can run any
            code
        :param kwargs: attributes to change
        :return: the model
        :raises ValueError: if ``policy_kwargs`` or the spaces of ``env`` differ from the stored ones
        :raises ModelFileError: if the file is corrupted or not a model
        """
        return model_io.load(
            cls, path, env, device, custom_objects, print_system_info, force_reset, kwargs, allow_pickle
        )

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        allow_pickle: bool = False,
        format: Literal["mlx", "sb3"] = "mlx",
    ) -> None:
        """
        Write the model to a file.

        :param path: the file (".zip" is added if there is no suffix) or an open binary file
        :param exclude: attributes to omit in addition to the default ones
        :param include: attributes to write although they are omitted by default
        :param allow_pickle: pickle values that the format cannot express, such as a lambda, instead of
            omitting them
        :param format: "mlx", which cannot run code, or "sb3", which SB3 loads; see :func:`export_sb3`
        :raises ValueError: if the format is unknown, or a part of the model has no counterpart in SB3
        """
        if format not in ("mlx", "sb3"):
            raise ValueError(f"The format must be 'mlx' or 'sb3', got {format!r}.")
        if format == "sb3":
            export_sb3(self, path, exclude, include)
        else:
            model_io.save(self, path, exclude, include, allow_pickle)

    def save_checkpoint(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        within_learn: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        """
        Write everything that a later process needs to continue exactly: the model, its buffers, all random
        generators, native environments and their wrappers. The file is written atomically.

        Call it between two calls of ``learn``. Within ``learn``, use :class:`CheckpointCallback` with
        ``resumable=True``, which waits until no step is incomplete.

        :param path: the file (".zip" is added if there is no suffix) or an open binary file
        :param within_learn: from a callback's ``_on_rollout_start``: the next ``learn`` continues this one
        :param allow_pickle: see :meth:`save`
        """
        with ModelCall(self):
            checkpoint.save_checkpoint(self, path, within_learn, allow_pickle)

    @classmethod
    def load_checkpoint(
        cls: type[SelfBaseAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: mx.Device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        allow_pickle: bool = False,
        monitor_dir: str | None = None,
        **kwargs: Any,
    ) -> SelfBaseAlgorithm:
        """
        Continue from a checkpoint: ``learn(total_timesteps - model.num_timesteps,
        reset_num_timesteps=False)`` gives the same results as the uninterrupted run. The random generators of
        Python, NumPy and MLX are set.

        :param path: a file written by :meth:`save_checkpoint`
        :param env: environments with the same wrappers; None creates native ones, normalised or not.
            Environments in Python start new episodes, with a warning
        :param device: "auto", "cpu", "gpu" or an ``mx.Device``
        :param custom_objects: values to use instead of stored ones, by attribute name
        :param allow_pickle: see :meth:`load`
        :param monitor_dir: folder with the monitor files of the run, which native environments continue; it
            is not taken from the file
        :param kwargs: attributes to change
        :return: the model
        :raises ModelFileError: if it is not a checkpoint, or is corrupted
        :raises ValueError: if it belongs to another algorithm, or ``env`` is needed or does not match
        """
        return checkpoint.load_checkpoint(
            cls, path, env, device, custom_objects, allow_pickle, kwargs, monitor_dir
        )
