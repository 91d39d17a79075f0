"""The arrays of a module by their dotted names. Reached through ``layers``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx


def _walk(value: Any, prefix: str, found: dict[str, mx.array]) -> None:
    children: list[tuple[str, Any]] = []
    # A module's own arrays come before those of its children, the order in which SB3's
    # optimizers number the parameters.
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(child, mx.array):
            if not (name := str(key)).startswith("_"):
                found[prefix + name] = child
        elif isinstance(child, (dict, list, tuple)) and child:
            children.append((str(key), child))
    for key, child in children:
        if not key.startswith("_"):
            _walk(child, f"{prefix}{key}.", found)


def named_parameters(module: Any) -> dict[str, mx.array]:
    """
    All arrays of a module by their dotted name, in SB3's order.

    :param module: any MLX module
    :return: for instance ``{"mlp_extractor.policy_net.0.weight": …}``
    """
    found: dict[str, mx.array] = {}
    _walk(module, "", found)
    return found


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
