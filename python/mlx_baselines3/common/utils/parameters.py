"""Parameters by name, and targets that follow them slowly. Reached through ``utils``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_unflatten

# What holds parameters: a module, a tree of arrays, or the arrays one by one.
Parameters: TypeAlias = Module | Mapping[str, Any] | Iterable[mx.array]


def _named_arrays(params: Parameters) -> dict[str, mx.array]:
    if isinstance(params, Module):
        params = params.parameters()
    tree = params if isinstance(params, (Mapping, Sequence)) else list(params)
    return dict(tree_flatten(tree))


def get_parameters_by_name(model: Module, included_names: Iterable[str]) -> list[mx.array]:
    """
    Pick the parameters (running statistics included) whose name holds one of the given strings.

    :param model: the module to look in
    :param included_names: parts of names
    :return: the arrays, in the module's order
    """
    wanted = tuple(included_names)
    return [array for name, array in _named_arrays(model).items() if any(part in name for part in wanted)]


def polyak_average(
    params: Mapping[str, mx.array], target_params: Mapping[str, mx.array], tau: float | mx.array
) -> dict[str, mx.array]:
    """
    ``tau * param + (1 - tau) * target`` for each name. Changes nothing, so it fits inside a compiled step.

    :param params: name -> array
    :param target_params: the same names with the same shapes
    :param tau: 1 gives the parameters, 0 the targets; an array keeps a compiled step from compiling again
    :return: name -> new target
    :raises ValueError: names or shapes differ
    """
    if params.keys() != target_params.keys():
        odd = sorted(params.keys() ^ target_params.keys())
        raise ValueError(
            f"polyak_update: parameters and targets must have the same names; only on one side: {odd}"
        )
    for name, target in target_params.items():
        if params[name].shape != target.shape:
            raise ValueError(
                f"polyak_update: {name!r} has shape {params[name].shape}, its target has {target.shape}."
            )
    if not isinstance(tau, mx.array):
        tau = float(tau)  # a NumPy scalar would turn the arrays into NumPy's
    return {name: tau * params[name] + (1 - tau) * target for name, target in target_params.items()}


def polyak_update(params: Parameters, target_params: Parameters, tau: float) -> Any:
    """
    Move the targets towards the parameters: ``target = tau * param + (1 - tau) * target``
    (https://arxiv.org/abs/1509.02971, algorithm 1).

    As in SB3 the targets are changed where they are: a module gets new arrays, the arrays of a tree
    (``module.parameters()``, a flat dict) or of a list are overwritten, which their module sees.
    :func:`polyak_average` is the same without the change.

    :param params: a module, a tree of arrays, or arrays
    :param target_params: the same kind with the same names (for arrays: the same order) and shapes
    :param tau: 1 copies the parameters, 0 leaves the targets alone
    :return: the new targets, as a tree (a list when arrays came one by one)
    :raises ValueError: names, number or shapes differ; no target is changed
    """
    old = _named_arrays(target_params)
    new = polyak_average(_named_arrays(params), old, tau)
    tree = tree_unflatten(list(new.items()))
    if isinstance(target_params, Module):
        target_params.update(tree)
    else:
        for name, target in old.items():
            target[...] = new[name]
    return tree
