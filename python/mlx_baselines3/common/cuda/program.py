"""
Gradient steps of MLPs as a program for one kernel on an NVIDIA GPU, see program.cu.

MLX starts a kernel for each operation, 6 to 10 us of the host's time apiece, and a gradient step has a
hundred. Here all steps of a ``train()`` are one kernel, whose blocks wait for each other between the phases
of a step. It reads what to compute from a list of tasks, so that it is compiled once for all networks,
algorithms and sizes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlx_baselines3.common.cuda.program_layout import (
    ACTIVATIONS,
    MOST_NARROW,
    MOST_TASKS,
    PORTION,
    Space,
    ends_phase,
    optimizer_at,
    task,
)

__all__ = ["Network", "NoProgram", "Operand", "Pass", "Program", "Sums"]

# Rows from which on products are made of larger tiles.
_MANY_ROWS = 4096
# Portions that the gradients of weights are cut into at most: the blocks of a large GPU.
_PORTIONS, _PORTIONS_OF_MANY = 264, 396
# Side of a tile -> how long it takes for a row.
_WEIGHTS = {32: 1, 64: 2}
# Rows of a part of a weight's gradient, at least.
_LEAST_ROWS = 64
_ALIGNMENT = 4


class NoProgram(Exception):
    """Something that the kernel cannot do. The message completes "because"."""


class Operand(NamedTuple):
    """
    A matrix in the kernel's memory.

    :param space: which memory
    :param place: where it begins
    :param step: what a gradient step adds to that
    :param stride: numbers from row to row
    """

    space: Space
    place: int
    step: int
    stride: int

    def columns(self, first: int) -> "Operand":
        """
        :param first: a column
        :return: the matrix from there on
        """
        return self._replace(place=self.place + first)


class Network(NamedTuple):
    """
    An MLP whose parameters are in the state.

    :param layers: each a dict with ``inputs``, ``parts`` (``outputs``, ``weights``, ``bias``: places, the
        last may be None) and ``activation``
    :param place: where its parameters begin
    """

    layers: Sequence[Any]
    place: int

    def widths(self) -> list[int]:
        """:return: outputs of each layer"""
        return [sum(part["outputs"] for part in layer["parts"]) for layer in self.layers]

    def check(self) -> None:
        """
        :raises NoProgram: it has an activation that the kernel does not know, or one at its end
        """
        for layer in self.layers:
            if layer["activation"] not in ACTIVATIONS:
                raise NoProgram(f"there is no CUDA kernel of {layer['activation']}")
            if len(layer["parts"]) > 6:
                raise NoProgram("a layer has more than six parts")
        if self.layers[-1]["activation"] != "identity":
            raise NoProgram("the last layer has an activation")


class Pass(NamedTuple):
    """
    A network on some rows.

    :param network: the network
    :param x: its input
    :param outputs: what each layer gives
    """

    network: Network
    x: Operand
    outputs: list[Operand]


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


class Program:
    """
    The tasks of a gradient step, and of what comes before the first one.

    :param batch: rows of a step
    :param most_rows: of all steps of a launch
    """

    def __init__(self, batch: int, most_rows: int):
        self.batch, self.most_rows = batch, most_rows
        self.steps = _ceil(most_rows, batch)
        self._first: list[list[int]] = []
        self._each: list[list[int]] = []
        # Where steps say that they are the last; the rest of the first numbers is padding.
        self.scratch_size = _ALIGNMENT
        self.zero(0, _ALIGNMENT)

    def room(self, count: int) -> int:
        """
        :param count: numbers
        :return: where in the scratch memory there is room for them
        """
        place = self.scratch_size
        self.scratch_size += _ceil(count, _ALIGNMENT) * _ALIGNMENT
        return place

    def matrix(self, width: int) -> Operand:
        """
        :param width: columns
        :return: room for a row of each of a step's rows
        """
        return Operand(Space.SCRATCH, self.room(self.batch * width), 0, width)

    def table(self, width: int) -> Operand:
        """
        :param width: columns
        :return: room for a row of each row of all steps
        """
        return Operand(Space.SCRATCH, self.room(self.most_rows * width), self.batch * width, width)

    def begin_with(self, kind: str, **fields: Any) -> None:
        """
        Add a task in front of all steps.

        :param kind: what to do
        :param fields: its fields
        """
        self._first.append(task(kind, **fields))

    def zero(self, place: int, size: int) -> None:
        """
        :param place: where in the scratch memory
        :param size: numbers that are 0 before the first step
        """
        self.begin_with("ZERO", ZERO_AT=place, ZERO_SIZE=size)

    def do(self, kind: str, tile: int = 0, **fields: Any) -> None:
        """
        Add a task to a step.

        :param kind: what to do
        :param tile: side of a product's tiles
        :param fields: its fields
        """
        self._each.append(task(kind, tile, **fields))

    def wait(self) -> None:
        """What comes next needs what there was."""
        ends_phase(self._each[-1])

    def tasks(self) -> tuple[np.ndarray, int]:
        """
        :return: (tasks, width) int32, and how many of them come before all steps
        :raises NoProgram: there are too many
        """
        both = [*self._first, *self._each]
        if len(both) > MOST_TASKS:
            raise NoProgram(f"a gradient step has {len(both)} tasks, more than {MOST_TASKS}")
        ends_phase(self._first[-1])
        self.wait()
        return np.array(both, np.int32), len(self._first)

    def _side(self, *sides: int) -> int:
        return 64 if self.batch >= _MANY_ROWS and all(side > 32 for side in sides) else 32

    def passes(self, *inputs: tuple[Network, Operand]) -> list[Pass]:
        """
        :param inputs: networks and what they see
        :return: room for what their layers give
        """
        return [Pass(network, x, [*map(self.matrix, network.widths())]) for network, x in inputs]

    def forward(self, *passes: Pass) -> None:
        """
        Networks side by side, layer after layer.

        :param passes: on which rows, with room for the outputs
        """
        for depth in range(max(len(one.outputs) for one in passes)):
            for one in passes:
                if depth < len(one.outputs):
                    self._forward_layer(one, depth)
            self.wait()

    def _is_narrow(self, x: Operand, layer: Any, part: Any) -> bool:
        """Whether a thread takes a row: few units, whose weights are read four at a time."""
        aligned = x.space == Space.SCRATCH and x.stride % 4 == 0 and layer["inputs"] % 4 == 0
        return aligned and part["outputs"] <= MOST_NARROW and self.batch >= _MANY_ROWS

    def _forward_layer(self, one: Pass, depth: int) -> None:
        layer, column = one.network.layers[depth], 0
        x = one.outputs[depth - 1] if depth else one.x
        for part in layer["parts"]:
            bias = part["bias"]
            is_narrow = self._is_narrow(x, layer, part)
            self.do(
                "NARROW" if is_narrow else "FORWARD",
                self._side(part["outputs"]),
                FORWARD_X=x,
                FORWARD_Y=one.outputs[depth].columns(column),
                FORWARD_WEIGHTS=one.network.place + part["weights"],
                FORWARD_BIAS=-1 if bias is None else one.network.place + bias,
                FORWARD_UNITS=part["outputs"],
                FORWARD_INPUTS=layer["inputs"],
                FORWARD_ACTIVATION=ACTIVATIONS[layer["activation"]],
            )
            column += part["outputs"]

    def backward(self, *passes: tuple[Pass, Operand]) -> list[list[Operand]]:
        """
        The gradients of what the layers gave, before their activations.

        :param passes: passes, each with the gradient of its output
        :return: for each pass those of each layer
        """
        found = [[*map(self.matrix, one.network.widths()[:-1]), by_output] for one, by_output in passes]
        for distance in range(1, max(len(one.outputs) for one, _ in passes)):
            for (one, _), gradients in zip(passes, found, strict=True):
                depth = len(one.outputs) - distance
                if depth > 0:
                    self._backward_layer(one, depth, gradients[depth], gradients[depth - 1])
            self.wait()
        return found

    def _backward_layer(self, one: Pass, depth: int, dy: Operand, dx: Operand) -> None:
        layer, below = one.network.layers[depth], one.network.layers[depth - 1]
        self.do(
            "BACKWARD",
            self._side(layer["inputs"]),
            BACKWARD_DX=dx,
            BACKWARD_H=one.outputs[depth - 1],
            BACKWARD_ACTIVATION=ACTIVATIONS[below["activation"]],
            **self._parts(one.network, depth, dy),
        )

    def backward_input(self, one: Pass, dy: Operand, dx: Operand, first: int, count: int) -> None:
        """
        The gradient of some columns of the input.

        :param one: a pass
        :param dy: the gradient of the first layer's output
        :param dx: where to
        :param first: a column
        :param count: number of columns from there on
        """
        fields = self._parts(one.network, 0, dy, first)
        self.do("BACKWARD", self._side(count), BACKWARD_DX=dx, **{**fields, "BACKWARD_INPUTS": count})

    def _parts(self, network: Network, depth: int, dy: Operand, first: int = 0) -> dict[str, Any]:
        layer, column, numbers = network.layers[depth], 0, []
        for part in layer["parts"]:
            numbers += [network.place + part["weights"] + first, part["outputs"], column]
            column += part["outputs"]
        return {
            "BACKWARD_DY": dy,
            "BACKWARD_INPUTS": layer["inputs"],
            "BACKWARD_WEIGHTS_STRIDE": layer["inputs"],
            "BACKWARD_PARTS": len(layer["parts"]),
            "BACKWARD_PART": numbers,
        }

    def gradients(
        self, size: int, passes: Sequence[tuple[Pass, list[Operand]]], rows: Sequence[Any] = ()
    ) -> "Sums":
        """
        The gradients of parameters, in parts that :class:`Sums` knows.

        :param size: numbers of the parameters, gaps included
        :param passes: passes and what :meth:`backward` gave for them
        :param rows: further parameters' places, sizes, and matrices whose rows' sum is their gradient
        :return: where they are
        """
        layers = [
            (part, layer, gradients[depth].columns(column), one.outputs[depth - 1] if depth else one.x)
            for one, gradients in passes
            for depth, layer in enumerate(one.network.layers)
            for part, column in _columns_of(layer)
        ]
        sides = [self._side(part["outputs"], layer["inputs"]) for part, layer, _, _ in layers]
        tiles = sum(
            _WEIGHTS[side] * _ceil(part["outputs"], side) * _ceil(layer["inputs"], side)
            for (part, layer, _, _), side in zip(layers, sides, strict=True)
        )
        # One portion for each block: with a few more, all would wait for those that take two.
        most = _ceil(self.batch, _LEAST_ROWS)
        portions = _PORTIONS_OF_MANY if self.batch >= _MANY_ROWS else _PORTIONS
        parts = {side: max(min(weight * portions // tiles, most), 1) for side, weight in _WEIGHTS.items()}
        sums = Sums(self.room(max(parts.values()) * size), max(parts.values()), size)
        # What none of the tasks writes to, gaps and the last parts of small tiles, stays 0.
        self.zero(sums.place, sums.parts * size)
        fields: dict[str, Any] = {"WEIGHTS_SPLIT_STRIDE": size}
        for (part, layer, dy, x), side in zip(layers, sides, strict=True):
            self.do(
                "WEIGHTS",
                side,
                WEIGHTS_DY=dy,
                WEIGHTS_X=x,
                WEIGHTS_UNITS=part["outputs"],
                WEIGHTS_INPUTS=layer["inputs"],
                WEIGHTS_OUT=sums.place + part["weights"],
                WEIGHTS_BIAS=-1 if part["bias"] is None else sums.place + part["bias"],
                WEIGHTS_SPLITS=parts[side],
                **fields,
            )
        for place, units, dy in rows:
            at = {"WEIGHTS_UNITS": units, "WEIGHTS_BIAS": sums.place + place, "WEIGHTS_SPLITS": parts[32]}
            self.do("WEIGHTS", 32, WEIGHTS_DY=dy, WEIGHTS_X=dy, **at, **fields)
        self.wait()
        return sums

    def clipped(self, sums: "Sums") -> "Sums":
        """
        :param sums: gradients
        :return: the same in one part, with their squares
        """
        squares = self.room(_ceil(sums.size, PORTION))
        whole = Sums(self.room(sums.size), 1, sums.size, squares)
        self.do("REDUCE", **sums.fields(), REDUCE_TO=whole.place, REDUCE_SQUARES=squares)
        self.wait()
        return whole

    def adam(
        self, sums: "Sums", vectors: Sequence[int], network: int, target: int = -1, stops: bool = False
    ) -> None:
        """
        :param sums: gradients; those of :meth:`clipped` are clipped
        :param vectors: where parameters and both moments begin
        :param network: number of the network, whose settings it takes
        :param target: where the parameters of a target network begin that follows; -1: none
        :param stops: whether a step may say that it is the last, which then changes nothing
        """
        parameters, first, second = vectors
        self.do(
            "ADAM",
            **sums.fields(),
            ADAM_P=parameters,
            ADAM_M=first,
            ADAM_V=second,
            ADAM_CONTROL=optimizer_at(network),
            ADAM_SQUARES=sums.squares,
            ADAM_SQUARE_COUNT=_ceil(sums.size, PORTION),
            ADAM_TARGET=target,
            ADAM_STOP=int(stops),
            ADAM_NETWORK=network,
        )


def _columns_of(layer: Any) -> list[tuple[Any, int]]:
    """The parts of a layer, and which of its outputs are theirs."""
    found, column = [], 0
    for part in layer["parts"]:
        found.append((part, column))
        column += part["outputs"]
    return found


class Sums(NamedTuple):
    """
    Gradients of a network's parameters, to be summed.

    :param place: where the first part is in the scratch memory
    :param parts: how many there are, one after the other
    :param size: numbers of each
    :param squares: where the sums of their squares are, -1 if there are none
    """

    place: int
    parts: int
    size: int
    squares: int = -1

    def fields(self) -> dict[str, int]:
        """:return: fields of tasks"""
        return {
            "SUM_FROM": self.place,
            "SUM_PARTS": self.parts,
            "SUM_STRIDE": self.size,
            "SUM_SIZE": self.size,
        }
