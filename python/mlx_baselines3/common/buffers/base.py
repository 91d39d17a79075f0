"""What every buffer shares: sizes, the cursor, memory owned by Rust, and the way to MLX."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import mlx.core as mx
import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike

from mlx_baselines3 import _native
from mlx_baselines3.common.buffers._draws import randint
from mlx_baselines3.common.buffers._rows import check_batch_size, check_sizes, fit_row
from mlx_baselines3.common.nn.interop import to_mlx
from mlx_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from mlx_baselines3.common.utils import get_device

if TYPE_CHECKING:
    from mlx_baselines3.common.vec_env import VecNormalize

# Name -> shape of one environment's entry, dtype
Columns: TypeAlias = Mapping[str, tuple[tuple[int, ...], DTypeLike | None]]


def as_bytes(array: np.ndarray) -> np.ndarray:
    """
    :param array: any shape and dtype without Python objects
    :return: its bytes, one axis; a view where ``array`` is C-contiguous
    :raises TypeError: it holds Python objects
    """
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def action_dtype(action_space: spaces.Space[Any]) -> Any:
    """
    :param action_space: the action space
    :return: the dtype in which a buffer stores actions: the space's, but float32 for a Box of integers, whose
        policy draws fractions. Truncated, they would be other actions than those that were taken
    """
    if isinstance(action_space, spaces.Box) and action_space.dtype.kind in "iub":
        return np.dtype(np.float32)
    return action_space.dtype


class BaseBuffer(ABC):
    """
    What rollout and replay buffers share: sizes, the cursor and the memory.

    :param buffer_size: number of rows; each holds one transition of every environment
    :param observation_space: observation space
    :param action_space: action space
    :param device: ``"auto"``, ``"cpu"``, ``"gpu"`` or an ``mx.Device``; kept for callers, MLX arrays
        are not tied to a device
    :param n_envs: number of parallel environments
    :raises ValueError: ``buffer_size`` or ``n_envs`` is not at least 1
    """

    observation_space: spaces.Space[Any]
    obs_shape: tuple[int, ...] | dict[str, tuple[int, ...]]
    observations: Any
    actions: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: mx.Device | str = "auto",
        n_envs: int = 1,
    ):
        super().__init__()
        check_sizes(buffer_size, n_envs)
        self.buffer_size = buffer_size
        self.observation_space = observation_space
        self.action_space = action_space
        self.obs_shape = get_obs_shape(observation_space)
        self.action_dim = get_action_dim(action_space)
        self.pos = 0
        self.full = False
        self.device = device
        self.n_envs = n_envs

    @property
    def device(self) -> mx.Device:
        """
        :return: the device asked for, or the CPU where there is no GPU
        """
        return get_device(self._device)

    @device.setter
    def device(self, device: mx.Device | str) -> None:
        # Kept as text: an mx.Device cannot be pickled.
        self._device = "gpu" if get_device(device).type == mx.gpu else "cpu"

    def _allocate(self, columns: Columns) -> None:
        """
        Set one attribute for each column to zeros of shape ``(buffer_size, n_envs, *shape)``, all in
        one block of Rust memory. ``"observations/key"`` becomes an entry of a dict.

        :param columns: shape of one environment's entry and dtype, by name
        :raises MemoryError: the block is larger than what the system gives; nothing has changed then
        """
        specs = {name: ((self.n_envs, *shape), np.dtype(dtype)) for name, (shape, dtype) in columns.items()}
        widths = {name: math.prod(row) * dtype.itemsize for name, (row, dtype) in specs.items()}
        try:
            storage = _native.Storage(self.buffer_size, widths)
        except (MemoryError, OverflowError) as error:
            gigabytes = self.buffer_size * sum(widths.values()) / 1e9
            raise MemoryError(
                f"A {type(self).__name__} of {self.buffer_size} rows for {self.n_envs} environments needs "
                f"{gigabytes:.1f} GB, which this system does not give. Lower buffer_size, n_steps or n_envs."
            ) from error
        self._columns = dict(columns)
        self.__dict__.update({name.partition("/")[0]: {} for name in specs if "/" in name})
        for name, (row, dtype) in specs.items():
            self._place(name, storage.column(name).view(dtype).reshape(self.buffer_size, *row))

    def _place(self, name: str, array: np.ndarray) -> None:
        attribute, _, key = name.partition("/")
        if key:
            self.__dict__[attribute][key] = array
        else:
            self.__dict__[attribute] = array

    def _column(self, name: str) -> np.ndarray:
        attribute, _, key = name.partition("/")
        column: np.ndarray = self.__dict__[attribute][key] if key else self.__dict__[attribute]
        return column

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled state; what was in Rust memory goes back there."""
        self.__dict__.update(state)
        held = {name: self._column(name) for name in self._columns}
        self._allocate(self._columns)
        for name, array in held.items():
            home = self._column(name)
            if (array.shape, array.dtype) == (home.shape, home.dtype):
                home[...] = array
            else:  # flattened by get(), or replaced by a subclass
                self._place(name, array)

    def _observation_columns(self, name: str) -> Columns:
        if isinstance(self.obs_shape, dict):
            space = cast(spaces.Dict, self.observation_space)
            return {f"{name}/{key}": (shape, space[key].dtype) for key, shape in self.obs_shape.items()}
        return {name: (self.obs_shape, self.observation_space.dtype)}

    def _observation_rows(self, name: str, obs: Any, store: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of a column and the row that belongs in it, checked but not yet written."""
        if not isinstance(store, dict):
            return [(store, fit_row(name, obs, store.shape[1:]))]
        missing = [key for key in store if key not in obs]
        if missing:
            raise ValueError(f"{name} has no {missing[0]!r}, expected the keys {sorted(store)}")
        return [(store[key], fit_row(f"{name}[{key!r}]", obs[key], store[key].shape[1:])) for key in store]

    @staticmethod
    def swap_and_flatten(arr: np.ndarray) -> np.ndarray:
        """
        Put the steps of each environment after one another.

        :param arr: ``(n_steps, n_envs, ...)``
        :return: ``(n_envs * n_steps, ...)``, the first environment first; ``(n_envs * n_steps, 1)`` for
            two axes. A view where ``n_envs`` is 1, else a copy
        """
        n_steps, n_envs, *rest = arr.shape if arr.ndim > 2 else (*arr.shape, 1)
        shape = (n_steps * n_envs, *rest)
        if n_envs == 1 or arr.dtype.hasobject:
            view: np.ndarray = arr.swapaxes(0, 1).reshape(shape)
            return view
        flat = np.empty(shape, arr.dtype)
        _native.flatten_env_major(as_bytes(arr), as_bytes(flat), n_steps, n_envs)
        return flat

    def size(self) -> int:
        """
        :return: number of rows that hold data
        """
        return self.buffer_size if self.full else self.pos

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add one row. Each buffer says what belongs in it."""
        raise NotImplementedError

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """
        Add many rows.

        :param args: what :meth:`add` takes, each with one more axis in front
        """
        for row in zip(*args, strict=True):
            self.add(*row)

    def reset(self) -> None:
        """Forget all rows."""
        self.pos = 0
        self.full = False

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw rows with replacement.

        :param batch_size: number of transitions
        :param env: normalises observations and rewards with its statistics, if given
        :return: the samples as ``mx.array``
        :raises ValueError: ``batch_size`` is below 1 or the buffer is empty
        """
        return self._get_samples(self._draw_rows(batch_size), env=env)

    def _draw_rows(self, batch_size: int) -> np.ndarray:
        check_batch_size(batch_size)
        if self.size() == 0:
            raise ValueError(f"Cannot sample {batch_size} transitions: the {type(self).__name__} is empty")
        return randint(0, self.size(), batch_size)

    @abstractmethod
    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        """
        :param batch_inds: rows to take
        :param env: normalises observations and rewards, if given
        :return: the samples as ``mx.array``
        """

    def to_torch(self, array: np.ndarray, copy: bool = True) -> mx.array:
        """
        Convert to MLX. The name is SB3's.

        :param array: any shape; float64 becomes float32
        :param copy: for SB3's sake; MLX always copies
        :return: the same numbers
        """
        return to_mlx(array)

    @staticmethod
    def _normalize_obs(obs: Any, env: VecNormalize | None = None) -> Any:
        return obs if env is None else env.normalize_obs(obs)

    @staticmethod
    def _normalize_reward(reward: np.ndarray, env: VecNormalize | None = None) -> np.ndarray:
        return reward if env is None else env.normalize_reward(reward).astype(np.float32)
