"""Reconstruction of buffers from files: creation of empty buffers and consistency checks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.her import HerReplayBuffer

__all__ = ["Layout", "check_buffer", "empty_buffer", "layout_of"]

_DAMAGE = (TypeError, ValueError, AssertionError, KeyError, IndexError, AttributeError, OverflowError)


class Layout(NamedTuple):
    """
    The arguments that determine the columns of a replay buffer.

    :param buffer_size: number of rows
    :param observation_space: observation space
    :param action_space: action space
    :param n_envs: transitions per row
    :param optimize_memory_usage: whether observations are stored once
    :param handle_timeout_termination: whether time limits are distinguished from terminations
    """

    buffer_size: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_envs: int
    optimize_memory_usage: bool
    handle_timeout_termination: bool

    def check(self) -> None:
        """:raises TypeError: if one of them is of the wrong type"""
        for name, kind in (("buffer_size", int), ("n_envs", int)):
            value = getattr(self, name)
            if type(value) is not kind or not 1 <= value < 2**62:
                raise TypeError(f"{name} is {value!r:.40}")
        for name in ("optimize_memory_usage", "handle_timeout_termination"):
            if type(getattr(self, name)) is not bool:
                raise TypeError(f"{name} is {getattr(self, name)!r:.40}")
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(self, name), spaces.Space):
                raise TypeError(f"{name} is a {type(getattr(self, name)).__name__}")


def layout_of(buffer: ReplayBuffer) -> Layout:
    """
    :param buffer: a replay buffer
    :return: the arguments for a buffer with the same columns
    """
    return Layout(*(getattr(buffer, name) for name in Layout._fields))


def empty_buffer(kind: type[ReplayBuffer], layout: Layout) -> Any:
    """
    Create an empty buffer. For a user's class only the constructor of its base in this package is called,
    because the arguments of its own are unknown.

    :param kind: its class
    :param layout: the arguments that determine its columns
    :return: the buffer; HER's has no environment
    :raises ModelFileError: if the layout is invalid, or does not fit into memory
    """
    own = (HerReplayBuffer, NStepReplayBuffer, DictReplayBuffer, ReplayBuffer)
    base: Any = next(part for part in kind.__mro__ if part in own)
    made: Any = object.__new__(kind)
    extra = {"env": None} if base is HerReplayBuffer else {}
    try:
        layout.check()
        base.__init__(
            made,
            layout.buffer_size * layout.n_envs,
            layout.observation_space,
            layout.action_space,
            device="cpu",
            n_envs=layout.n_envs,
            optimize_memory_usage=layout.optimize_memory_usage,
            handle_timeout_termination=layout.handle_timeout_termination,
            **extra,
        )
    except (*_DAMAGE, NotImplementedError, MemoryError) as error:
        raise ModelFileError(f"its arguments of a {kind.__name__} are invalid ({error!r:.300}).") from error
    return made


def check_buffer(buffer: Any, layout: Layout | None = None) -> None:
    """
    Check the consistency of a buffer whose attributes came from a file.

    :param buffer: a rollout or replay buffer
    :param layout: the arguments that a replay buffer was created with
    :raises ModelFileError: if its cursor or episode indices are out of bounds, or its columns do not match
        the layout
    """
    size = buffer.buffer_size
    for name in ("buffer_size", "n_envs") if layout is not None else ():
        claimed, expected = getattr(buffer, name), getattr(layout, name)
        if claimed != expected:
            raise ModelFileError(
                f"`{name}` of the buffer is {claimed!r:.40}, which was made with {expected}."
            )
    last = size - 1 if isinstance(buffer, ReplayBuffer) else size
    if type(buffer.pos) is not int or not 0 <= buffer.pos <= last or type(buffer.full) is not bool:
        raise ModelFileError(f"the cursor `pos` of the buffer is {buffer.pos!r:.40}, expected 0 to {last}.")
    if isinstance(buffer, ReplayBuffer):
        for name in buffer._columns:
            column = buffer._column(name)
            if not isinstance(column, np.ndarray) or column.shape[:2] != (size, buffer.n_envs):
                raise ModelFileError(f"the column '{name}' does not have {size} rows of {buffer.n_envs}.")
    if isinstance(buffer, HerReplayBuffer):
        _check_episodes(buffer)
    if isinstance(buffer, NStepReplayBuffer) and (
        type(buffer.n_steps) is not int or buffer.n_steps < 1 or not _is_number(buffer.gamma)
    ):
        raise ModelFileError(f"n_steps is {buffer.n_steps!r:.40} and gamma {buffer.gamma!r:.40}.")


def _check_episodes(buffer: HerReplayBuffer) -> None:
    size, shape = buffer.buffer_size, (buffer.buffer_size, buffer.n_envs)
    for name, wanted, last in (
        ("ep_start", shape, size - 1),
        ("ep_length", shape, size),
        ("_current_ep_start", shape[1:], size - 1),
    ):
        marks = getattr(buffer, name)
        if not isinstance(marks, np.ndarray) or marks.dtype != np.int64 or marks.shape != wanted:
            raise ModelFileError(f"{name} is not an int64 array of shape {wanted}.")
        if marks.min() < 0 or marks.max() > last:
            raise ModelFileError(f"{name} leads outside of the buffer, expected 0 to {last}.")
    rows = (size if buffer.copy_info_dict else 0, buffer.n_envs)
    infos: Any = buffer.infos
    if not isinstance(infos, np.ndarray) or infos.shape != rows or not infos.dtype.hasobject:
        raise ModelFileError(f"infos is not an array of objects of shape {rows}.")
    if type(buffer.n_sampled_goal) is not int or buffer.n_sampled_goal < 0:
        raise ModelFileError(f"n_sampled_goal is {buffer.n_sampled_goal!r:.40}.")
    if not _is_number(buffer.her_ratio) or not 0 <= buffer.her_ratio <= 1:
        raise ModelFileError(f"her_ratio is {buffer.her_ratio!r:.40}, expected a number from 0 to 1.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
