"""The compiled update step: loss, gradient, clip, optimizer, in one graph.

A step is a pure function of arrays: the parameters and the optimizer's state go in and come out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.nn.integer_observations import not_readable
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import Arrays, ParameterOptimizer
from mlx_baselines3.common.nn.sums import total
from mlx_baselines3.common.nn.threads import CompiledFunctions, tracing
from mlx_baselines3.common.training.pace import Pace

__all__ = [
    "TrainState",
    "UpdateStep",
    "bound",
    "clip_by_global_norm",
    "is_finite",
    "not_finite_error",
    "random_state_kept",
    "sum_of_arrays",
]

Metrics = Arrays
Minibatch = tuple[Arrays, mx.array]
LossFunction = Callable[[Arrays, Arrays], tuple[mx.array, Metrics]]


def clip_by_global_norm(gradients: Arrays, max_norm: mx.array) -> Arrays:
    """
    Scale all gradients together so that their common 2-norm is at most ``max_norm``
    (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063).

    :param gradients: name -> gradient
    :param max_norm: scalar
    :return: the scaled gradients
    """
    squares = [total(g * g) for g in gradients.values()]
    norm = mx.sqrt(sum(squares[1:], squares[0]))
    scale = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: g * scale for name, g in gradients.items()}


def sum_of_arrays(arrays: Arrays) -> mx.array:
    """
    :param arrays: name -> array
    :return: their sum, a scalar: nan or infinite if one number is
    """
    sums = [array.sum() for array in arrays.values()]
    return sum(sums[1:], sums[0]) if sums else mx.array(0.0)


def is_finite(scalar: mx.array) -> bool:
    """
    :param scalar: an evaluated number
    :return: whether it is neither nan nor infinite
    """
    return bool(np.isfinite(scalar.item()))


def not_finite_error(losses: np.ndarray | None, wrong: list[str], count: int) -> FloatingPointError:
    """
    :param losses: (minibatches,) losses on the way, if they are known
    :param wrong: names of the parameters that are nan or infinite
    :param count: number of all parameters
    :return: what to raise when an update gave such numbers and was thrown away
    """
    seen = []
    if losses is not None and (rows := np.flatnonzero(~np.isfinite(losses))).size:
        seen.append(f"the loss of minibatch {rows[0]} (of {losses.size}) was {losses[rows[0]]}")
    if wrong:
        seen.append(f"{len(wrong)} of {count} parameters, first {wrong[0]}")
    if not seen:
        seen.append("the parameters are so large that their sum is infinite")
    return FloatingPointError(
        f"The update gave numbers that are nan or infinite: {'; '.join(seen)}. Nothing was changed: the "
        "network and its optimizer are as they were before. Wrap the environments in "
        "VecCheckNan(env, raise_exception=True) to see whether the nan comes from them; if not, try a "
        "smaller learning rate."
    )


@contextmanager
def bound(module: nn.Module, parameters: Arrays) -> Iterator[None]:
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


@contextmanager
def random_state_kept() -> Iterator[None]:
    """
    Keep MLX's random generator usable when a function raises while it is traced: its key would be left
    a placeholder, and every later draw of the process would fail.
    """
    (key,) = cast(Iterable[mx.array], mx.random.state)
    try:
        yield
    except BaseException:
        high, low = to_numpy(key).tolist()
        mx.random.seed(high << 32 | low)
        raise


class TrainState(NamedTuple):
    """What a step changes: packed parameters, arrays that are not trained, optimizer state, a flag."""

    parameters: Arrays
    buffers: Arrays
    optimizer: dict[str, Any]
    active: mx.array

    def arrays(self) -> dict[str, Any]:
        """:return: the fields as a tree that ``mx.eval`` takes"""
        return self._asdict()


class UpdateStep:
    """
    One optimisation step on minibatches of a data set, compiled once per minibatch size. Where sizes vary
    without end, ``compiled_sizes`` names those worth it, and the others run as they are: MLX compiles kernels
    for each size, which costs seconds, and memory that it does not give back. None compiles for every size.

    The loss function returns its metrics as scalars. If one of them is called ``stop``, it is a
    condition: from the first minibatch where it holds, parameters stay as they are. Nothing is asked
    of the host meanwhile.

    :param module: the network
    :param optimizer: its optimizer
    :param loss: (batch, settings) -> (loss, metrics); called with the network's parameters in place
    """

    def __init__(self, module: nn.Module, optimizer: ParameterOptimizer, loss: LossFunction):
        self.module = module
        self.optimizer = optimizer
        self.loss = loss
        self.metric_names: list[str] = []
        self.may_stop = False
        self.compiled_sizes: set[int] | None = None
        self._compiled = CompiledFunctions()
        self._pace = Pace()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pace": Pace()}

    def begin(self) -> TrainState:
        """:return: the network's and the optimizer's present state"""
        arrays = named_parameters(self.module)
        buffers = {name: arrays[name] for name in arrays.keys() - set(self.optimizer.names)}
        packed = self.optimizer.pack(arrays)
        return TrainState(packed, buffers, self.optimizer.state, mx.array(True))

    def finish(self, state: TrainState, losses: np.ndarray | None = None) -> None:
        """
        Put the outcome into the network and the optimizer.

        :param state: the last answer of the step
        :param losses: (calls,) the losses on the way
        :raises FloatingPointError: if a loss or a parameter is nan or infinite; network and optimizer are
            then as they were at :meth:`begin`
        """
        arrays = self.optimizer.unpack(state.parameters) | state.buffers
        in_all = sum_of_arrays(state.parameters)
        with interrupts_allowed():
            mx.eval(arrays, state.optimizer, in_all)
        if not is_finite(in_all) or (losses is not None and not np.isfinite(losses).all()):
            wrong = [name for name in self.optimizer.names if not mx.isfinite(arrays[name]).all().item()]
            raise not_finite_error(losses, wrong, len(self.optimizer.names))
        with interrupts_deferred():
            set_named_parameters(self.module, arrays)
            self.optimizer.state = state.optimizer

    def __call__(
        self, state: TrainState, data: Arrays, indices: mx.array, settings: Arrays
    ) -> tuple[TrainState, mx.array]:
        """
        :param state: as :meth:`begin` or the last call gave it
        :param data: name -> (rows, ...) the whole data set; observations may be a dictionary of them
        :param indices: (minibatch,) rows to use
        :param settings: scalars that may change between calls; ``max_grad_norm`` clips the gradient
        :return: the new state, and the metrics in the order of ``metric_names`` (lazy: not computed yet)
        """
        functions = self._compiled.by_name
        if not functions:
            random_state = mx.random.state
            functions["step"] = mx.compile(self._step, inputs=random_state, outputs=random_state)
        usual = self.compiled_sizes is None or indices.size in self.compiled_sizes
        with tracing, random_state_kept():
            run = functions["step"] if usual else self._step
            answer, metrics = run(state.arrays(), data, indices, settings)
        return TrainState(**answer), metrics

    def run(
        self, epochs: Iterable[Iterable[Minibatch]], settings: Mapping[str, float]
    ) -> list[dict[str, np.ndarray]]:
        """
        Go over a data set several times, and put the outcome into the network and the optimizer.

        :param epochs: for each pass, pairs of the data set and (minibatch,) rows to take from it
        :param settings: as :meth:`__call__`, plain numbers
        :return: for each pass name -> (minibatches,) float64, ``loss`` first; up to the one that stopped it
        :raises FloatingPointError: if a loss or a parameter is nan or infinite; nothing has changed then
        """
        arrays = {name: mx.array(value, dtype=mx.float32) for name, value in settings.items()}
        state = self.begin()
        seen: list[mx.array] = []
        with interrupts_allowed():
            for minibatches in epochs:
                rows = []
                self._pace.begin()
                for data, indices in minibatches:
                    state, row = self(state, data, indices, arrays)
                    rows.append(row)
                    self._pace.went_on((state.arrays(), row))
                seen.append(mx.stack(rows))
                mx.eval(state.arrays(), seen[-1])
                # Only a run that may stop early has a reason to ask before the end.
                if self.may_stop and not state.active.item():
                    break
        metrics = [self.metrics(rows) for rows in seen]
        self.finish(state, np.concatenate([epoch["loss"] for epoch in metrics]))
        return metrics

    def metrics(self, rows: mx.array) -> dict[str, np.ndarray]:
        """
        :param rows: (calls, metrics), the stacked metrics of several calls
        :return: name -> (calls,) float64; ``loss`` first. The calls after the stop are left out
        """
        *columns, active = to_numpy(rows).T.astype(np.float64)
        return {name: column[active > 0] for name, column in zip(self.metric_names, columns, strict=True)}

    def _step(
        self, state: dict[str, Any], data: Arrays, indices: mx.array, settings: Arrays
    ) -> tuple[dict[str, Any], mx.array]:
        old = TrainState(**state)
        batch = tree_map(lambda rows: rows[indices], data)

        def loss(leaves: Arrays) -> tuple[mx.array, Metrics, Arrays]:
            # Traced arrays must not stay in the network.
            with interrupts_deferred(), bound(self.module, leaves | old.buffers), not_readable():
                value, metrics = self.loss(batch, settings)
                arrays = named_parameters(self.module)
                return value, metrics, {name: arrays[name] for name in old.buffers}

        leaves = self.optimizer.unpack(old.parameters)
        (value, metrics, buffers), gradients = mx.value_and_grad(loss)(leaves)
        packed = self.optimizer.pack(gradients)
        if "max_grad_norm" in settings:
            packed = clip_by_global_norm(packed, settings["max_grad_norm"])
        new, optimizer_state = self.optimizer.apply(packed, old.parameters, old.optimizer)
        answer = TrainState(new, buffers, optimizer_state, old.active).arrays()
        stop = metrics.pop("stop", None)
        self.may_stop = stop is not None
        if stop is not None:
            active = mx.logical_and(old.active, mx.logical_not(stop))
            answer = tree_map(lambda a, b: mx.where(active, a, b), answer, state) | {"active": active}
        metrics = {"loss": value, **metrics}
        self.metric_names = list(metrics)
        columns = [*metrics.values(), old.active]
        return answer, mx.stack([column.astype(mx.float32) for column in columns])
