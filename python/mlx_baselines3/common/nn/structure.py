"""The structure of a network, to detect changes that require a new update."""

import operator
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlx_baselines3.common.nn.named_arrays import find_arrays

__all__ = ["Structure"]


class Structure:
    """
    The modules of a network and the locations of its arrays at one moment. :meth:`is_current` is called
    before every update and takes a fraction of the time of reading the network again.

    :param network: any MLX module
    """

    def __init__(self, network: Module):
        self.network = network
        found, holders = find_arrays(network)
        self.names = list(found)
        # The arrays that are not frozen, each with the module that it belongs to.
        self.owners = {name: place.module for name, place in found.items() if place.is_trained}
        self._holders = holders
        self._array_places = (
            [place.holder for place in found.values()],
            [place.key for place in found.values()],
        )
        self._sizes = [len(holder) for holder in holders]
        # The rest of what is in them: modules, containers, numbers.
        rest = [
            (holder, key, child)
            for holder in holders
            for key, child in (holder.items() if isinstance(holder, dict) else enumerate(holder))
            if not isinstance(child, mx.array)
        ]
        self._rest = [child for _, _, child in rest]
        self._rest_places = [holder for holder, _, _ in rest], [key for _, key, _ in rest]
        self._modules = [holder for holder in holders if isinstance(holder, Module)]
        self._frozen = [set(module._no_grad) for module in self._modules]
        # Distributions are plain attributes.
        self._distributions = [*map(_distribution, self._modules)]
        # Instances may get their own methods, and activations may be functions.
        self._with_attributes = [*self._modules, *filter(None, self._distributions)]
        self._callables = self._find_callables()
        # `Sequential` overrides __getitem__.
        self._get = dict.__getitem__ if all(isinstance(holder, dict) for holder in holders) else _get
        self._shapes = [array.shape for array in self.arrays().values()]

    def arrays(self) -> dict[str, mx.array]:
        """:return: the arrays of the network as they are now, in SB3's order"""
        return dict(zip(self.names, map(self._get, *self._array_places), strict=True))

    def set_arrays(self, arrays: Mapping[str, mx.array]) -> None:
        """
        Put arrays in their places.

        :param arrays: name -> array, all of them in the order of :meth:`arrays`
        """
        for holder, key, array in zip(*self._array_places, arrays.values(), strict=True):
            if isinstance(holder, dict):
                dict.__setitem__(holder, key, array)
            else:
                holder[key] = array

    def is_current(self) -> bool:
        """:return: whether nothing but the numbers in the arrays has changed"""
        try:
            return (
                all(map(operator.is_, map(self._get, *self._rest_places), self._rest))
                and list(map(len, self._holders)) == self._sizes
                and [array.shape for array in map(self._get, *self._array_places)] == self._shapes
                and [module._no_grad for module in self._modules] == self._frozen
                and all(map(operator.is_, map(_distribution, self._modules), self._distributions))
                and self._has_same_callables()
            )
        except (AttributeError, IndexError, KeyError):
            return False

    def _find_callables(self) -> list[Any]:
        attributes = map(vars, self._with_attributes)
        return [value for values in attributes for value in values.values() if callable(value)]

    def _has_same_callables(self) -> bool:
        now = self._find_callables()
        return len(now) == len(self._callables) and all(map(operator.is_, now, self._callables))


def _get(holder: Any, key: Any) -> Any:
    return dict.__getitem__(holder, key) if isinstance(holder, dict) else holder[key]


def _distribution(module: Module) -> Any:
    return vars(module).get("action_dist")
