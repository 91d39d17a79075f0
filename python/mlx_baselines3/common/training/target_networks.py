"""Target networks: what each of their arrays follows, and how far."""

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlx_baselines3.common.nn.layers import named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.utils import polyak_average

__all__ = ["averaged", "follow", "sources"]


def _find(network: Module, name: str) -> mx.array:
    """An array by its name, also inside a module that the network has borrowed from another one."""
    place: Any = network
    for key in name.split("."):
        if isinstance(place, (list, tuple)):
            place = place[int(key)]
        elif isinstance(place, dict) and key in place:
            place = place[key]
        else:
            place = getattr(place, key)
    array: mx.array = place
    return array


def sources(source: Module, target: Module) -> Arrays:
    """
    :param source: a network
    :param target: its target network
    :return: what each array of the target follows
    :raises ValueError: if names or shapes differ
    """
    names = named_parameters(target)
    odd = sorted(named_parameters(source).keys() - names.keys())
    found: Arrays = {}
    for name in names:
        try:
            found[name] = _find(source, name)
        except (AttributeError, IndexError):
            odd.append(name)
    odd += [name for name, array in found.items() if array.shape != names[name].shape]
    if odd:
        raise ValueError(
            f"A target network must have the names and shapes of its {type(source).__name__}; "
            f"these are missing on one side or differ in shape: {', '.join(odd[:5])}. Whoever replaces a "
            "module by one of another form does so in the target network, too."
        )
    return found


def averaged(source: Arrays, target: Arrays, tau: float | mx.array) -> Arrays:
    """
    :param source: name -> array
    :param target: the same names
    :param tau: 1 copies
    :return: the Polyak average, except that running statistics are copied: they are no parameters but counts
    """
    average = polyak_average(source, target, tau)
    return {name: source[name] if "running_" in name else value for name, value in average.items()}


def follow(source: Module, target: Module, tau: float) -> None:
    """
    ``target <- tau * source + (1 - tau) * target``; running statistics of a batch normalisation are copied.

    :param source: a network
    :param target: one of the same shape
    :param tau: 1 copies
    :raises ValueError: if names or shapes differ
    """
    new = averaged(sources(source, target), named_parameters(target), tau)
    # An array that two networks hold could be changed in place through either, hence the copies.
    new = {name: mx.array(value) for name, value in new.items()}
    # Evaluated at once: otherwise the history of a target that no one reads would grow forever.
    mx.eval(new)
    set_named_parameters(target, new)
