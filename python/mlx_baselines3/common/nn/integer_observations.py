"""Range checks of integer observations, which one-hot encoding requires."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces

__all__ = ["are_readable", "check_integers", "first_values", "holds_integers", "not_readable"]

_here = threading.local()


@contextmanager
def not_readable() -> Iterator[None]:
    """Context in which observations are placeholders of a trace and are not checked."""
    before = not are_readable()
    _here.tracing = True
    try:
        yield
    finally:
        _here.tracing = before


def are_readable() -> bool:
    """:return: whether this thread is outside :func:`not_readable`"""
    return not getattr(_here, "tracing", False)


def holds_integers(space: spaces.Space[Any]) -> bool:
    """
    :param space: an observation space
    :return: whether some of its values are one-hot encoded for networks
    """
    if isinstance(space, spaces.Dict):
        return any(map(holds_integers, space.spaces.values()))
    return isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))


def first_values(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[np.ndarray, np.ndarray]:
    """
    :param space: a space
    :return: the first value of each entry, and the number of its values
    """
    if isinstance(space, spaces.Discrete):
        return np.array([int(space.start)]), np.array([int(space.n)])
    sizes = np.asarray(space.nvec, np.int64).ravel()
    # In Gymnasium before 1.0, MultiDiscrete has no start.
    return np.asarray(getattr(space, "start", np.zeros_like(sizes)), np.int64).ravel(), sizes


def check_integers(obs: Any, space: spaces.Space[Any], row_name: str = "row", key: str = "") -> None:
    """
    :param obs: a batch of observations, or a dict of them
    :param space: the space of one of them
    :param row_name: meaning of a row of the batch, for the message
    :param key: the key of the batch if it is part of a Dict
    :raises RuntimeError: a value is outside of a Discrete or MultiDiscrete space, as in SB3
    """
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            if name in obs:
                check_integers(obs[name], part, row_name, name)
        return
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return
    starts, sizes = first_values(space)
    values = np.asarray(obs).reshape(-1, len(sizes))
    # Fractions are truncated, as by torch's `long()`.
    whole = np.trunc(values) if values.dtype.kind == "f" else values
    # Not written as a comparison with the last value, so that nan is rejected.
    wrong = ~((whole >= starts) & (whole < starts + sizes))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        entry = "" if isinstance(space, spaces.Discrete) else f"entry {column} of "
        of_key = f"{key!r} in " if key else ""
        low, high = int(starts[column]), int(starts[column] + sizes[column]) - 1
        raise RuntimeError(
            f"{entry}{of_key}the observation of {row_name} {row} is {values[row, column]}, outside of "
            f"{space}: expected an integer from {low} to {high}."
        )
