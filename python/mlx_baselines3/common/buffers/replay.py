"""Replay buffers: ring buffers of transitions for off-policy algorithms."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers import _rows
from mlx_baselines3.common.buffers._fields import not_cut
from mlx_baselines3.common.buffers._rows import check_batch_size, fit_action, fit_scalar
from mlx_baselines3.common.buffers._sampling import SampledBuffer
from mlx_baselines3.common.buffers._scratch import Scratch, ScratchPool
from mlx_baselines3.common.buffers.base import action_dtype, as_bytes

if TYPE_CHECKING:
    from mlx_baselines3.common.vec_env import VecNormalize


class ReplayBuffer(SampledBuffer):
    """
    The latest ``buffer_size`` transitions, in columns over memory that Rust owns: ``observations`` and
    ``next_observations`` ``(rows, n_envs, *obs_shape)``, ``actions`` ``(rows, n_envs, action_dim)``, and
    ``rewards``, ``dones``, ``timeouts`` ``(rows, n_envs)`` in float32, with ``buffer_size // n_envs`` rows.

    :param buffer_size: number of transitions of all environments together
    :param observation_space: observation space
    :param action_space: action space; float64 actions are stored as float32
    :param device: requested device, see :class:`BaseBuffer`
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: store each observation once: the next observation is the row after.
        Terminal observations are stored separately, so that samples do not change. Once the buffer is full,
        the oldest row is not sampled. There is no ``next_observations`` then
    :param handle_timeout_termination: do not treat truncation by a time limit as termination
        (https://arxiv.org/abs/1712.00378)
    :raises ValueError: a size is not at least 1, or there are more environments than transitions
    :raises MemoryError: the columns do not fit into memory
    """

    # Whether a sample also depends on later rows.
    _reads_on = False
    # Calls of `add`, which tell a copy on a GPU what it has not seen yet; not part of the state in files.
    _added = 0

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: mx.Device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        super().__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if buffer_size < n_envs:
            raise ValueError(
                f"buffer_size is {buffer_size}, expected at least {n_envs}: a {type(self).__name__} stores "
                f"one transition of each of the {n_envs} environments at every step"
            )
        self.buffer_size = buffer_size // n_envs
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        columns = {
            **self._observation_columns("observations"),
            **({} if optimize_memory_usage else self._observation_columns("next_observations")),
            "actions": ((self.action_dim,), self._maybe_cast_dtype(action_dtype(action_space))),
            **dict.fromkeys(("rewards", "dones", "timeouts"), ((), np.float32)),
        }
        row = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in columns.values())
        self._warn_if_large(self.buffer_size * n_envs * row)
        self._allocate(columns)
        self._terminal = _native.TerminalObs() if optimize_memory_usage else None
        self._scratch = ScratchPool()

    @staticmethod
    def _warn_if_large(needed: int) -> None:
        # Memory is only used as the buffer fills, so warn now rather than hours later.
        available = _rows.available_memory()
        if available is not None and needed > available:
            warnings.warn(
                "This system does not have apparently enough memory to store the complete "
                f"replay buffer {needed / 1e9:.2f}GB > {available / 1e9:.2f}GB",
                stacklevel=3,
            )

    @staticmethod
    def _maybe_cast_dtype(dtype: DTypeLike | None) -> DTypeLike | None:
        return np.float32 if dtype == np.float64 else dtype

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of every environment, replacing the oldest. After an error nothing is stored.

        :param obs: observations ``(n_envs, *obs_shape)``, or a dict of them
        :param next_obs: next observations, terminal ones included
        :param action: actions ``(n_envs, ...)``
        :param reward: ``(n_envs,)``
        :param done: whether the episode terminated or was truncated, ``(n_envs,)``
        :param infos: one dict per environment; ``"TimeLimit.truncated"`` is read
        :raises ValueError: a shape does not fit
        """
        # Environments almost always return arrays that need no conversion.
        if not _native.store_step(self.__dict__, obs, next_obs, action, reward, done, infos):
            self._add_checked(obs, next_obs, action, reward, done, infos)
            self.pos = (self.pos + 1) % self.buffer_size
            self.full = self.full or self.pos == 0
        self._added += 1

    def _add_checked(
        self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]
    ) -> None:
        """Write the row of :meth:`add` from anything that NumPy can convert, without moving the cursor."""
        rows = [
            (self.actions, fit_action(action, self.n_envs, self.action_dim)),
            (self.rewards, fit_scalar("reward", reward, self.n_envs)),
            (self.dones, fit_scalar("done", done, self.n_envs)),
        ]
        if self.handle_timeout_termination:
            cut = [info.get("TimeLimit.truncated", False) for info in infos]
            rows.append((self.timeouts, fit_scalar("infos", cut, self.n_envs)))
        seen = self._observation_rows("obs", obs, self.observations)
        store = self.observations if self.optimize_memory_usage else self.next_observations
        next_rows = self._observation_rows("next_obs", next_obs, store)
        if self._terminal is not None:
            seen = self._keep_terminal(self._terminal, seen)
        for column, row in (*seen, *rows):
            column[self.pos] = row
        after = (self.pos + 1) % self.buffer_size if self.optimize_memory_usage else self.pos
        for column, row in next_rows:
            column[after] = row

    def _cursor(self) -> _native.Cursor:
        return {"capacity": self.buffer_size, "pos": self.pos, "full": self.full}

    def _keep_terminal(
        self, terminal: _native.TerminalObs, seen: list[tuple[np.ndarray, np.ndarray]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Store the newest transition's next observation before the current observation overwrites it."""
        ((column, row),) = seen
        row = np.ascontiguousarray(row, column.dtype)
        terminal.before_write(self._cursor(), as_bytes(column), as_bytes(row), self.n_envs)
        return [(column, row)]

    def reset(self) -> None:
        """Clear the buffer."""
        super().reset()
        if self._terminal is not None:
            self._terminal.clear()

    def _terminal_arrays(self) -> dict[str, np.ndarray]:
        """The separately stored terminal observations, for :meth:`_load_terminal`."""
        if self._terminal is None:
            return {}
        arrays = self._terminal.export()
        return {"transitions": arrays["transitions"], "observations": arrays["observations"]}

    def _load_terminal(self, transitions: np.ndarray, observations: np.ndarray) -> None:
        row = self.observations[:1, :1].nbytes
        if self._terminal is None or observations.size != transitions.size * row:
            raise ValueError(f"{transitions.size} terminal observations of {observations.size} bytes")
        self._terminal = _native.TerminalObs(transitions, observations)

    def _truncate_last(self) -> None:
        """The environments restart within their episodes: no sample may extend past the newest row."""
        if self.size() > 0 and (self.optimize_memory_usage or self._reads_on):
            newest = (self.pos - 1) % self.buffer_size
            self.dones[newest] = True
            # Not a real time limit, but the value of the last state is bootstrapped in the same way.
            self.timeouts[newest] = self.handle_timeout_termination


class DictReplayBuffer(ReplayBuffer):
    """
    :class:`ReplayBuffer` for Dict observation spaces: ``observations`` and ``next_observations`` are
    dicts of columns.

    :param buffer_size: number of transitions of all environments together
    :param observation_space: observation space
    :param action_space: action space; float64 actions are stored as float32
    :param device: requested device, see :class:`BaseBuffer`
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: must be False
    :param handle_timeout_termination: do not treat truncation by a time limit as termination
    :raises AssertionError: the space is not a Dict, or ``optimize_memory_usage`` is set
    """

    obs_shape: dict[str, tuple[int, ...]]
    observations: dict[str, np.ndarray]
    next_observations: dict[str, np.ndarray]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        device: mx.Device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        assert isinstance(observation_space, spaces.Dict), (
            "DictReplayBuffer must be used with Dict obs space only"
        )
        assert not optimize_memory_usage, "DictReplayBuffer does not support optimize_memory_usage"
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs=n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )


class NStepReplayBuffer(ReplayBuffer):
    """
    :class:`ReplayBuffer` that sums the rewards of ``n_steps`` steps at sampling.

    A sample from row ``t`` has the reward ``sum_{i<k} gamma^i r[t+i]``, the next observation and done flag
    of row ``t+k-1`` and the discount ``gamma^k``; ``k`` is ``n_steps``, or less if the episode or the data
    end earlier (Sutton 1988; https://arxiv.org/abs/1710.02298).

    :param args: as for :class:`ReplayBuffer`
    :param n_steps: maximum number of summed rewards
    :param gamma: discount factor
    :param kwargs: as for :class:`ReplayBuffer`
    :raises ValueError: ``n_steps`` is not at least 1
    """

    _reads_on = True

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any):
        check_batch_size(n_steps, "n_steps")
        super().__init__(*args, **kwargs)
        self.n_steps = n_steps
        self.gamma = gamma

    def _gather(self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None, scratch: Scratch) -> Any:
        dones, timeouts = (np.ascontiguousarray(flags, np.float32) for flags in (self.dones, self.timeouts))
        rows = (rows % self.buffer_size).astype(np.int64)
        spans = _native.n_step_spans(
            dones, timeouts, self._cursor(), self.n_steps, rows, envs.astype(np.int64)
        )
        steps = np.arange(self.n_steps)
        window = (rows[:, None] + steps).reshape(-1)
        (rewards,) = self._take(
            window, envs.repeat(self.n_steps), self.rewards, scratch=scratch, names="window"
        )
        rewards = self._normalize_reward(rewards.reshape(-1, self.n_steps), env)
        discounts = self.gamma ** steps.astype(np.float32) * (steps < spans[:, None])
        returns = (rewards * discounts).sum(axis=1, keepdims=True)
        bootstrap = self.gamma ** spans[:, None].astype(np.float32)
        last = rows + spans - 1
        obs, actions = self._take(rows, envs, self.observations, self.actions, scratch=scratch)
        ended, cut = self._take(last, envs, self.dones, self.timeouts, scratch=scratch, names="end")
        next_obs = self._take_next(last, envs, scratch)
        really = not_cut(ended, cut).reshape(-1, 1)
        return self._samples(obs, actions, next_obs, really, returns, env, bootstrap)
