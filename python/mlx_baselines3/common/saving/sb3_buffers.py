"""
Replay buffers pickled by SB3 (1.5 to 2.9) or version 0.1.0 of this package, read as data.

Differences of older SB3 versions: before 1.8, HER's buffer stores whole episodes in tables; before 2.1,
actions of a float64 space are float64; before 2.2, ``next_observations`` is None with
``optimize_memory_usage``. Buffers from before ``handle_timeout_termination`` do not distinguish time limits
from terminations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.classes import check_attribute, class_of
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3.constructors import (
    CONSTRUCTORS,
    DAMAGE,
    dtype_or_object,
    own_path,
    resolve,
)
from mlx_baselines3.common.formats.sb3.pickle_reader import Evaluator, Global, Node, Source, Table, parse
from mlx_baselines3.common.saving.buffer_parts import Layout, check_buffer, empty_buffer
from mlx_baselines3.her import HerReplayBuffer

__all__ = ["NotABuffer", "read_pickled_buffer"]

_SLACK = 2**20
# Limit of the arrays' size, in multiples of the file size.
_BUDGET = 4
# Attributes that are constructor arguments, columns, or recreated.
_KNOWN = {
    *Layout._fields,
    *("obs_shape", "action_dim", "pos", "full", "device", "_device", "_columns", "_terminal", "_scratch"),
    *("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "env", "_valid"),
    *("n_steps", "gamma", "n_sampled_goal", "her_ratio", "goal_selection_strategy", "copy_info_dict"),
    *("infos", "ep_start", "ep_length", "_current_ep_start", "_added"),
}
_CLASSES: dict[str, type[ReplayBuffer]] = {
    "ReplayBuffer": ReplayBuffer,
    "DictReplayBuffer": DictReplayBuffer,
    "NStepReplayBuffer": NStepReplayBuffer,
    "HerReplayBuffer": HerReplayBuffer,
}
_MODULES = {
    *("stable_baselines3.common.buffers", "stable_baselines3.her.her_replay_buffer"),
    *("mlx_baselines3.common.buffers.replay", "mlx_baselines3.her.her_replay_buffer"),
}


class NotABuffer(ModelFileError, AssertionError):
    """The file does not contain a replay buffer. SB3 raises an ``AssertionError`` then."""


def _nothing(evaluate: Evaluator, node: Node) -> None:
    """Placeholder for recreated attributes, such as memory to sample into."""


def _terminal(evaluate: Evaluator, node: Node) -> tuple[Any, ...]:
    return tuple(evaluate(argument) for argument in node.args)


_CONSTRUCTORS: dict[tuple[str, str], Callable[[Evaluator, Node], Any]] = {
    **CONSTRUCTORS,
    ("numpy", "dtype"): dtype_or_object,
    ("mlx_baselines3._native", "TerminalObs"): _terminal,
    ("mlx_baselines3.common.buffers._scratch", "ScratchPool"): _nothing,
}


def read_pickled_buffer(stream: IO[bytes], label: str) -> Any:
    """
    Read a replay buffer from a pickle, without executing anything in it.

    :param stream: seekable binary file, at the start of the pickle
    :param label: name of the file in error messages
    :return: the buffer; HER's has no environment
    :raises NotABuffer: if it contains something else
    :raises ModelFileError: if it is corrupted, or needs a class that is not known or not imported
    """
    source = Source(stream)
    length = source.left
    try:
        root = parse(source)
        evaluate = Evaluator(_CONSTRUCTORS, resolve, _BUDGET * length + _SLACK, more_values=length)
        return _build(evaluate, root)
    except NotABuffer as error:
        raise NotABuffer(
            f"The replay buffer must inherit from ReplayBuffer class, {label} holds {error}."
        ) from None
    except (*DAMAGE, UnknownName, MemoryError, AssertionError) as error:
        said = str(error) if isinstance(error, (ModelFileError, UnknownName)) else f"{error!r:.200}"
        raise ModelFileError(f"{label}: the replay buffer cannot be read: {said.rstrip('.')}.") from error


def _build(evaluate: Evaluator, root: Any) -> Any:
    if not isinstance(root, Node):
        raise NotABuffer("a dict" if isinstance(root, Table) else f"a {type(root).__name__}")
    if not isinstance(root.callee, Global) or not isinstance(root.state, Table):
        raise NotABuffer("another object")
    return _Fields(evaluate, root.state).buffer(_class(root.callee))


def _class(name: Global) -> type[ReplayBuffer]:
    if name.module in _MODULES and name.name in _CLASSES:
        return _CLASSES[name.name]
    if name.module.partition(".")[0] in ("stable_baselines3", "mlx_baselines3"):
        raise NotABuffer(f"a `{name}`")
    found: type[ReplayBuffer] = class_of(own_path(name), ReplayBuffer)
    return found


class _Fields:
    """
    The attributes of a pickled buffer, evaluated one at a time.

    :param evaluate: the evaluator
    :param state: the attributes
    """

    def __init__(self, evaluate: Evaluator, state: Table) -> None:
        self._evaluate = evaluate
        self._state = {key: value for key, value in state.pairs if isinstance(key, str)}

    def get(self, name: str, default: Any = None) -> Any:
        return self._evaluate(self._state[name]) if name in self._state else default

    def has(self, name: str) -> bool:
        return self._state.get(name) is not None

    def buffer(self, kind: type[ReplayBuffer]) -> Any:
        if issubclass(kind, HerReplayBuffer) and "_buffer" in self._state:
            return self._episodes(kind)
        layout = self._layout()
        self._check_columns(layout)
        made = empty_buffer(kind, layout)
        for name in made._columns:
            attribute, _, key = name.partition("/")
            stored = self.get(attribute)
            if stored is None and name == "timeouts":
                continue
            _fill(made._column(name), stored[key] if key else stored, name)
        made.pos, made.full = int(self.get("pos")), bool(self.get("full"))
        self._restore_terminal(made)
        if isinstance(made, NStepReplayBuffer):
            made.n_steps, made.gamma = self.get("n_steps"), self.get("gamma")
        if isinstance(made, HerReplayBuffer):
            self._restore_goals(made)
        self._restore_rest(made)
        check_buffer(made, layout)
        return made

    def _layout(self) -> Layout:
        # As in SB3: buffers without this attribute treat time limits as terminations.
        handled = self.get("handle_timeout_termination", False) if self.has("timeouts") else False
        rows, n_envs = self._size()
        return Layout(
            *(rows, self.get("observation_space"), self.get("action_space"), n_envs),
            *(self.get("optimize_memory_usage", False), handled),
        )

    def _size(self) -> tuple[int, int]:
        rewards = self.get("rewards")
        if not isinstance(rewards, np.ndarray) or rewards.ndim != 2 or 0 in rewards.shape:
            raise ModelFileError("the rewards are not an array (rows, n_envs).")
        stated = self.get("buffer_size"), self.get("n_envs", rewards.shape[1])
        if stated != rewards.shape:
            raise ModelFileError(f"{stated} rows and environments, but rewards of shape {rewards.shape}.")
        return rewards.shape

    def _check_columns(self, layout: Layout) -> None:
        """Check before creating the buffer that each column has the right number of rows."""
        names = ["observations", "actions", "dones", *(["timeouts"] if self.has("timeouts") else [])]
        names += [] if layout.optimize_memory_usage else ["next_observations"]
        for name in names:
            stored = self.get(name)
            for column in stored.values() if isinstance(stored, dict) else [stored]:
                wanted = (layout.buffer_size, layout.n_envs)
                if not isinstance(column, np.ndarray) or column.shape[:2] != wanted:
                    raise ModelFileError(f"{name} does not have {wanted[0]} rows of {wanted[1]}.")

    def _restore_terminal(self, made: ReplayBuffer) -> None:
        """0.1.0 stores the terminal observations of a compact ring separately; SB3 loses them."""
        if made.optimize_memory_usage and self.has("_terminal"):
            made._load_terminal(*self.get("_terminal"))

    def _restore_goals(self, made: HerReplayBuffer) -> None:
        for name in ("n_sampled_goal", "her_ratio", "copy_info_dict"):
            setattr(made, name, self.get(name))
        made.goal_selection_strategy = self._strategy()
        for name in ("ep_start", "ep_length", "_current_ep_start"):
            setattr(made, name, np.array(self.get(name)))
        # Without copy_info_dict SB3 stores a million empty dicts, which are not read.
        rows = made.buffer_size if made.copy_info_dict else 0
        made.infos = self.get("infos") if made.copy_info_dict else np.empty((rows, made.n_envs), dtype=object)

    def _strategy(self) -> Any:
        strategy = self.get("goal_selection_strategy")
        if type(strategy).__name__ != "GoalSelectionStrategy":
            raise TypeError(f"goal_selection_strategy is {strategy!r:.40}")
        return strategy

    def _restore_rest(self, made: ReplayBuffer) -> None:
        """Restore additional attributes of a user's class."""
        if type(made).__module__.partition(".")[0] == "mlx_baselines3":
            return
        for name in self._state.keys() - _KNOWN:
            value = self.get(name)
            check_attribute(type(made), name, value)
            vars(made)[name] = value

    def _episodes(self, kind: type[HerReplayBuffer]) -> Any:
        """
        HER of SB3 before 1.8: ``_buffer`` has arrays ``(episodes, steps, ...)`` of a single environment. With
        offline sampling it is empty, and relabelled transitions are in a separate buffer.
        """
        if not self.get("online_sampling", True):
            warnings.warn(
                "The replay buffer was filled by HerReplayBuffer(online_sampling=False), which SB3 removed "
                "in 1.8. Its already relabelled transitions are loaded as a DictReplayBuffer: new ones are "
                "not relabelled.",
                stacklevel=6,
            )
            return _build(self._evaluate, self._state.get("replay_buffer"))
        return _OldEpisodes(self).buffer(kind)


def _fill(home: np.ndarray, stored: Any, name: str) -> None:
    if not isinstance(stored, np.ndarray) or stored.dtype.kind not in "biuf" or stored.shape != home.shape:
        found = f"{stored.dtype} {stored.shape}" if isinstance(stored, np.ndarray) else type(stored).__name__
        raise ModelFileError(f"the column '{name}' is {found}, expected {home.dtype} {home.shape}.")
    home[...] = stored


class _OldEpisodes:
    """
    Converts the episodes of SB3 1.5 to 1.7's HER buffer to rows.

    :param fields: its attributes
    """

    _GOALS = ("observation", "achieved_goal", "desired_goal")

    def __init__(self, fields: _Fields) -> None:
        self._fields = fields
        tables = fields.get("_buffer")
        self._pos, self._steps, self._full = (fields.get(name) for name in ("pos", "current_idx", "full"))
        self._lengths = fields.get("episode_lengths")
        if not isinstance(tables, dict) or not isinstance(self._lengths, np.ndarray):
            raise ModelFileError("there are no episodes in it.")
        self._tables: dict[str, np.ndarray] = tables
        self._check()

    def _check(self) -> None:
        done = self._tables["done"]
        count, longest = done.shape[:2]
        for name, table in self._tables.items():
            if not isinstance(table, np.ndarray) or table.shape[:2] != (count, longest):
                raise ModelFileError(f"'{name}' does not have {count} episodes of {longest} steps.")
        whole = type(self._pos) is int and type(self._steps) is int and self._lengths.shape == (count,)
        if not whole or not 0 <= self._pos < count or not 0 <= self._steps <= longest:
            raise ModelFileError("the cursor leads outside of its episodes.")
        if self._lengths.dtype.kind not in "iu" or self._lengths.min() < 0 or self._lengths.max() > longest:
            raise ModelFileError(f"an episode is longer than {longest} steps.")

    def buffer(self, kind: type[HerReplayBuffer]) -> Any:
        space = self._fields.get("observation_space")
        if not isinstance(space, spaces.Dict) or not set(self._GOALS) <= set(space.spaces):
            raise ModelFileError("the observation space has no goals.")
        done = self._tables["done"]
        handled = bool(self._fields.get("handle_timeout_termination", True))
        rows = max(int(self._fields.get("buffer_size")), 1)
        if rows < done.shape[0] * done.shape[1] or rows > 2 * done.shape[0] * done.shape[1]:
            raise ModelFileError(f"buffer_size is {rows}, but there is room for {done.size} steps.")
        layout = Layout(rows, space, self._fields.get("action_space"), 1, False, handled)
        made = empty_buffer(kind, layout)
        made.goal_selection_strategy = self._fields._strategy()
        made.n_sampled_goal, made.her_ratio = (
            self._fields.get(name) for name in ("n_sampled_goal", "her_ratio")
        )
        # It always passed the infos to compute_reward.
        made.copy_info_dict = True
        made.infos = np.empty((rows, 1), dtype=object)
        for slot in self._order():
            self._append(made, slot, int(self._lengths[slot]), complete=True)
        if self._steps:
            self._append(made, self._pos, self._steps, complete=False)
        check_buffer(made, layout)
        return made

    def _order(self) -> list[int]:
        """The complete episodes, oldest first. The one at the cursor is being overwritten."""
        count = len(self._lengths)
        return [(self._pos + 1 + i) % count for i in range(count - 1)] if self._full else [*range(self._pos)]

    def _append(self, made: Any, slot: int, length: int, complete: bool) -> None:
        if length == 0:
            return
        start, rows = made.pos, slice(made.pos, made.pos + length)
        for key in self._GOALS:
            following = "next_obs" if key == "observation" else f"next_{key}"
            _put(made.observations[key], rows, self._tables[key][slot, :length])
            _put(made.next_observations[key], rows, self._tables[following][slot, :length])
        _put(made.actions, rows, self._tables["action"][slot, :length])
        _put(made.rewards, rows, self._tables["reward"][slot, :length])
        infos = list(self._fields.get("info_buffer")[slot])
        for step in range(length):
            info = infos[step] if step < len(infos) else None
            made.infos[start + step, 0] = info[0] if isinstance(info, (list, tuple)) and info else {}
        made.ep_start[rows] = start
        made.pos = (start + length) % made.buffer_size
        made.full = made.full or made.pos == 0
        if complete:
            # Time limits were not marked.
            ended = float(self._tables["done"][slot, length - 1, 0]) != 0
            made.dones[start + length - 1], made.timeouts[start + length - 1] = 1, not ended
            made.ep_length[rows] = length
            made._current_ep_start[:] = made.pos


def _put(home: np.ndarray, rows: slice, stored: np.ndarray) -> None:
    target = home[rows]
    if stored.size != target.size or stored.dtype.kind not in "biuf":
        raise ModelFileError(f"{stored.shape} numbers for rows of shape {target.shape}.")
    target[...] = stored.reshape(target.shape)
