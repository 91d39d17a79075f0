"""A network's parameters and its optimizer's state as NumPy vectors, for gradient steps in Rust."""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common._blueprint import Layer, NotMirrored
from mlx_baselines3.common.layers import named_parameters, set_named_parameters
from mlx_baselines3.common.optimizers import Adam, RMSpropTFLike
from mlx_baselines3.common.parameter_optimizer import Arrays, ParameterOptimizer

__all__ = ["LayerPlan", "SlowCopy", "TrainedVector", "flat", "going_on", "layer_plans"]

# As `_native` takes it: inputs; outputs, place of weights and of biases of each part; activation, its number.
LayerPlan = tuple[int, list[tuple[int, int, int | None]], str, float]
_Rule = tuple[str, float, float, float, bool]


def flat(array: np.ndarray) -> np.ndarray:
    """
    :param array: numbers of any type and shape
    :return: the same in one row of float32; a view where that is possible
    """
    return np.ascontiguousarray(array, np.float32).reshape(-1)


def _rule(optimizer: optim.Optimizer) -> _Rule:
    """
    :return: the optimizer as ``_native`` knows it: its name, two numbers, epsilon, bias correction
    :raises NotMirrored: it is none of those
    """
    kind = type(optimizer)
    if kind is Adam:
        return "adam", *optimizer.betas, optimizer.eps, optimizer.bias_correction
    if kind is optim.RMSprop:
        return "rmsprop", optimizer.alpha, 0.0, optimizer.eps, False
    if kind is RMSpropTFLike and not (optimizer.momentum or optimizer.centered or optimizer.weight_decay):
        return "rmsprop_tf", optimizer.alpha, 0.0, optimizer.eps, False
    raise NotMirrored(f"there is no native {kind.__name__} with these arguments")


class SlowCopy:
    """
    Parameters of a network in one vector.

    :param network: the network
    :param layout: of the optimizer that trains the network, or the network that it follows
    :raises NotMirrored: some parameters are not trained, or not float32
    """

    def __init__(self, network: Module, layout: ParameterOptimizer):
        self.network = network
        self.layout = layout
        arrays = named_parameters(network)
        if list(arrays) != layout.names:
            raise NotMirrored("some of its parameters are not trained")
        if any(array.dtype != mx.float32 for array in arrays.values()):
            raise NotMirrored("its weights are not float32")
        self.places = layout.places()
        self.values = np.zeros(layout.size, np.float32)
        self._views = self._views_of(self.values)
        # What lies between the parameters: a nan that got there would stay.
        used = np.zeros(layout.size, bool)
        for view in self._views_of(used).values():
            view[...] = True
        self._gaps = np.flatnonzero(~used)

    def _views_of(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: vector[place : place + int(np.prod(shape))].reshape(shape)
            for (name, place), shape in zip(self.places.items(), self.layout.shapes.values(), strict=True)
        }

    def load(self) -> None:
        """Take over the network's parameters."""
        arrays = named_parameters(self.network)
        self.values[self._gaps] = 0.0
        for name, view in self._views.items():
            view[...] = np.asarray(arrays[name])

    def store(self) -> None:
        """Give the network the parameters of the vector."""
        for name, view in self._views.items():
            set_named_parameters(self.network, {name: mx.array(view)})

    def what_is_not_finite(self) -> list[str]:
        """:return: names of the parameters that are nan or infinite; none if their sum is finite"""
        # The sum of the squares is a tenth of the work of the sum, and finite unless something is wrong.
        if np.isfinite(np.dot(self.values, self.values)) or np.isfinite(self.values.sum()):
            return []
        return [name for name, view in self._views.items() if not np.isfinite(view).all()] or ["all together"]


class TrainedVector(SlowCopy):
    """
    Parameters of a network and the state of their optimizer. The running averages stay here from one update
    to the next; the optimizer makes arrays of them when someone looks.

    :param network: the network
    :param optimizer: its optimizer
    :raises NotMirrored: as :class:`SlowCopy`, or there is no native form of the optimizer
    """

    def __init__(self, network: Module, optimizer: ParameterOptimizer):
        super().__init__(network, optimizer)
        self.rule = _rule(optimizer.bare)
        size = optimizer.size
        # Means and squares; an update makes the new ones of the old ones, which stay until it has succeeded.
        self._averages, self._new_averages = (
            (np.zeros(size if self.rule[0] == "adam" else 0, np.float32), np.zeros(size, np.float32))
            for _ in range(2)
        )
        self._steps = 0

    def load(self) -> None:
        """Take over the parameters and the state of the optimizer."""
        super().load()
        self.rule = _rule(self.layout.bare)
        if self.layout.defers_to(self._state):
            return
        state = self.layout.state
        self._steps = int(state["step"].item())
        for slot, vector in zip("mv", self._averages, strict=True):
            for name, place, shape in self.layout.parts if vector.size else ():
                vector[place : place + int(np.prod(shape))] = np.asarray(state[name][slot]).reshape(-1)

    def argument(self) -> tuple[Any, ...]:
        """:return: what ``_native`` takes for the first steps of an update; it changes the vectors"""
        rate: Any = self.layout.learning_rate.item()
        return (self.values, *self._new_averages), self._averages, self._steps, rate, self.rule

    def store_all(self, steps: int) -> None:
        """
        Give the network and its optimizer what the vectors hold.

        :param steps: steps that the optimizer has made in its life
        """
        if steps == self._steps:
            # No step was made (a delayed actor, a policy that had moved too far): nothing has changed, and
            # the new averages were never made.
            return
        self.store()
        self._steps = steps
        self._averages, self._new_averages = self._new_averages, self._averages
        self.layout.defer_state(self._state)

    def _state(self) -> dict[str, Any]:
        """The optimizer's state as arrays."""
        state = {**self.layout.bare.state, "step": mx.array(self._steps, mx.uint64)}
        slots = [(slot, vector) for slot, vector in zip("mv", self._averages, strict=True) if vector.size]
        for name, place, shape in self.layout.parts:
            size = int(np.prod(shape))
            state[name] = {
                slot: mx.array(vector[place : place + size].reshape(shape)) for slot, vector in slots
            }
        return state

    def layer_plans(self, layers: Iterable[Layer]) -> list[LayerPlan]:
        """
        :param layers: of this network
        :return: the same as ``_native`` takes them
        :raises NotMirrored: a layer's arrays are not among the parameters
        """
        return layer_plans(layers, named_parameters(self.network), self.places)


def going_on(argument: tuple[Any, ...], steps: int) -> tuple[Any, ...]:
    """
    :param argument: what :meth:`TrainedVector.argument` gave
    :param steps: steps that the optimizer has made since
    :return: the same for the next steps of the same update
    """
    vectors, old_averages, old_steps, rate, rule = argument
    # The new averages are made of the old ones by the first step, and there may have been none yet.
    return vectors, old_averages if steps == old_steps else None, steps, rate, rule


def layer_plans(layers: Iterable[Layer], arrays: Arrays, places: dict[str, int]) -> list[LayerPlan]:
    """
    :param layers: layers of a network
    :param arrays: the network's parameters by name
    :param places: where they lie in a vector
    :return: the layers as ``_native`` takes them
    :raises NotMirrored: a layer's arrays are not among the parameters
    """
    names = {id(array): name for name, array in arrays.items()}

    def place(array: mx.array) -> int:
        if id(array) not in names:
            raise NotMirrored("some of its layers' parameters are not its own")
        return places[names[id(array)]]

    return [
        (
            layer.linears[0].weight.shape[1],
            [
                (
                    linear.weight.shape[0],
                    place(linear.weight),
                    place(linear.bias) if "bias" in linear else None,
                )
                for linear in layer.linears
            ],
            layer.activation,
            layer.parameter,
        )
        for layer in layers
    ]
