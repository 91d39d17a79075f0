"""Environments that step at the same time, each in a process of its own."""

import multiprocessing as mp
import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env._subproc_worker import Failure, Layout, run_worker, worker_initializers
from mlx_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper as CloudpickleWrapper
from mlx_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from mlx_baselines3.common.vec_env.util import dict_to_obs, no_images, obs_space_info

# Seconds between looks at whether the workers still live while one of them owes a reply.
_POLL_S = 0.2
# Seconds that the workers have to finish when the environment is closed, and when one of them has died.
_CLOSE_S = 5.0
_DEATH_S = 0.3


class SubprocVecEnv(VecEnv):
    """
    Step each environment in its own process; worth it when a step takes much longer than sending its result.

    Observations come back through shared memory, the rest through pipes. An exception in an environment is
    raised here, with the environment's number and traceback, and the environments stay usable. When a process
    dies this is noticed within a second.

    With ``forkserver`` and ``spawn`` the main program must be guarded by ``if __name__ == "__main__":``.
    ``fork`` does not need it, but is not safe in a program that has threads.

    :param env_fns: functions that each make an environment; they are pickled with cloudpickle
    :param start_method: ``"forkserver"`` (the default where there is one), ``"spawn"`` or ``"fork"``
    :raises ValueError: if there are no functions, or if the start method is unknown
    :raises RuntimeError: if an environment cannot be made
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], start_method: str | None = None) -> None:
        self.waiting = False
        self.closed = False
        if len(env_fns) == 0:
            raise ValueError(
                "SubprocVecEnv needs at least one function that makes an environment, got an empty list."
            )
        if start_method is None:
            start_method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        context: Any = mp.get_context(start_method)
        self.remotes: list[Any] = []
        self.processes: list[Any] = []
        # How many replies each worker still owes; more than one after a command was interrupted.
        self._owed: list[int] = []
        self._shared: dict[Any, np.ndarray] = {}
        self._memory: list[SharedMemory] = []
        # Runs when the object goes, or else when the program ends.
        self._release = weakref.finalize(
            self, _shut_down, os.getpid(), self.remotes, self.processes, self._shared, self._memory
        )
        if start_method == "fork":
            # Started here, all workers have this one. Else each starts its own, which complains at the end of
            # shared memory that is gone already.
            resource_tracker.ensure_running()
        try:
            for env_fn in env_fns:
                self._start(context, cloudpickle.dumps(env_fn))
            observation_space, action_space = self._gather(range(len(env_fns)), "make")[0]
            self._share_memory(observation_space, len(env_fns))
            super().__init__(len(env_fns), observation_space, action_space)
        except BaseException:
            self.close()
            raise

    def _start(self, context: Any, env_fn: bytes) -> None:
        remote, work_remote = context.Pipe()
        arguments = (work_remote, env_fn, cloudpickle.dumps(worker_initializers))
        process = context.Process(target=run_worker, args=arguments, daemon=True)
        process.start()
        # Only the worker may hold its end: then the pipe breaks when it dies.
        work_remote.close()
        self.remotes.append(remote)
        self.processes.append(process)
        # Its first word are the spaces.
        self._owed.append(1)

    def _share_memory(self, observation_space: spaces.Space[Any], n_envs: int) -> None:
        layout = Layout(n_envs, *obs_space_info(observation_space))
        for key in layout.keys:
            if layout.dtypes[key].kind not in "biuf":
                raise ValueError(
                    f"SubprocVecEnv shares arrays of numbers, but the observations are {observation_space}. "
                    "Use DummyVecEnv."
                )
        memory = SharedMemory(create=True, size=layout.total_bytes())
        self._memory.append(memory)
        try:
            self._call_each("share", [(memory.name, layout, index) for index in range(n_envs)])
        finally:
            # Without its name the memory lives as long as a process maps it, however the processes end.
            memory.unlink()
        self._shared.update(layout.arrays(memory))

    def _send(self, index: int, command: str, arguments: tuple[Any, ...]) -> None:
        if self.closed:
            raise RuntimeError("The SubprocVecEnv is closed. Make a new one.")
        if self.waiting:
            raise RuntimeError(f"'{command}' came between step_async and step_wait. Call step_wait first.")
        try:
            self.remotes[index].send((command, arguments))
            self._owed[index] += 1
        except (BrokenPipeError, ConnectionResetError):
            raise self._death(index, command) from None

    def _receive(self, index: int, command: str) -> Any:
        remote = self.remotes[index]
        try:
            while True:
                while not remote.poll(_POLL_S):
                    for other, process in enumerate(self.processes):
                        if not process.is_alive() and not self.remotes[other].poll():
                            raise self._death(other, command)
                reply = remote.recv()
                self._owed[index] -= 1
                if not self._owed[index]:
                    return reply
        except (EOFError, ConnectionResetError):
            raise self._death(index, command) from None

    def _death(self, index: int, command: str) -> RuntimeError:
        process = self.processes[index]
        process.join(_POLL_S)
        self.closed = True
        self.waiting = False
        self._release.detach()
        # The others may be in the middle of a long step: the error comes first.
        _shut_down(os.getpid(), self.remotes, self.processes, self._shared, self._memory, patience=_DEATH_S)
        return RuntimeError(
            f"The process of environment {index} died during '{command}' (exit code {process.exitcode}, if "
            "negative the signal that killed it). If it died at the start, guard the main program with "
            '`if __name__ == "__main__":`. The SubprocVecEnv is closed: make a new one.'
        )

    def _gather(self, indices: Iterable[int], command: str) -> list[Any]:
        # All replies are read before an error is raised, so that the next command finds the pipes empty.
        try:
            replies = [(index, self._receive(index, command)) for index in indices]
        finally:
            # Interrupted by Ctrl-C too: what is still owed is passed over later.
            self.waiting = False
        for index, reply in replies:
            if isinstance(reply, Failure):
                kind = AttributeError if reply.is_attribute_error else RuntimeError
                raise kind(f"Environment {index} failed during '{command}':\n{reply.traceback}")
        return [reply for _, reply in replies]

    def _call(self, command: str, *arguments: Any, indices: VecEnvIndices = None) -> list[Any]:
        targets = [range(self.num_envs)[index] for index in self._get_indices(indices)]
        for index in targets:
            self._send(index, command, arguments)
        return self._gather(targets, command)

    def _call_each(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        for index, own in enumerate(arguments):
            self._send(index, command, own)
        return self._gather(range(len(arguments)), command)

    def step_async(self, actions: np.ndarray) -> None:
        # As in SB3, more actions than environments are no error: the first ones are taken.
        if len(actions) < self.num_envs:
            raise ValueError(
                f"Expected one action for each of {self.num_envs} environments, got {len(actions)}."
            )
        for index in range(self.num_envs):
            self._send(index, "step", (actions[index],))
        self.waiting = True

    def step_wait(self) -> VecEnvStepReturn:
        results = self._gather(range(self.num_envs), "step")
        rewards, dones, infos, reset_infos = zip(*results, strict=True)
        for index, reset_info in enumerate(reset_infos):
            if reset_info is not None:
                self.reset_infos[index] = reset_info
        return self._obs_from_shared(), np.stack(rewards), np.stack(dones), list(infos)

    def reset(self) -> VecEnvObs:
        self.reset_infos = self._call_each("reset", list(zip(self._seeds, self._options, strict=True)))
        self._reset_seeds()
        self._reset_options()
        return self._obs_from_shared()

    def _obs_from_shared(self) -> VecEnvObs:
        return dict_to_obs(self.observation_space, {key: array.copy() for key, array in self._shared.items()})

    def close(self) -> None:
        """Close the environments and end their processes; a process that does not end in time is killed."""
        if self.closed:
            return
        self.closed = True
        self.waiting = False
        deadline = time.monotonic() + _CLOSE_S
        for remote, owed in zip(self.remotes, self._owed, strict=True):
            # A worker with a reply to give does not listen. One that has died has none and needs no telling.
            with suppress(EOFError, ConnectionResetError):
                for _ in range(owed):
                    if remote.poll(max(0.0, deadline - time.monotonic())):
                        remote.recv_bytes()
        self._release()

    def get_images(self) -> Sequence[np.ndarray | None]:
        if self.render_mode != "rgb_array":
            return no_images(self)
        return self._call("render")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._call("get_attr", attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._call("set_attr", attr_name, value, indices=indices)

    def has_attr(self, attr_name: str) -> bool:
        # The value may be one that cannot be pickled, so it is not asked for.
        return all(self._call("has_attr", attr_name))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._call("env_method", method_name, method_args, method_kwargs, indices=indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return self._call("is_wrapped", wrapper_class, indices=indices)


def _shut_down(
    owner: int,
    remotes: list[Any],
    processes: list[Any],
    shared: dict[Any, np.ndarray],
    memory: list[SharedMemory],
    patience: float = _CLOSE_S,
) -> None:
    if os.getpid() != owner:
        # A forked process has a copy of the object, but the workers are not its own.
        return
    for remote in remotes:
        try:
            remote.send(("close", ()))
        except OSError:
            # This worker is dead already; the others still want to hear it.
            continue
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    for remote in remotes:
        remote.close()
    # No array may look into the memory when it goes.
    shared.clear()
    for block in memory:
        block.close()
