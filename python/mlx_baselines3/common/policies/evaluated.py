"""Evaluation of a model's arrays: MLX can compute a pending array only in the thread that created it."""

import operator
from collections.abc import Callable, Iterable, Mapping
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
    _evaluate_all(_reachable(roots))


def _reachable(roots: Iterable[Any]) -> list[mx.array]:
    """The MLX arrays that can be reached from some objects."""
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
    return arrays


def _evaluate_all(arrays: list[mx.array]) -> None:
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


# Attributes of an algorithm that can contain arrays: not its environments, buffers, callbacks.
_PARTS = (mx.array, Module, ParameterOptimizer, dict, list, tuple)


class _Places:
    """Where dictionaries, or sequences, hold children of one sort, and what was there."""

    def __init__(self, get: Callable[[Any, Any], Any]):
        self._get = get
        self._holders: list[Any] = []
        self._keys: list[Any] = []
        self.known: list[Any] = []

    def add(self, holder: Any, key: Any, known: Any) -> None:
        """
        :param holder: a dictionary or a sequence
        :param key: where in it
        :param known: the child, or its type
        """
        self._holders.append(holder)
        self._keys.append(key)
        self.known.append(known)

    def now(self) -> Iterable[Any]:
        """:return: the children that are there at this moment"""
        return map(self._get, self._holders, self._keys)


class _Walk:
    """
    The way to all arrays of a model, kept from one call to the next: to look through hundreds of objects
    takes a millisecond, and to see that they are the same a fifth. Containers are compared by identity,
    everything else by type, so that a number may become another number but not an array.

    :param model: the algorithm
    """

    def __init__(self, model: Any):
        self._sizes: list[int] = []
        self._holders: list[Any] = []
        self._places = {
            sort: (_Places(dict.__getitem__), _Places(operator.getitem))
            for sort in ("object", "type", "array")
        }
        # What may contain anything at any time.
        self._others: list[Any] = []
        self._waiting: list[Any] = []
        own = vars(model)
        self._hold(own, own.items(), 0, _PARTS)
        seen: set[int] = set()
        while self._waiting:
            found = self._waiting.pop()
            if id(found) not in seen:
                seen.add(id(found))
                self._look_into(found)

    def _look_into(self, found: Any) -> None:
        kind = _kind(type(found))
        if kind.is_distribution or (kind.is_mapping and not isinstance(found, dict)):
            self._others.append(found)
            return
        if kind.is_mapping:
            self._hold(found, dict.items(found), 0)
        elif isinstance(found, list | tuple):
            self._hold(found, enumerate(found), 1)
        elif kind.is_sequence:
            self._others.append(found)
            return
        # Attributes of functions do not belong to the model.
        if hasattr(found, "__dict__") and not hasattr(found, "__code__"):
            self._hold(vars(found), vars(found).items(), 0)

    def _hold(
        self,
        holder: Any,
        children: Iterable[tuple[Any, Any]],
        group: int,
        parts: tuple[type, ...] | None = None,
    ) -> None:
        self._holders.append(holder)
        self._sizes.append(len(holder))
        for key, child in children:
            if isinstance(child, mx.array):
                self._places["array"][group].add(holder, key, type(child))
            elif (
                _kind(type(child)).is_leaf
                # Names of a module's frozen arrays.
                or key == "_no_grad"
                or (parts is not None and not isinstance(child, parts))
            ):
                self._places["type"][group].add(holder, key, type(child))
            else:
                self._places["object"][group].add(holder, key, child)
                self._waiting.append(child)

    def arrays(self) -> list[mx.array] | None:
        """:return: all arrays; None if it has become another way"""
        try:
            if [*map(len, self._holders)] != self._sizes:
                return None
            for places in self._places["object"]:
                if not all(map(operator.is_, places.now(), places.known)):
                    return None
            for places in self._places["type"]:
                if not all(map(operator.is_, map(type, places.now()), places.known)):
                    return None
            found: list[mx.array] = []
            for places in self._places["array"]:
                some = [*places.now()]
                if not all(map(operator.is_, map(type, some), places.known)):
                    return None
                found += some
        except (IndexError, KeyError):
            return None
        return found + _reachable(self._others)


def _arrays_of(model: Any) -> list[mx.array]:
    """All arrays of a model, on the way of the last time if that is still the same."""
    keeper = vars(model).get("_updater")
    walk = getattr(keeper, "walk", None)
    arrays = None if walk is None else walk.arrays()
    if arrays is None:
        walk = _Walk(model)
        arrays = walk.arrays()
        assert arrays is not None, "nothing has changed since"
        if keeper is not None:
            keeper.walk = walk
    # Its entries come and go.
    logged = getattr(vars(model).get("_logger"), "name_to_value", None)
    return arrays if logged is None else arrays + _reachable([logged])


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
                evaluate(*_arrays_of(self._model))
        finally:
            self._computing.__exit__(kind, error, traceback)
        # The call may have created the policy.
        place = self._current_place()
        if self._outermost and place is not None:
            place.leave()
