"""Integer observations as the networks see them: one-hot codes, made before Rust gets them."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.nn.integer_observations import check_integers, first_values

__all__ = ["OneHot", "seen_shape"]


class OneHot:
    """
    The codes of a space's values: a one among zeros for each of its entries, side by side.

    :param space: the space
    """

    __slots__ = ("_ends", "_firsts", "_sizes", "_space", "size")

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete):
        self._space = space
        self._firsts, self._sizes = first_values(space)
        # Where the codes of the entries begin.
        self._ends = np.cumsum(self._sizes) - self._sizes
        self.size = int(self._sizes.sum())

    def encode(self, observations: Any, batch_axes: int = 1) -> np.ndarray:
        """
        :param observations: numbers of any type, with the axes of a batch in front; fractions are truncated
        :param batch_axes: how many these are
        :return: (..., size) float32 codes
        :raises RuntimeError: a number is outside of the space
        """
        array = np.asarray(observations)
        shape = array.shape[:batch_axes]
        values = array.reshape(math.prod(shape), len(self._sizes))
        with np.errstate(invalid="ignore"):
            entries = values.astype(np.int64) - self._firsts
        if ((entries < 0) | (entries >= self._sizes)).any():
            check_integers(values, self._space)
        codes = np.zeros((len(values), self.size), np.float32)
        codes[np.arange(len(values))[:, None], entries + self._ends] = 1.0
        return codes.reshape(*shape, self.size)


def seen_shape(space: spaces.Space[Any]) -> tuple[int, ...] | None:
    """
    :param space: a space of observations, no Dict
    :return: the shape of what an extractor sees of one of them; None if Rust does not know how it is made
    """
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return tuple(space.shape)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return (int(first_values(space)[1].sum()),)
    return None
