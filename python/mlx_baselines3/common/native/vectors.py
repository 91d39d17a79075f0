"""A network's parameters and its optimizer's state as NumPy vectors, for gradient steps in Rust."""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3 import _native
from mlx_baselines3.common.native.blueprint import Blueprint
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.native.extractors import Features, branch_specs
from mlx_baselines3.common.native.layers import Layer
from mlx_baselines3.common.nn.optimizers import Adam, RMSpropTFLike
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.nn.structure import Structure

__all__ = ["ParameterVector", "TrainedVector", "flat", "rule_name", "state_noise"]


def flat(array: np.ndarray) -> np.ndarray:
    """
    :param array: numbers of any type and shape
    :return: the same in one row of float32; a view where that is possible
    """
    return np.ascontiguousarray(array, np.float32).reshape(-1)


def _rule(optimizer: ParameterOptimizer) -> "_native.OptimizerRule":
    """
    :return: the optimizer as ``_native`` knows it
    :raises NotNative: it is none of those
    """
    check_unchanged(optimizer, ParameterOptimizer, ("apply",))
    bare = optimizer.bare
    kind = type(bare)
    if optimizer.missed:
        raise NotNative("some parameters were frozen for a time")
    if bare._schedulers:
        raise NotNative("the optimizer has a schedule of its own")
    rule: _native.OptimizerRule = {
        "name": "adam",
        "betas": (0.0, 0.0),
        "alpha": 0.0,
        # An optimizer of another kind may have none.
        "eps": getattr(bare, "eps", 0.0),
        "bias_correction": False,
    }
    if kind in (Adam, optim.Adam):
        return {**rule, "betas": tuple(bare.betas), "bias_correction": bare.bias_correction}
    if kind is optim.RMSprop:
        return {**rule, "name": "rmsprop", "alpha": bare.alpha}
    if kind is RMSpropTFLike and not (bare.momentum or bare.centered or bare.weight_decay):
        return {**rule, "name": "rmsprop_tf", "alpha": bare.alpha}
    raise NotNative(f"there is no native {kind.__name__} with these arguments")


def rule_name(optimizer: ParameterOptimizer) -> str:
    """
    :param optimizer: an optimizer
    :return: the name of its native form, or why it has none
    """
    try:
        return _rule(optimizer)["name"]
    except NotNative as reason:
        return str(reason)


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"The parameter {name} has the shape {shape}, expected {expected}.")


class ParameterVector:
    """
    The parameters of a network in one vector.

    :param network: the network
    :param layout: says where each parameter lies; the network's own optimizer or, for a target network,
        that of the network it follows
    :param names: those of the parameters, if the vector is to have some of them only; zeros are in the
        places of the others
    :raises NotNative: some parameters are not trained, or not float32
    """

    def __init__(self, network: Module, layout: ParameterOptimizer, names: Collection[str] | None = None):
        self.network = network
        self._structure = Structure(network)
        self._names = [name for name in self._structure.names if names is None or name in names]
        if [name for name in layout.names if names is None or name in names] != self._names:
            raise NotNative("some of its parameters are not trained")
        if any(array.dtype != mx.float32 for array in self._arrays().values()):
            raise NotNative("its weights are not float32")
        places = layout.places()
        self.places = {name: places[name] for name in self._names}
        self.values = np.zeros(layout.size, np.float32)
        self._before = np.zeros(layout.size, np.float32)
        self._views = self._views_of(self.values, layout)
        # What lies between the parameters: a nan that got there would stay.
        used = np.zeros(layout.size, bool)
        for view in self._views_of(used, layout).values():
            view[...] = True
        self._gaps = np.flatnonzero(~used)

    def _arrays(self) -> dict[str, mx.array]:
        arrays = self._structure.arrays()
        return {name: arrays[name] for name in self._names}

    def _views_of(self, vector: np.ndarray, layout: ParameterOptimizer) -> dict[str, np.ndarray]:
        return {
            name: vector[place : place + math.prod(layout.shapes[name])].reshape(layout.shapes[name])
            for name, place in self.places.items()
        }

    def load(self) -> None:
        """
        Take over the network's parameters.

        :raises ValueError: a parameter has another shape than at first
        """
        arrays = self._arrays().values()
        if self._gaps.size:
            self.values[self._gaps] = 0.0
        for (name, view), array in zip(self._views.items(), map(np.asarray, arrays), strict=True):
            _check_shape(name, array.shape, view.shape)
            view[...] = array

    def store(self) -> None:
        """Give the network the parameters of the vector."""
        new = {name: mx.array(view) for name, view in self._views.items()}
        self._structure.set_arrays(self._structure.arrays() | new)

    def show(self, name: str) -> None:
        """
        Give the network one parameter of the vector.

        :param name: its name
        """
        self._structure.set_arrays({**self._structure.arrays(), name: mx.array(self._views[name])})

    def keep(self) -> None:
        """Keep the parameters, for :meth:`take_back`."""
        self._before[...] = self.values

    def take_back(self) -> None:
        """Have the parameters again that were kept."""
        self.values[...] = self._before

    def nonfinite_names(self) -> list[str] | None:
        """
        :return: None if the sum of all parameters is finite; else the names of those that are nan or
            infinite, none if they are so large that only their sum is
        """
        # The sum of the squares is a tenth of the work of the sum, and finite unless something is wrong.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.dot(self.values, self.values)) or np.isfinite(self.values.sum()):
                return None
        return [name for name, view in self._views.items() if not np.isfinite(view).all()]


class TrainedVector(ParameterVector):
    """
    Parameters of a network and the state of their optimizer. The moments stay here from one update to the
    next; the optimizer makes arrays of them when they are read.

    An update is :meth:`load`, some calls of Rust with :meth:`as_native`, each followed by
    :meth:`record_steps`, and :meth:`store`. One that ends without it has changed nothing.

    :param network: the network
    :param optimizer: its optimizer
    :raises NotNative: as :class:`ParameterVector`, or there is no native form of the optimizer
    """

    def __init__(self, network: Module, optimizer: ParameterOptimizer):
        super().__init__(network, optimizer)
        self._optimizer = optimizer
        self._has_first_moment = _rule(optimizer)["name"] == "adam"
        # An update computes the new moments from the old ones, which stay until it has succeeded.
        self._moments, self._new_moments = self._zeros(), self._zeros()
        # Steps of the optimizer: those that it knows of, those before this update, and those by now. Its rule
        # and learning rate in this update.
        self._stored = self._steps_before = self._steps = 0
        self._rule, self._learning_rate = _rule(optimizer), 0.0

    def _zeros(self) -> "_native.Moments":
        size = self._optimizer.size
        first = np.zeros(size if self._has_first_moment else 0, np.float32)
        return {"exp_avg": first, "exp_avg_sq": np.zeros(size, np.float32)}

    def _slots(self) -> list[tuple[str, np.ndarray]]:
        """:return: MLX's names of the moments, and the moments; the first one only where there is one"""
        moments = self._moments
        slots = [("m", moments["exp_avg"]), ("v", moments["exp_avg_sq"])]
        return slots if self._has_first_moment else slots[1:]

    def load(self) -> None:
        """Take over the parameters and the state of the optimizer."""
        super().load()
        if not self._optimizer.is_deferred_to(self._state):
            state = self._optimizer.state
            self._stored = int(state["step"].item())
            for slot, vector in self._slots():
                for name, place, shape in self._optimizer.parts:
                    array = np.asarray(state[name][slot])
                    vector[place : place + int(np.prod(shape))] = array.reshape(-1)
        self._steps = self._steps_before = self._stored
        self._rule = _rule(self._optimizer)
        self._learning_rate = float(self._optimizer.learning_rate)

    def as_native(self, keeps: bool = False) -> "_native.Trained":
        """
        :param keeps: keep the parameters before the update, for :meth:`take_back`
        :return: what ``_native`` takes for the next steps of the update; it changes the vectors
        """
        begins = self._steps == self._steps_before
        return {
            "rule": self._rule,
            **self._new_moments,
            "parameters": self.values,
            # The first step computes the new moments from these.
            "previous": self._moments if begins else None,
            "before": self._before if begins and keeps else None,
            "steps": self._steps,
            "learning_rate": self._learning_rate,
        }

    def record_steps(self, steps: int) -> None:
        """
        :param steps: steps that the optimizer has made in its life, as ``_native`` says
        """
        self._steps = steps

    def set_learning_rate(self, rate: float) -> None:
        """
        :param rate: that of the next update
        """
        self._learning_rate = float(np.float32(rate))

    def finish_update(self) -> None:
        """Begin another update, from what this one has given."""
        # Without a step (a delayed actor, a policy that had moved too far) the new moments were not computed.
        if self.has_stepped:
            self._moments, self._new_moments = self._new_moments, self._moments
            self._steps_before = self._steps

    @property
    def has_stepped(self) -> bool:
        """:return: whether the present update has made a step"""
        return self._steps != self._steps_before

    def take_back(self) -> None:
        super().take_back()
        self._steps = self._steps_before

    def store(self) -> None:
        """Give the network and its optimizer what the vectors hold."""
        self.finish_update()
        if self._stored == self._steps:
            # Nothing has changed.
            return
        super().store()
        self._stored = self._steps
        self._optimizer.defer_state(self._state)

    def as_learned(self) -> "_native.LearnedVector":
        """:return: what ``_native`` takes for several updates; it changes all vectors"""
        return {
            "parameters": self.values,
            "parameters_before": self._before,
            "moments": self._moments,
            "next_moments": self._new_moments,
            "optimizer_steps": self._steps,
            "rule": self._rule,
        }

    def record_updates(self, n_updates: int, steps: int) -> None:
        """
        :param n_updates: how many updates came of :meth:`as_learned`
        :param steps: steps that the optimizer has made in its life
        """
        if n_updates % 2 == 1:
            # The moments have changed places as often.
            self._moments, self._new_moments = self._new_moments, self._moments
        self._steps = self._steps_before = steps

    def _state(self) -> dict[str, Any]:
        """The optimizer's state as arrays."""
        state = {**self._optimizer.bare.state, "step": mx.array(self._stored, mx.uint64)}
        slots = self._slots()
        for name, place, shape in self._optimizer.parts:
            size = int(np.prod(shape))
            state[name] = {
                slot: mx.array(vector[place : place + size].reshape(shape)) for slot, vector in slots
            }
        return state

    def _places(self) -> Callable[[Any, str, tuple[int, ...]], int]:
        """:return: where a module's parameter of some name and shape lies in the vector"""
        # By module and not by array: two layers may have begun with the same one.
        paths: dict[int, list[str]] = {}
        for path, module in self.network.named_modules():
            paths.setdefault(id(module), []).append(path)

        def place(module: Any, key: str, shape: tuple[int, ...]) -> int:
            names = [f"{path}.{key}" for path in paths.get(id(module), ())]
            if len(names) != 1 or names[0] not in self.places:
                raise NotNative("some of its layers' parameters are not its own")
            _check_shape(names[0], module[key].shape, shape)
            return self.places[names[0]]

        return place

    def layer_plans(self, layers: Iterable[Layer]) -> "list[_native.TrainableLayer]":
        """
        :param layers: of this network
        :return: the same as ``_native`` takes them
        :raises NotNative: a layer's arrays are not among the parameters, or it is in several places
        :raises ValueError: a bias has not one number for each output
        """
        place = self._places()

        def part(linear: nn.Linear) -> "_native.LayerPart":
            outputs, _ = linear.weight.shape
            bias = place(linear, "bias", (outputs,)) if "bias" in linear else None
            weights = place(linear, "weight", linear.weight.shape)
            return {"outputs": outputs, "weights": weights, "bias": bias}

        return [
            {
                "inputs": layer.linears[0].weight.shape[1],
                "parts": [part(linear) for linear in layer.linears],
                "activation": layer.activation,
                "parameter": layer.parameter,
            }
            for layer in layers
        ]

    def branch_plans(self, features: Features) -> "list[_native.FeatureBranch]":
        """
        :param features: a features extractor of this network
        :return: the same as ``_native`` takes it
        :raises NotNative: as :meth:`layer_plans`
        :raises ValueError: as :meth:`layer_plans`
        """
        return branch_specs(features, self._places())

    def slices_of(self, features: Features) -> list[slice]:
        """
        :param features: a features extractor of this network
        :return: where the arrays of its parameters lie, in the order of :meth:`branch_plans`
        :raises NotNative: as :meth:`layer_plans`
        """
        place, slices = self._places(), []
        for branch in features:
            for module in branch.modules():
                for key in ("weight", "bias"):
                    if key in module:
                        start = place(module, key, module[key].shape)
                        slices.append(slice(start, start + module[key].size))
        return slices


def state_noise(plan: Blueprint, vector: TrainedVector) -> "_native.StateNoise | None":
    """
    :param plan: how a policy computes its actions
    :param vector: its parameters
    :return: its noise as ``_native`` takes it; None if that does not depend on the state
    :raises NotNative: the deviations are not among the parameters
    """
    if plan.noise is None or plan.log_std is None:
        return None
    if "log_std" not in vector.places:
        raise NotNative("the deviations of the noise are not trained")
    features, columns = plan.log_std.shape
    return {
        "log_std": vector.places["log_std"],
        "features": features,
        "actions": plan.noise.action_dim,
        "full": columns > 1 or plan.noise.full_std,
        "expln": plan.noise.use_expln,
    }
