"""Parameters by name, and Polyak updates; import the names from ``common.utils``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_unflatten

# Containers of parameters: a module, a tree of arrays, or an iterable of arrays.
Parameters: TypeAlias = Module | Mapping[str, Any] | Iterable[mx.array]


def _named_arrays(params: Parameters) -> dict[str, mx.array]:
    if isinstance(params, Module):
        params = params.parameters()
    tree = params if isinstance(params, (Mapping, Sequence)) else list(params)
    return dict(tree_flatten(tree))


def get_parameters_by_name(model: Module, included_names: Iterable[str]) -> list[mx.array]:
    """
    Select the parameters (running statistics included) whose names contain one of the given strings.

    :param model: the module
    :param included_names: substrings of names
    :return: the arrays, in the module's order
    """
    wanted = tuple(included_names)
    return [array for name, array in _named_arrays(model).items() if any(part in name for part in wanted)]


def polyak_average(
    params: Mapping[str, mx.array], target_params: Mapping[str, mx.array], tau: float | mx.array
) -> dict[str, mx.array]:
    """
    ``tau * param + (1 - tau) * target`` for each name. It is pure, so it can be part of a compiled step.

    :param params: name -> array
    :param target_params: the same names with the same shapes
    :param tau: 1 gives the parameters, 0 the targets; as an array it does not cause recompilation
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
        tau = float(tau)  # A NumPy scalar would convert the arrays to NumPy.
    return {name: tau * params[name] + (1 - tau) * target for name, target in target_params.items()}


def polyak_update(params: Parameters, target_params: Parameters, tau: float) -> Any:
    """
    Polyak update of the targets: ``target = tau * param + (1 - tau) * target``
    (https://arxiv.org/abs/1509.02971, algorithm 1).

    As in SB3 the targets are changed in place: a module gets new arrays; the arrays of a tree
    (``module.parameters()``, a flat dict) or of a list are overwritten, which also changes their module.
    :func:`polyak_average` is the pure version.

    :param params: a module, a tree of arrays, or arrays
    :param target_params: the same kind with the same names (for arrays: the same order) and shapes
    :param tau: 1 copies the parameters, 0 keeps the targets
    :return: the new targets, as a tree (a list for an iterable of arrays)
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
