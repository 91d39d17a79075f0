"""Snapshots of a policy's structure, compared before every prediction and rollout."""

import operator
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native

__all__ = ["Remembered", "Snapshot"]

# Methods that determine what a module computes, whatever its class.
_CALLS = ("__call__", "forward")
# Results of a forward pass and of reading the policy; they do not determine its actions.
_LEFT_BEHIND = frozenset(
    ("_training", "_remembered", "distribution", "gaussian_actions", "weights_dist", "exploration_mat",
     "exploration_matrices", "_latent_sde")
)  # fmt: skip
# Where classes come from that no user changes.
_KNOWN = frozenset(("mlx_baselines3", "mlx", "builtins", "abc", "typing"))
_code = operator.attrgetter("__code__")


class Snapshot:
    """
    The structure of a policy's modules at one moment. :meth:`is_current` takes a fraction of the time of
    reading the modules again.

    Children and attributes are compared by identity, arrays by shape: their numbers may change. The training
    mode and the results of a forward pass are ignored. All methods of user-defined classes are compared, but
    only ``__call__`` and ``forward`` of this package's and MLX's classes.

    :param policy: an MLX module
    """

    def __init__(self, policy: Module):
        self.policy = policy
        modules = _reachable(policy)
        kinds = {type(module) for module in modules}
        # A distribution is not a module, but its attributes determine the actions, too.
        others = [vars(value) for module in modules if (value := vars(module).get("action_dist")) is not None]
        holders: list[dict[str, Any]] = [*modules, *(vars(module) for module in modules), *others]
        methods = [(kind, name) for kind in kinds for name in _CALLS if hasattr(kind, name)]
        self._core = _native.Snapshot(holders, _LEFT_BEHIND, mx.array, methods)
        # A class may get its own version of an inherited method.
        users = {base for kind in kinds for base in kind.__mro__ if not _is_known(base)}
        self._users = [(vars(kind), dict(vars(kind))) for kind in users]
        # IPython's autoreload replaces the code of a function and keeps the function object.
        self._users_functions = [
            value for kind in users for value in vars(kind).values() if isinstance(value, FunctionType)
        ]
        self._codes = [*map(_code, self._users_functions)]

    def is_current(self, policy: Module) -> bool:
        """
        :param policy: a module
        :return: whether it is the policy of the snapshot, and only numbers in its arrays have changed
        """
        return policy is self.policy and self._core.is_current() and (not self._users or self._same_users())

    def is_same(self, policy: Module) -> bool | None:
        """
        :param policy: a module
        :return: whether its arrays are the objects that they were at the last call; None if the snapshot is
            not current
        """
        same = self._core.is_same() if policy is self.policy else None
        return None if same is None or (self._users and not self._same_users()) else same

    def _same_users(self) -> bool:
        """Whether the users' classes are as they were."""
        return all(_same_entries(now, before) for now, before in self._users) and all(
            map(operator.is_, map(_code, self._users_functions), self._codes)
        )


def _is_known(kind: type) -> bool:
    return kind.__module__.split(".")[0] in _KNOWN


def _same_entries(now: Mapping[str, Any], before: dict[str, Any]) -> bool:
    return [*now] == [*before] and all(map(operator.is_, now.values(), before.values()))


def _reachable(policy: Module) -> list[Module]:
    """All modules of a policy, including those that are only attributes, such as aliases."""
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
    Cached blueprint and native actor of a policy, stored as its attribute. Copies and pickles of the policy
    get an empty cache. A global table of policies would never free them: its values refer to its keys.

    ``snapshot`` is that of the policy when ``blueprint`` was read, ``actor`` the last native actor.
    """

    # Slots: searches for arrays in the attributes of a policy must not find these.
    __slots__ = ("actor", "blueprint", "snapshot")

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        # A string with the reason if there is none.
        self.blueprint: Any = None
        self.actor: Any = None

    def is_current(self, policy: Module) -> bool:
        """
        :param policy: the policy with this attribute; a shallow copy shares the original's
        :return: whether the blueprint is still that of the policy
        """
        return self.snapshot is not None and self.snapshot.is_current(policy)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remembered":
        return Remembered()

    def __copy__(self) -> "Remembered":
        return Remembered()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, ()
