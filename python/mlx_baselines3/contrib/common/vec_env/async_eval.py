"""Evaluation of many policies at once, each process with environments of its own."""

import multiprocessing as mp
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import cloudpickle
import numpy as np

from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.running_mean_std import RunningMeanStd
from mlx_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from mlx_baselines3.common.vec_env._subproc_worker import worker_initializers

__all__ = ["AsyncEval"]

# Seconds between checks that the workers are alive while waiting for a reply.
_POLL_S = 0.2
# Seconds that a worker may take to finish.
_CLOSE_S = 5.0
# What a worker sends in place of a result when it has failed.
_FAILED = "failed"


class _Evaluator:
    """
    A worker's environments, and the policy that takes one candidate's parameters after the other.

    :param make_env: creates the environments
    :param policy: the policy
    :param n_eval_episodes: episodes of each candidate
    """

    def __init__(self, make_env: Callable[[], VecEnv], policy: BasePolicy, n_eval_episodes: int):
        self.env = make_env()
        self.policy = policy
        self.n_eval_episodes = n_eval_episodes
        self.normalize = unwrap_vec_normalize(self.env)

    def eval(self, candidates: list[tuple[int, np.ndarray]]) -> list[tuple[int, Any]]:
        return [(index, self._play(weights)) for index, weights in candidates]

    def _play(self, weights: np.ndarray) -> Any:
        self.policy.load_from_vector(weights)
        return evaluate_policy(
            self.policy,
            self.env,
            n_eval_episodes=self.n_eval_episodes,
            return_episode_rewards=True,
            warn=False,
        )

    def seed(self, seed: int) -> Any:
        return self.env.seed(seed)

    def set_options(self, options: Any) -> None:
        self.env.set_options(options)

    def get_obs_rms(self, _: None) -> Any:
        return None if self.normalize is None else self.normalize.obs_rms

    def sync_obs_rms(self, obs_rms: Any) -> None:
        if self.normalize is None:
            raise ValueError("sync_obs_rms needs environments that are wrapped in a VecNormalize.")
        self.normalize.obs_rms = obs_rms

    def close(self, _: None) -> None:
        self.env.close()


def _worker(remote: Any, arguments: bytes) -> None:
    """
    Create environments and a policy, then execute commands, the names of methods, until closed.

    :param remote: the worker's end of the pipe
    :param arguments: pickled functions to call first, and arguments of the evaluator
    """
    try:
        initializers, *of_evaluator = cloudpickle.loads(arguments)
        for initialize in initializers:
            initialize()
        evaluator = _Evaluator(*of_evaluator)
        command = ""
        while command != "close":
            command, data = remote.recv()
            remote.send(_answer(evaluator, command, data))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    except Exception:
        # The environments or the policy cannot be created: the answer to whatever is asked.
        remote.send((_FAILED, traceback.format_exc()))


def _answer(evaluator: _Evaluator, command: str, data: Any) -> tuple[str, Any]:
    try:
        return command, getattr(evaluator, command)(data)
    except Exception:
        return _FAILED, traceback.format_exc()


class AsyncEval:
    """
    Evaluates many candidates, parameters of one policy, in several processes. For methods with populations:
    evolution strategies, the cross-entropy method, augmented random search.

    With the start methods ``forkserver`` and ``spawn`` the main program must be guarded by
    ``if __name__ == "__main__":``. ``fork`` does not need it, but MLX cannot be used in a process that was
    forked after MLX has computed.

    :param envs_fn: for each process a function that creates its environments
    :param train_policy: the policy that takes the candidates' parameters; each process has a copy
    :param start_method: ``"forkserver"`` (the default if available), ``"spawn"`` or ``"fork"``
    :param n_eval_episodes: episodes of each candidate
    :raises ValueError: there are no functions, or the start method is unknown
    """

    def __init__(
        self,
        envs_fn: list[Callable[[], VecEnv]],
        train_policy: BasePolicy,
        start_method: str | None = None,
        n_eval_episodes: int = 1,
    ):
        self.waiting = False
        self.closed = False
        if len(envs_fn) == 0:
            raise ValueError("AsyncEval needs at least one function that creates environments, got none.")
        if start_method is None:
            start_method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        context: Any = mp.get_context(start_method)
        self.remotes: list[Any] = []
        self.work_remotes: list[Any] = []
        self.processes: list[Any] = []
        for make_env in envs_fn:
            remote, work_remote = context.Pipe()
            parts = (worker_initializers, make_env, train_policy, n_eval_episodes)
            process = context.Process(
                target=_worker, args=(work_remote, cloudpickle.dumps(parts)), daemon=True
            )
            process.start()
            # Only the worker may keep its end open, so that the pipe breaks when it dies.
            work_remote.close()
            self.remotes.append(remote)
            self.work_remotes.append(work_remote)
            self.processes.append(process)

    def send_jobs(self, candidate_weights: Any, pop_size: int) -> None:
        """
        Start the evaluation of candidates.

        :param candidate_weights: (``pop_size``, parameters) numbers, of NumPy or MLX
        :param pop_size: number of candidates
        :raises ValueError: there are fewer rows
        """
        weights = np.asarray(candidate_weights, dtype=np.float32)
        if len(weights) < pop_size:
            raise ValueError(f"pop_size is {pop_size}, but there are weights of {len(weights)} candidates.")
        for index in range(len(self.remotes)):
            rows = range(index, pop_size, len(self.remotes))
            self._send(index, "eval", [(row, weights[row]) for row in rows])
        self.waiting = True

    def get_results(self) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """
        Wait for the evaluation.

        :return: for each candidate its row, and the returns and lengths of its episodes
        :raises RuntimeError: a worker has failed or died
        """
        self.waiting = False
        return [result for results in self._gather() for result in results]

    def seed(self, seed: int | None = None) -> Sequence[Any]:
        """
        Seed the environments of process ``i`` with ``seed + i`` at their next reset.

        :param seed: the seed; None does nothing
        :return: what each ``VecEnv.seed`` returned
        """
        if seed is None:
            return []
        for index in range(len(self.remotes)):
            self._send(index, "seed", seed + index)
        return self._gather()

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> Sequence[Any]:
        """
        Pass options to the environments at their next reset.

        :param options: as for ``VecEnv.set_options``
        :return: None for each process
        """
        for index in range(len(self.remotes)):
            self._send(index, "set_options", options)
        return self._gather()

    def get_obs_rms(self) -> list[RunningMeanStd]:
        """:return: the running statistics of each process's VecNormalize; None where there is none"""
        for index in range(len(self.remotes)):
            self._send(index, "get_obs_rms", None)
        return self._gather()

    def sync_obs_rms(self, obs_rms: RunningMeanStd) -> None:
        """
        Give all processes the same running statistics.

        :param obs_rms: the statistics
        :raises RuntimeError: the environments have no VecNormalize
        """
        for index in range(len(self.remotes)):
            self._send(index, "sync_obs_rms", obs_rms)
        self._gather()

    def close(self) -> None:
        """End the processes. One that does not end in time is killed."""
        if self.closed:
            return
        self.closed = True
        for remote in self.remotes:
            with suppress(OSError):
                remote.send(("close", None))
        for process in self.processes:
            process.join(_CLOSE_S)
            if process.is_alive():
                process.kill()
                process.join()
        for remote in self.remotes:
            remote.close()

    def _send(self, index: int, command: str, data: Any) -> None:
        if self.closed:
            raise RuntimeError("The AsyncEval is closed. Create a new one.")
        if self.waiting:
            raise RuntimeError(f"'{command}' was called before get_results. Call get_results first.")
        with suppress(BrokenPipeError, ConnectionResetError):
            # That it is dead is found when its answer is read.
            self.remotes[index].send((command, data))

    def _gather(self) -> list[Any]:
        # All answers are read before an error is raised, so that the next command finds the pipes empty.
        answers = [self._receive(index) for index in range(len(self.remotes))]
        for index, (command, answer) in enumerate(answers):
            if command == _FAILED:
                raise RuntimeError(f"Process {index} of AsyncEval failed:\n{answer}")
        return [answer for _, answer in answers]

    def _receive(self, index: int) -> tuple[str, Any]:
        remote, process = self.remotes[index], self.processes[index]
        try:
            while not remote.poll(_POLL_S):
                if not process.is_alive() and not remote.poll():
                    break
            else:
                answer: tuple[str, Any] = remote.recv()
                return answer
        except (EOFError, ConnectionResetError):
            process.join(_POLL_S)
        self.close()
        raise RuntimeError(
            f"Process {index} of AsyncEval died (exit code {process.exitcode}, if negative the signal that "
            'killed it). If it died at the start, guard the main program with `if __name__ == "__main__":`.'
        )
