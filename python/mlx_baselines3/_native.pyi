"""What the Rust extension offers to the package. Nothing here is public."""

import numpy as np
from numpy.typing import NDArray

__version__: str

# Buffers

class Storage:
    """
    Zeroed columns in one block of memory owned by Rust.

    :param rows: rows of every column
    :param columns: (name, bytes a row) of each
    :raises MemoryError: the block cannot be had
    """

    def __new__(cls, rows: int, columns: list[tuple[str, int]]) -> Storage: ...
    def column(self, name: str) -> NDArray[np.uint8]:
        """
        :param name: a column
        :return: its bytes, writable, sharing memory with this object and keeping it alive
        :raises KeyError: no such column
        """

    def address(self, name: str) -> int:
        """
        :param name: a column
        :return: address of its first byte, a multiple of 64
        :raises KeyError: no such column
        """

    def row(self, name: str, row: int) -> bytes:
        """
        :param name: a column
        :param row: number of the row
        :return: a copy of what Rust reads there
        :raises KeyError: no such column
        :raises IndexError: no such row
        """

    @property
    def nbytes(self) -> int:
        """
        :return: size of the block in bytes
        """

def gae(
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    episode_starts: NDArray[np.float32],
    last_values: NDArray[np.float32],
    dones: NDArray[np.float32],
    gamma: float,
    gae_lambda: float,
    advantages: NDArray[np.float32],
    returns: NDArray[np.float32],
) -> None:
    """
    GAE(lambda), https://arxiv.org/abs/1506.02438, in place over C-contiguous columns.

    :param rewards: ``(n_steps, n_envs)``
    :param values: ``(n_steps, n_envs)``
    :param episode_starts: 0 or 1, ``(n_steps, n_envs)``
    :param last_values: ``(n_envs,)``
    :param dones: 0 or 1, ``(n_envs,)``
    :param gamma: discount factor
    :param gae_lambda: trade-off of bias and variance
    :param advantages: written, ``(n_steps, n_envs)``
    :param returns: written, ``(n_steps, n_envs)``
    :raises ValueError: a column's length does not fit the others
    """

def flatten_env_major(
    source: NDArray[np.uint8], target: NDArray[np.uint8], n_steps: int, n_envs: int
) -> None:
    """
    Copy ``(n_steps, n_envs)`` rows into ``(n_envs, n_steps)`` order.

    :param source: bytes of the rows
    :param target: written, as many bytes
    :param n_steps: steps
    :param n_envs: environments
    :raises ValueError: the lengths do not fit
    """

def gather(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], indices: NDArray[np.int64]) -> None:
    """
    Copy the rows named by ``indices`` from each source to its target, in that order.

    :param pairs: (bytes of the source's rows, bytes of ``len(indices)`` rows that are written)
    :param indices: row numbers
    :raises IndexError: a row does not exist, or the lengths do not fit
    """
