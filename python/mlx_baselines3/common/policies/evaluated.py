"""Evaluation of a model's arrays: MLX can compute a pending array only in the thread that created it."""

from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import mlx.core as mx
from gymnasium import spaces
from mlx.nn.layers.base import Module

from mlx_baselines3.common.distributions.base import Distribution
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.nn.structure import Structure
from mlx_baselines3.common.nn.threads import GeneratorPlace, computing, inside_call, use_mlx

__all__ = ["ModelCall", "evaluate"]

# Objects without MLX arrays, or without those of the model. A structure lists what the network holds anyway.
_LEAVES = (str, bytes, int, float, type, ModuleType, spaces.Space, type(None), Structure)


class _Kind(NamedTuple):
    """How to look into the objects of a class."""

    is_leaf: bool
    is_distribution: bool
    is_mapping: bool
    is_sequence: bool


# Asked for each object at the end of each call, and slow to tell.
_kinds: dict[type, _Kind] = {}


def _kind(kind: type) -> _Kind:
    known = _kinds.get(kind)
    if known is None:
        known = _kinds[kind] = _Kind(
            issubclass(kind, _LEAVES),
            issubclass(kind, Distribution),
            issubclass(kind, Mapping),
            issubclass(kind, list | tuple | set | frozenset),
        )
    return known


def evaluate(*roots: Any) -> None:
    """
    Evaluate all MLX arrays reachable from some objects: networks, their attributes, optimizers,
    distributions, lists and dictionaries.

    :param roots: the objects
    """
    arrays: list[mx.array] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        found = waiting.pop()
        if isinstance(found, mx.array):
            arrays.append(found)
            continue
        if id(found) in seen or _kind(type(found)).is_leaf:
            continue
        seen.add(id(found))
        waiting += _inside(found)
    try:
        mx.eval(arrays)
    except (RuntimeError, ValueError) as error:
        if not _is_elsewhere(error):
            raise
        _evaluate_each(arrays)


def _inside(found: Any) -> list[Any]:
    kind = _kind(type(found))
    if kind.is_distribution:
        # The rest belongs to the last forward pass, possibly of another thread.
        return [vars(found).get(name) for name in ("exploration_mat", "exploration_matrices")]
    inside: list[Any] = []
    if kind.is_mapping:
        inside += found.values()
    elif kind.is_sequence:
        inside += found
    # Attributes of functions do not belong to the model.
    if hasattr(found, "__dict__") and not hasattr(found, "__code__"):
        inside += vars(found).values()
    return inside


def _is_elsewhere(error: Exception) -> bool:
    """
    Whether an array cannot be evaluated because it is a placeholder that a user's network stored while it was
    traced, or is pending in another thread. Both fail when they are used.
    """
    signs = ("without a primitive", "during function transformations", "in current thread")
    return any(sign in str(error) for sign in signs)


def _evaluate_each(arrays: list[mx.array]) -> None:
    for array in arrays:
        try:
            mx.eval(array)
        except (RuntimeError, ValueError) as error:
            if not _is_elsewhere(error):
                raise


def _parts(model: Any) -> list[Any]:
    """The attributes of an algorithm that can contain arrays: not its environments, buffers, callbacks."""
    kinds = (mx.array, Module, ParameterOptimizer, dict, list, tuple)
    parts = [value for value in vars(model).values() if isinstance(value, kinds)]
    logger = vars(model).get("_logger")
    return [*parts, getattr(logger, "name_to_value", None)]


class ModelCall:
    """
    Context of a public call of a model. At its end, all arrays of the model are evaluated, and the state of
    its random numbers is stored. Nested calls have no effect.

    :param model: the algorithm
    """

    def __init__(self, model: Any):
        self._model = model
        self._computing = computing()
        self._outermost = False

    def _current_place(self) -> GeneratorPlace | None:
        return getattr(getattr(self._model, "policy", None), "_generator_place", None)

    def __enter__(self) -> None:
        use_mlx()
        self._outermost = not inside_call()
        place = self._current_place()
        if self._outermost and place is not None:
            place.enter()
        self._computing.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._outermost:
                evaluate(*_parts(self._model))
        finally:
            self._computing.__exit__(kind, error, traceback)
        # The call may have created the policy.
        place = self._current_place()
        if self._outermost and place is not None:
            place.leave()
