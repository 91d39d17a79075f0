"""Whether a policy is still made of what was read from it: asked before every prediction and rollout."""

import operator
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

__all__ = ["Remembered", "Snapshot"]

# Methods of a module that decide about what it computes, whatever its class is.
_CALLS = ("__call__", "forward")
_code = operator.attrgetter("__code__")


class Snapshot:
    """
    What the modules of a policy consist of at one moment. :meth:`is_current` takes a fraction of the time of
    reading the modules again.

    Children and attributes are compared by identity, arrays by shape: their numbers may change. The training
    mode does not count. Of users' classes all methods are compared, of this package's and MLX's those that
    compute.

    :param policy: an MLX module
    """

    def __init__(self, policy: Module):
        self.policy = policy
        modules = _reachable(policy)
        kinds = {type(module) for module in modules}
        # A distribution is no module; what it consists of decides about the actions, too.
        others = [vars(value) for module in modules if (value := vars(module).get("action_dist")) is not None]
        holders: list[dict[str, Any]] = [*modules, *(vars(module) for module in modules), *others]
        places = [(holder, key) for holder in holders for key in holder if key != "_training"]
        is_array = [isinstance(holder[key], mx.array) for holder, key in places]
        rest = [place for place, array in zip(places, is_array, strict=True) if not array]
        arrays = [place for place, array in zip(places, is_array, strict=True) if array]
        self._holders, self._sizes = holders, [*map(len, holders)]
        self._rest_places = [holder for holder, _ in rest], [key for _, key in rest]
        self._rest = [*map(dict.__getitem__, *self._rest_places)]
        self._array_places = [holder for holder, _ in arrays], [key for _, key in arrays]
        self._shapes = [array.shape for array in map(dict.__getitem__, *self._array_places)]
        # A class can get a method that a base class has so far.
        users = {base for kind in kinds for base in kind.__mro__ if not _is_known(base)}
        self._users = [(vars(kind), dict(vars(kind))) for kind in users]
        # IPython's autoreload gives a function other code and leaves it in its place.
        self._users_functions = [
            value for kind in users for value in vars(kind).values() if isinstance(value, FunctionType)
        ]
        self._codes = [*map(_code, self._users_functions)]
        methods = [(kind, name) for kind in kinds for name in _CALLS if hasattr(kind, name)]
        self._methods = [kind for kind, _ in methods], [name for _, name in methods]
        self._functions = [*map(getattr, *self._methods)]

    def is_current(self, policy: Module) -> bool:
        """
        :param policy: a module
        :return: whether it is the one of the snapshot, and only numbers in its arrays have changed since
        """
        try:
            return (
                policy is self.policy
                and all(map(operator.is_, map(dict.__getitem__, *self._rest_places), self._rest))
                and [*map(len, self._holders)] == self._sizes
                and [array.shape for array in map(dict.__getitem__, *self._array_places)] == self._shapes
                and all(map(operator.is_, map(getattr, *self._methods), self._functions))
                and all(_same_entries(now, before) for now, before in self._users)
                and all(map(operator.is_, map(_code, self._users_functions), self._codes))
            )
        except (AttributeError, KeyError):
            return False


def _is_known(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("mlx_baselines3", "mlx", "builtins")


def _same_entries(now: Mapping[str, Any], before: dict[str, Any]) -> bool:
    return [*now] == [*before] and all(map(operator.is_, now.values(), before.values()))


def _reachable(policy: Module) -> list[Module]:
    """All modules of a policy, those included that it only has as attributes, such as aliases."""
    found = {id(module): module for module in policy.modules()}
    unseen = [*found.values()]
    while unseen:
        for value in vars(unseen.pop()).values():
            if isinstance(value, Module) and id(value) not in found:
                new = {id(module): module for module in value.modules()}
                unseen += [module for key, module in new.items() if key not in found]
                found |= new
    return [*found.values()]


class Remembered:
    """
    What was made of a policy: an attribute of this very object, of which copies and pickles get an empty one.
    In a table of policies it would keep them for ever, because it refers to them.

    ``snapshot`` is that of the policy when ``blueprint`` was read, ``actor`` the last native actor.
    """

    # Who looks through the attributes of a policy for arrays does not look in here.
    __slots__ = ("actor", "blueprint", "snapshot")

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        # A sentence says why there is none.
        self.blueprint: Any = None
        self.actor: Any = None

    def is_current(self, policy: Module) -> bool:
        """
        :param policy: whose attribute this is; a shallow copy of a policy has that of the policy
        :return: whether the blueprint is still that of the policy
        """
        return self.snapshot is not None and self.snapshot.is_current(policy)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remembered":
        return Remembered()

    def __copy__(self) -> "Remembered":
        return Remembered()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, ()
