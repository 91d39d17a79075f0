"""The arrays of a module by their dotted names. Private; import from ``common.layers``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.nn.layers.base import Module


class Place(NamedTuple):
    """
    Location of an array in a module.

    :param array: the array
    :param holder: the module, dictionary or list that holds it
    :param key: its name or number there
    :param module: the module that it belongs to
    :param is_trained: whether MLX's ``trainable_parameters`` has it, too
    """

    array: mx.array
    holder: Any
    key: Any
    module: Any
    is_trained: bool


def find_arrays(module: Any) -> tuple[dict[str, Place], list[Any]]:
    """
    :param module: any MLX module
    :return: all its arrays by their dotted name, in SB3's order; and all modules and containers that arrays
        may lie in
    """
    found: dict[str, Place] = {}
    holders: list[Any] = []
    _walk(module, "", module, True, found, holders)
    return found, holders


def _walk(
    holder: Any, prefix: str, module: Any, is_trained: bool, found: dict[str, Place], holders: list[Any]
) -> None:
    children: list[tuple[Any, Any]] = []
    frozen: Any = ()
    if isinstance(holder, Module):
        module, frozen = holder, holder._no_grad
    holders.append(holder)
    # A module's own arrays come before those of its children, the order in which SB3's
    # optimizers number the parameters.
    for key, child in holder.items() if isinstance(holder, dict) else enumerate(holder):
        if isinstance(child, mx.array):
            if not (name := str(key)).startswith("_"):
                found[prefix + name] = Place(child, holder, key, module, is_trained and key not in frozen)
        elif isinstance(child, (dict, list, tuple)):
            children.append((key, child))
    for key, child in children:
        if not (name := str(key)).startswith("_"):
            _walk(child, f"{prefix}{name}.", module, is_trained and key not in frozen, found, holders)


def named_parameters(module: Any) -> dict[str, mx.array]:
    """
    All arrays of a module by their dotted name, in SB3's order.

    :param module: any MLX module
    :return: for instance ``{"mlp_extractor.policy_net.0.weight": …}``
    """
    return {name: place.array for name, place in find_arrays(module)[0].items()}


def set_named_parameters(module: Any, parameters: Mapping[str, mx.array]) -> None:
    """
    Put arrays in the places that :func:`named_parameters` names. Shapes are not checked.

    :param module: the module to change
    :param parameters: name -> array, any subset of the names
    :raises KeyError: if the module has no such place
    """
    for name, array in parameters.items():
        *path, leaf = name.split(".")
        owner: Any = module
        for key in path:
            owner = owner[int(key)] if isinstance(owner, (list, tuple)) else dict.__getitem__(owner, key)
        if isinstance(owner, list):
            owner[int(leaf)] = array
        elif leaf in owner:
            dict.__setitem__(owner, leaf, array)
        else:
            raise KeyError(name)


@contextmanager
def bound(module: Any, parameters: Mapping[str, mx.array]) -> Iterator[None]:
    """
    Let a module compute with other arrays inside a ``with`` block; it has its own again afterwards.

    Used while a step is traced, not while it runs.

    :param module: the module
    :param parameters: name -> array, any subset
    """
    own = named_parameters(module)
    set_named_parameters(module, parameters)
    try:
        yield
    finally:
        set_named_parameters(module, own)
