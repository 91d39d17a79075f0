"""What runs in each process of a ``SubprocVecEnv``."""

import multiprocessing
import os
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from mlx_baselines3.common.vec_env.patch_gym import _patch_env
from mlx_baselines3.common.vec_env.util import copy_value, is_wrapped

# Rows of different arrays never share a cache line.
_ALIGNMENT = 64
# What each worker calls before it makes its environment, for packages that change what the environment's
# module may import: functions of modules, which a new process finds by their import path.
worker_initializers: list[Callable[[], object]] = []


class Layout(NamedTuple):
    """Where observations lie in shared memory: an array ``(n_envs, *shape)`` for each key of the space."""

    n_envs: int
    keys: list[Any]
    shapes: dict[Any, tuple[int, ...]]
    dtypes: dict[Any, np.dtype]

    def _nbytes(self, key: Any) -> int:
        size = self.n_envs * int(np.prod(self.shapes[key], dtype=np.int64)) * self.dtypes[key].itemsize
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def total_bytes(self) -> int:
        """
        :return: size of the shared memory, in bytes
        """
        # The system does not give out empty blocks.
        return max(_ALIGNMENT, sum(self._nbytes(key) for key in self.keys))

    def arrays(self, memory: SharedMemory) -> dict[Any, np.ndarray]:
        """
        Look into the shared memory.

        :param memory: a block of :meth:`total_bytes`
        :return: one array ``(n_envs, *shape)`` for each key
        """
        views, offset = {}, 0
        for key in self.keys:
            shape = (self.n_envs, *self.shapes[key])
            views[key] = np.ndarray(shape, dtype=self.dtypes[key], buffer=memory.buf, offset=offset)
            offset += self._nbytes(key)
        return views


class Failure(NamedTuple):
    """The reply to a command that raised: whether an AttributeError, and the traceback."""

    is_attribute_error: bool
    traceback: str


class _Worker:
    """
    Holds one environment and answers commands about it; the name of a command is the name of a method.

    :param env_fn: pickled function that makes the environment
    """

    def __init__(self, env_fn: bytes) -> None:
        self.env = _patch_env(cloudpickle.loads(env_fn)())
        self.memory: SharedMemory | None = None
        self.rows: dict[Any, np.ndarray] = {}

    def share(self, name: str, layout: Layout, index: int) -> None:
        self.memory = SharedMemory(name=name)
        self.rows = {key: array[index, ...] for key, array in layout.arrays(self.memory).items()}

    def _save_obs(self, obs: Any) -> None:
        for key, row in self.rows.items():
            row[...] = obs if key is None else obs[key]

    def step(self, action: Any) -> tuple[Any, bool, dict[str, Any], dict[str, Any] | None]:
        obs, reward, terminated, truncated, env_info = self.env.step(action)
        # The environment may reuse its info, so the keys added here go into a copy.
        info = {**env_info, "TimeLimit.truncated": truncated and not terminated}
        done = bool(terminated or truncated)
        reset_info = None
        if done:
            # The environment may write its next observation into the same array.
            info["terminal_observation"] = copy_value(obs)
            obs, reset_info = self.env.reset()
        self._save_obs(obs)
        return reward, done, info, reset_info

    def reset(self, seed: int | None, options: dict[str, Any]) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"options": options} if options else {}
        obs, info = self.env.reset(seed=seed, **kwargs)
        self._save_obs(obs)
        return info

    def render(self) -> Any:
        return self.env.render()

    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.env.get_wrapper_attr(name)(*args, **kwargs)

    def get_attr(self, name: str) -> Any:
        return self.env.get_wrapper_attr(name)

    def has_attr(self, name: str) -> bool:
        try:
            self.env.get_wrapper_attr(name)
        except AttributeError:
            return False
        return True

    def set_attr(self, name: str, value: Any) -> None:
        setattr(self.env, name, value)

    def is_wrapped(self, wrapper_class: Any) -> bool:
        return is_wrapped(self.env, wrapper_class)

    def close(self) -> None:
        self.rows.clear()
        if self.memory is not None:
            self.memory.close()
        self.env.close()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # The environment may be busy: nobody is left to wait for it.
    os._exit(1)


def run_worker(remote: Connection, env_fn: bytes, initializers: bytes) -> None:
    """
    Make an environment, send its spaces, then answer commands until told to close.

    An exception becomes a reply: the process lives on and so does its environment.

    :param remote: the worker's end of the pipe; ``(command, arguments)`` in, results or ``Failure`` out
    :param env_fn: pickled function that makes the environment
    :param initializers: pickled list of functions that are called first
    """
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        # what there was to warn of, the parent has warned of
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for initialize in cloudpickle.loads(initializers):
                initialize()
        worker = _Worker(env_fn)
        remote.send((worker.env.observation_space, worker.env.action_space))
        while True:
            command, arguments = remote.recv()
            remote.send_bytes(_answer(worker, command, arguments))
            if command == "close":
                return
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        # The parent has gone, or is being interrupted as well and speaks for both.
        return
    except Exception as error:
        remote.send(_failure(error))


def _answer(worker: _Worker, command: str, arguments: tuple[Any, ...]) -> Any:
    try:
        result = getattr(worker, command)(*arguments)
    except Exception as error:
        return ForkingPickler.dumps(_failure(error))
    try:
        return ForkingPickler.dumps(result)
    except Exception:
        # Pickle may report by AttributeError, but no attribute of the environment is missing.
        return ForkingPickler.dumps(Failure(False, traceback.format_exc()))


def _failure(error: Exception) -> Failure:
    return Failure(isinstance(error, AttributeError), traceback.format_exc())
