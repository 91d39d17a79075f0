"""What a program on a GPU trains: parameters and moments of several networks in one vector there."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common.cuda.program import Network
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.layers import Layer
from mlx_baselines3.common.native.vectors import TrainedVector, rule_name
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.nn.structure import Structure

__all__ = ["ProgramState", "flat_columns"]


class _Trained:
    """
    A network with its optimizer, and perhaps a network that follows it.

    :param network: the network
    :param optimizer: its optimizer
    :param target: a network that follows
    :param place: where it begins in the vector
    :raises NotNative: as :class:`TrainedVector`, or the kernel has no such optimizer
    """

    def __init__(self, network: Module, optimizer: ParameterOptimizer, target: Module | None, place: int):
        if rule_name(optimizer) != "adam" or len(optimizer.parts) != 1:
            raise NotNative("only Adam over one vector has a CUDA kernel for whole gradient steps")
        self.optimizer = optimizer
        self.vector = TrainedVector(network, optimizer)
        self.targets = None if target is None else TrainedVector(target, optimizer)
        self.size = optimizer.size
        self.places = [place + i * self.size for i in range(3 if target is None else 4)]
        self.steps = 0
        self._structures = [Structure(one) for one in (network, target) if one is not None]
        self._stored: list[mx.array] = []
        # The vector that holds what the optimizer will be asked for, and the very method that it asks.
        self._state: mx.array | None = None
        self._source = self._optimizer_state

    @property
    def end(self) -> int:
        """:return: the first place behind it"""
        return self.places[-1] + self.size

    def is_stored(self) -> bool:
        """Whether networks and optimizer have what the vector has."""
        found = [array for structure in self._structures for array in structure.arrays().values()]
        return (
            len(found) == len(self._stored)
            and all(a is b for a, b in zip(found, self._stored, strict=True))
            and self.optimizer.is_deferred_to(self._source)
        )

    def load(self) -> list[mx.array]:
        """:return: parameters, moments and those of the target network, one after the other"""
        state = self.optimizer.state
        self.steps = int(state["step"].item())
        (part, _, _) = self.optimizer.parts[0]
        packed = [self.optimizer.pack(structure.arrays())[part] for structure in self._structures]
        vectors = [packed[0], state[part]["m"], state[part]["v"], *packed[1:]]
        return [vector.reshape(-1) for vector in vectors]

    def views(self, state: mx.array) -> list[mx.array]:
        """
        :param state: the vector
        :return: the arrays of the networks in it
        """
        starts = [self.places[0], *self.places[3:]]
        return [
            array for start in starts for array in self.optimizer.unpack(self._part(state, start)).values()
        ]

    def _part(self, state: mx.array, start: int) -> dict[str, mx.array]:
        part, _, shape = self.optimizer.parts[0]
        return {part: state[start : start + self.size].reshape(shape)}

    def store(self, state: mx.array, arrays: Sequence[mx.array], steps: int) -> None:
        """
        Give the networks and the optimizer what they have become.

        :param state: the vector
        :param arrays: what :meth:`views` gave
        :param steps: that the optimizer has made since :meth:`load`
        """
        self.steps += steps
        self._stored, left = [*arrays], [*arrays]
        for structure in self._structures:
            names = structure.names
            structure.set_arrays(dict(zip(names, left, strict=False)))
            left = left[len(names) :]
        self._state = state
        self.optimizer.defer_state(self._source)

    def _optimizer_state(self) -> dict[str, Any]:
        state = self._state
        assert state is not None, "deferred by `store`"
        (part, _, _) = self.optimizer.parts[0]
        moments = {
            slot: self._part(state, start)[part]
            for slot, start in zip(("m", "v"), self.places[1:3], strict=True)
        }
        return {**self.optimizer.bare.state, "step": mx.array(self.steps, mx.uint64), part: moments}

    def not_finite(self, arrays: Sequence[mx.array]) -> tuple[list[str], int]:
        """
        :param arrays: what :meth:`views` gave
        :return: names of those that are nan or infinite, and how many there are in all
        """
        names = self._structures[0].names
        wrong = [
            name for name, array in zip(names, arrays, strict=False) if not mx.isfinite(array).all().item()
        ]
        return wrong, len(names)


class ProgramState:
    """
    The vector, and the networks that it is made of.

    :param networks: name -> network that is trained
    :param optimizers: name -> its optimizer
    :param targets: name -> network that follows it
    :raises NotNative: one of them cannot be part of it
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        targets: Mapping[str, Module],
    ):
        self._parts: dict[str, _Trained] = {}
        end = 0
        for name, optimizer in optimizers.items():
            part = _Trained(networks[name], optimizer, targets.get(name), end)
            self._parts[name], end = part, part.end
        self._vector: mx.array | None = None
        self._vector_parts: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """:return: the networks in their order"""
        return [*self._parts]

    def number(self, name: str) -> int:
        """
        :param name: a network
        :return: its number
        """
        return self.names.index(name)

    def size(self, name: str) -> int:
        """
        :param name: a network
        :return: numbers of its parameters, gaps included
        """
        return self._parts[name].size

    def place(self, name: str) -> int:
        """
        :param name: a network
        :return: where its parameters begin
        """
        return self._parts[name].places[0]

    def parameter(self, name: str, parameter: str) -> int:
        """
        :param name: a network
        :param parameter: one of its parameters
        :return: where it begins among the network's
        """
        return self._parts[name].vector.places[parameter]

    def vectors(self, name: str) -> list[int]:
        """
        :param name: a network
        :return: where its parameters and both moments begin
        """
        return self._parts[name].places[:3]

    def target(self, name: str) -> int:
        """
        :param name: a network
        :return: where those of the network that follows it begin, -1 if there is none
        """
        places = self._parts[name].places
        return places[3] if len(places) > 3 else -1

    def network(self, name: str, layers: Sequence[Layer], of_target: bool = False) -> Network:
        """
        :param name: a network
        :param layers: some of its layers
        :param of_target: whether they are those of the network that follows it
        :return: the same for a program
        :raises NotNative: as :meth:`TrainedVector.layer_plans`
        """
        part = self._parts[name]
        vector = part.targets if of_target else part.vector
        assert vector is not None, f"{name} has no target network"
        return Network(vector.layer_plans(layers), part.places[3 if of_target else 0])

    def optimizer_numbers(self, others: Mapping[str, float], steps: int) -> list[dict[str, float]]:
        """
        :param others: further numbers of each
        :param steps: that they have made since
        :return: for each network the numbers of its optimizer, after :meth:`load`
        """
        found = []
        for part in self._parts.values():
            bare = part.optimizer.bare
            numbers = {
                "RATE": part.optimizer.rate,
                "BETA1": bare.betas[0],
                "BETA2": bare.betas[1],
                "EPS": bare.eps,
                "CORRECTS": float(bare.bias_correction),
                "STEPS": part.steps + steps,
            }
            found.append({**numbers, **others})
        return found

    def load(self) -> mx.array:
        """:return: the vector, made anew if anyone has changed a network or an optimizer"""
        parts = self._parts.values()
        if self._vector is None or not all(part.is_stored() for part in parts):
            self._vector = mx.concatenate([vector for part in parts for vector in part.load()])
        return self._vector

    def views(self, vector: mx.array) -> dict[str, list[mx.array]]:
        """
        :param vector: a new one
        :return: name -> the arrays of the network, and of the one that follows it, in the vector
        """
        return {name: part.views(vector) for name, part in self._parts.items()}

    def store(self, vector: mx.array, views: Mapping[str, Sequence[mx.array]], steps: int) -> None:
        """
        Give networks and optimizers what they have become.

        :param vector: a new one, evaluated
        :param views: what :meth:`views` gave, evaluated
        :param steps: that the optimizers have made
        """
        for name, part in self._parts.items():
            part.store(vector, views[name], steps)
        self._vector = vector

    def not_finite(self, name: str, views: Mapping[str, Sequence[mx.array]]) -> tuple[list[str], int]:
        """
        :param name: a network
        :param views: what :meth:`views` gave
        :return: names of the arrays that are nan or infinite, and how many there are in all
        """
        return self._parts[name].not_finite(views[name])


def flat_columns(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    :param arrays: numbers of any type
    :return: float32, each in one row
    """
    return [np.ascontiguousarray(array, np.float32).reshape(-1) for array in arrays]
