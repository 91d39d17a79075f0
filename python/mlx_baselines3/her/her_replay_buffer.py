"""Hindsight experience replay: what was reached by mistake is learned from as if it had been wanted."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import DictReplayBufferSamples
from mlx_baselines3.common.buffers import DictReplayBuffer
from mlx_baselines3.common.buffers._fields import split
from mlx_baselines3.common.buffers._rows import check_batch_size
from mlx_baselines3.common.buffers._scratch import Scratch
from mlx_baselines3.common.vec_env import VecEnv, VecNormalize
from mlx_baselines3.her.goal_selection_strategy import KEY_TO_GOAL_STRATEGY, GoalSelectionStrategy


class HerReplayBuffer(DictReplayBuffer):
    """
    Replay buffer that gives a share of its samples another goal, one that their episode did reach later,
    and asks the environment for the reward that goes with it (https://arxiv.org/abs/1707.01495).

    Only episodes that have ended, and of which nothing has been overwritten, are sampled.

    :param buffer_size: number of transitions of all environments together
    :param observation_space: observation space with the keys ``"achieved_goal"`` and ``"desired_goal"``
    :param action_space: action space
    :param env: the training environments; the first one's
        ``compute_reward(achieved_goal, desired_goal, info)`` gets arrays and a list with one entry for each
        transition, and returns as many rewards
    :param device: device asked for, see :class:`BaseBuffer`
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: must be False
    :param handle_timeout_termination: do not count an episode cut by a time limit as ended
    :param n_sampled_goal: relabelled transitions for each one with the goal of its time
    :param goal_selection_strategy: ``"future"``, ``"final"``, ``"episode"`` or one of
        :class:`GoalSelectionStrategy`
    :param copy_info_dict: keep the infos and pass copies of them to ``compute_reward``, which gets empty
        dicts otherwise; slower
    :raises AssertionError: the space is not a Dict, ``optimize_memory_usage`` is set, or the strategy is
        neither text nor a :class:`GoalSelectionStrategy`
    :raises KeyError: there is no strategy of that name
    :raises ValueError: the space lacks a goal, the two goals differ in shape, or a number is too small
    """

    env: VecEnv | None

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        env: VecEnv,
        device: mx.Device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_sampled_goal: int = 4,
        goal_selection_strategy: GoalSelectionStrategy | str = "future",
        copy_info_dict: bool = False,
    ):
        self.goal_selection_strategy = _strategy(goal_selection_strategy)
        if n_sampled_goal < 0:
            raise ValueError(f"n_sampled_goal is {n_sampled_goal}, expected a number of at least 0")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device=device,
            n_envs=n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
        )
        self._check_goals()
        self.env = env
        self.n_sampled_goal = n_sampled_goal
        self.her_ratio = 1 - 1 / (n_sampled_goal + 1)
        self.copy_info_dict = copy_info_dict
        self.infos = np.empty((self.buffer_size if copy_info_dict else 0, n_envs), dtype=object)
        self._forget_episodes()

    def _check_goals(self) -> None:
        missing = [key for key in ("achieved_goal", "desired_goal") if key not in self.obs_shape]
        if missing:
            raise ValueError(
                f"HerReplayBuffer needs {missing[0]!r} among the observations, "
                f"which are {sorted(self.obs_shape)}"
            )
        achieved, desired = (self.obs_shape[key] for key in ("achieved_goal", "desired_goal"))
        if achieved != desired:
            raise ValueError(
                f"achieved_goal has shape {achieved} and desired_goal {desired}: "
                "they must be the same, for the one to take the place of the other"
            )

    def _forget_episodes(self) -> None:
        # Of each row, the first row of its episode and how many rows that has: 0 until it has ended.
        self.ep_start = np.zeros((self.buffer_size, self.n_envs), dtype=np.int64)
        self.ep_length = np.zeros((self.buffer_size, self.n_envs), dtype=np.int64)
        self._current_ep_start = np.full(self.n_envs, self.pos, dtype=np.int64)
        self._valid: np.ndarray | None = None

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self._forget_episodes()

    def __getstate__(self) -> dict[str, Any]:
        """:return: everything but the environment, which may not be picklable"""
        return {name: value for name, value in self.__dict__.items() if name not in ("env", "_valid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """
        Take a pickled state. :meth:`set_env` must follow before samples are relabelled.

        :param state: what :meth:`__getstate__` gave
        """
        super().__setstate__(state)
        self.env = None
        self._valid = None

    def set_env(self, env: VecEnv) -> None:
        """
        Give a buffer that was unpickled its environment.

        :param env: the training environments
        :raises ValueError: the buffer has one
        """
        if self.env is not None:
            raise ValueError(
                "This HerReplayBuffer has an environment already; only one that was unpickled needs set_env()"
            )
        self.env = env

    def add(
        self,
        obs: dict[str, np.ndarray],
        next_obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of every environment over the oldest, and no longer sample the episodes which
        that one belonged to. All of it is stored or, after an error, none.

        :param obs: dict of observations ``(n_envs, *obs_shape)``
        :param next_obs: what followed, terminal observations included
        :param action: actions ``(n_envs, ...)``
        :param reward: ``(n_envs,)``
        :param done: whether the episode ended or was cut, ``(n_envs,)``
        :param infos: one dict for each environment
        :raises ValueError: a shape does not fit
        """
        if self.copy_info_dict and len(infos) != self.n_envs:
            raise ValueError(f"infos has {len(infos)} entries, expected one for each of {self.n_envs} envs")
        row = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        for i in np.flatnonzero(self.ep_length[row]):
            # Rows are overwritten in order, so this is the first one of an old episode.
            self.ep_length[self._rows_from(row, self.ep_length[row, i]), i] = 0
            self._valid = None
        self.ep_start[row] = self._current_ep_start
        if self.copy_info_dict:
            self.infos[row] = infos
        for i in np.flatnonzero(self.dones[row]):
            self._compute_episode_length(int(i))

    def _rows_from(self, start: int, count: int) -> np.ndarray:
        return np.arange(start, start + count) % self.buffer_size

    def _compute_episode_length(self, env_idx: int) -> None:
        """Make an episode that ends before the cursor available, and let the next one start there."""
        start = self._current_ep_start[env_idx]
        # Not 0: something was stored. An episode as long as the buffer has come back to where it started.
        length = (self.pos - start) % self.buffer_size or self.buffer_size
        self.ep_length[self._rows_from(start, length), env_idx] = length
        self._current_ep_start[env_idx] = self.pos
        self._valid = None

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DictReplayBufferSamples:
        """
        Draw transitions with replacement. The first ones have the goal of their time; the last
        ``her_ratio * batch_size`` have one that was reached, and the reward for it.

        :param batch_size: number of transitions
        :param env: normalises observations and rewards with its statistics, if given
        :return: the samples as ``mx.array``
        :raises RuntimeError: no episode has ended yet
        :raises ValueError: ``batch_size`` is below 1, or ``compute_reward`` gives not one reward per goal
        :raises AssertionError: the buffer was unpickled and has no environment
        """
        samples: DictReplayBufferSamples = self._to_mlx(self._relabel(*self._draw(batch_size), env), env)
        return samples

    def _samples_as_here(self) -> bool:
        return type(self).sample is HerReplayBuffer.sample

    def _gather_many(
        self, n_batches: int, batch_size: int, env: VecNormalize | None, scratch: Scratch
    ) -> Any:
        # One question to the environment for the rewards of all.
        draws = [self._draw(batch_size) for _ in range(n_batches)]
        rows, envs, goal_rows = (np.stack(parts) for parts in zip(*draws, strict=True))
        return split(self._relabel(rows, envs, goal_rows, env), n_batches)

    def _sampleable(self) -> np.ndarray:
        """``row * n_envs + env`` of all transitions of complete episodes, in order."""
        # Searching a large buffer takes longer than a gradient step, and little changes between two.
        if self._valid is None:
            self._valid = np.flatnonzero(self.ep_length)
        if len(self._valid) == 0:
            raise RuntimeError(
                "Unable to sample before the end of the first episode. Choose learning_starts greater than "
                "the number of steps of an episode, and a buffer that holds whole episodes."
            )
        return self._valid

    def _draw(self, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows and environments of a batch, and the rows whose states become the goals of its last ones."""
        check_batch_size(batch_size)
        chosen = np.random.choice(self._sampleable(), size=batch_size)  # noqa: NPY002 - SB3's generator
        n_virtual = int(self.her_ratio * batch_size)
        # SB3 relabels those that it draws first, and hands them out last.
        rows, envs = np.divmod(np.roll(chosen, -n_virtual), self.n_envs)
        n_real = batch_size - n_virtual
        return rows, envs, self._draw_goal_rows(rows[n_real:], envs[n_real:])

    def _draw_goal_rows(self, rows: np.ndarray, envs: np.ndarray) -> np.ndarray:
        starts, lengths = self.ep_start[rows, envs], self.ep_length[rows, envs]
        if self.goal_selection_strategy is GoalSelectionStrategy.FINAL:
            steps = lengths - 1
        else:
            # The state that a transition itself led to counts as its future, other than in the paper.
            future = self.goal_selection_strategy is GoalSelectionStrategy.FUTURE
            earliest = (rows - starts) % self.buffer_size if future else np.zeros_like(rows)
            steps = np.random.randint(earliest, lengths)  # noqa: NPY002 - SB3's generator
        return (starts + steps) % self.buffer_size

    def _relabel(
        self, rows: np.ndarray, envs: np.ndarray, goal_rows: np.ndarray, env: VecNormalize | None
    ) -> Any:
        """
        :param rows: rows to take, ``(..., batch_size)``
        :param envs: their environments, in the same shape
        :param goal_rows: rows to take the goals of the last ones from, ``(..., n_virtual)``
        :param env: normalises observations and rewards, if given
        :return: samples of NumPy arrays, all axes of ``rows`` made one
        """
        n_real = rows.shape[-1] - goal_rows.shape[-1]
        virtual = np.broadcast_to(np.arange(rows.shape[-1]) >= n_real, rows.shape).reshape(-1)
        rows, envs, goal_rows = rows.reshape(-1), envs.reshape(-1), goal_rows.reshape(-1)
        stores = (self.observations, self.next_observations)
        columns = (self.actions, self.rewards, self.dones, self.timeouts)
        obs, next_obs, actions, rewards, dones, timeouts = self._take(rows, envs, *stores, *columns)
        if len(goal_rows) > 0:
            (goals,) = self._take(goal_rows, envs[virtual], self.next_observations["achieved_goal"])
            for part in (obs, next_obs):
                wanted = part["desired_goal"]
                # The two goals may be of different types, whatever holds both is right.
                part["desired_goal"] = wanted.astype(np.result_type(wanted, goals), copy=False)
                part["desired_goal"][virtual] = goals
            infos = self._infos_of(rows[virtual], envs[virtual])
            # An action is judged by the state that it led to.
            rewards[virtual] = self._rewards_for(next_obs["achieved_goal"][virtual], goals, infos)
        rewards = self._normalize_reward(rewards.reshape(-1, 1), env)
        really = (dones * (1 - timeouts)).reshape(-1, 1)
        return self._samples(obs, actions, next_obs, really, rewards, env)

    def _infos_of(self, rows: np.ndarray, envs: np.ndarray) -> Any:
        return copy.deepcopy(self.infos[rows, envs]) if self.copy_info_dict else [{} for _ in rows]

    def _rewards_for(self, achieved: np.ndarray, goals: np.ndarray, infos: Any) -> np.ndarray:
        assert self.env is not None, (
            "This HerReplayBuffer has no environment to compute rewards with: call set_env() first"
        )
        # All environments are alike, so the first can answer for the others.
        (answer,) = self.env.env_method("compute_reward", achieved, goals, infos, indices=[0])
        rewards = np.asarray(answer, dtype=np.float32)
        if rewards.size != len(goals):
            raise ValueError(
                f"compute_reward() returned an array of shape {rewards.shape} for {len(goals)} goals, "
                "expected one reward for each: it must work on arrays of goals"
            )
        return rewards.reshape(-1)

    def truncate_last_trajectory(self) -> None:
        """
        Take the episodes that are under way as ended here by a time limit, so that they can be sampled and
        the next :meth:`add` starts new ones. Warns if there are any.
        """
        unfinished = np.flatnonzero(self._current_ep_start != self.pos)
        if len(unfinished) == 0:
            return
        warnings.warn(
            "The last trajectory in the replay buffer will be truncated.\n"
            "If the environments are still in the episodes in which the buffer was saved, "
            "load it with `truncate_last_traj=False` instead.",
            stacklevel=2,
        )
        for i in unfinished:
            self.dones[self.pos - 1, i] = True
            # No time limit was reached, but the value of the last state is to be asked for all the same.
            self.timeouts[self.pos - 1, i] = self.handle_timeout_termination
            self._compute_episode_length(int(i))


def _strategy(strategy: GoalSelectionStrategy | str) -> GoalSelectionStrategy:
    if isinstance(strategy, str):
        if strategy.lower() not in KEY_TO_GOAL_STRATEGY:
            raise KeyError(
                f"{strategy!r} is no goal selection strategy, use one of {list(KEY_TO_GOAL_STRATEGY)}"
            )
        return KEY_TO_GOAL_STRATEGY[strategy.lower()]
    assert isinstance(strategy, GoalSelectionStrategy), (
        f"Invalid goal selection strategy {strategy!r}, please use one of {list(GoalSelectionStrategy)}"
    )
    return strategy
