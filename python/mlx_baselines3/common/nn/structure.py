"""What compiled and native gradient steps are made of, so that they are made anew when it changes."""

import operator
from typing import Any

import mlx.nn as nn

from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer

__all__ = ["is_same", "structure"]


def structure(*parts: Any) -> list[Any]:
    """
    :param parts: networks, optimizers, and whatever else decides about a step
    :return: the parts themselves, all modules inside of the networks with the distributions that they use,
        and the layouts of the optimizers: a step that was made of other objects computes something else
    """
    optimizers = [part for part in parts if isinstance(part, ParameterOptimizer)]
    # They have just looked through their networks.
    known = {id(optimizer.modules[0]) for optimizer in optimizers if optimizer.modules}
    found = list(parts)
    for part in parts:
        if isinstance(part, nn.Module) and id(part) not in known:
            _add_modules(part, found)
    for optimizer in optimizers:
        found += [optimizer.bare, optimizer.parts, *optimizer.modules]
    return found + [own["action_dist"] for part in found if "action_dist" in (own := _vars(part))]


def _vars(part: Any) -> dict[str, Any]:
    return vars(part) if isinstance(part, nn.Module) else {}


def _add_modules(module: nn.Module, found: list[Any]) -> None:
    stack: list[Any] = [module]
    while stack:
        value = stack.pop()
        if isinstance(value, nn.Module):
            found.append(value)
        children = value.values() if isinstance(value, dict) else value
        stack += [child for child in children if isinstance(child, (dict, list, tuple))]


def is_same(one: list[Any], other: list[Any]) -> bool:
    """
    :param one: an answer of :func:`structure`
    :param other: another one
    :return: whether both are made of the very same objects
    """
    return len(one) == len(other) and all(map(operator.is_, one, other))
