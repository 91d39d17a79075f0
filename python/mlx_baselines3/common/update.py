"""The compiled update step: loss, gradient, clip, optimizer, in one graph.

A step is a pure function of arrays: the parameters and the optimizer's state go in and come out. The
parameters travel as one flat vector where the optimizer allows it, because on a CPU and on a GPU alike
the cost of a small update is the number of operations and not their size: one clip and one Adam over
one vector instead of one for each of a dozen tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlx_baselines3.common.layers import named_parameters, set_named_parameters
from mlx_baselines3.common.mlx_interop import to_mlx, to_numpy
from mlx_baselines3.common.optimizers import from_torch_state, is_elementwise, make_optimizer

__all__ = [
    "Arrays",
    "ParameterOptimizer",
    "TrainState",
    "UpdateStep",
    "bound",
    "clip_by_global_norm",
    "random_state_kept",
    "trainable_names",
]

Arrays = dict[str, mx.array]
Metrics = Arrays
LossFunction = Callable[[Arrays, Arrays], tuple[mx.array, Metrics]]

# A tensor inside a flat vector starts on a 16-byte boundary: CUDA's TF32 products need it.
_ALIGNMENT = 4
_FLAT = "flat"


def trainable_names(module: nn.Module) -> list[str]:
    """
    :param module: any MLX module
    :return: names of the arrays that the optimizer may change, in SB3's order
    """
    trainable = {name for name, _ in tree_flatten(module.trainable_parameters())}
    return [name for name in named_parameters(module) if name in trainable]


def clip_by_global_norm(gradients: Arrays, max_norm: mx.array) -> Arrays:
    """
    Scale all gradients together so that their common 2-norm is at most ``max_norm``
    (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063).

    :param gradients: name -> gradient
    :param max_norm: scalar
    :return: the scaled gradients
    """
    squares = [(g * g).sum() for g in gradients.values()]
    norm = mx.sqrt(sum(squares[1:], squares[0]))
    scale = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: g * scale for name, g in gradients.items()}


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


class ParameterOptimizer:
    """
    An MLX optimizer together with the parameters of the network it is for.

    :param module: the network; its trainable arrays are optimised
    :param optimizer_class: an MLX optimizer
    :param learning_rate: the first learning rate
    :param optimizer_kwargs: the other arguments of the optimizer, torch's names allowed
    :param names: optimise these arrays only (default: all that are trainable)
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer_class: type[optim.Optimizer],
        learning_rate: float,
        optimizer_kwargs: dict[str, Any] | None = None,
        names: list[str] | None = None,
    ):
        parameters = named_parameters(module)
        self.names = trainable_names(module) if names is None else names
        self.shapes = {name: parameters[name].shape for name in self.names}
        self.optimizer = make_optimizer(optimizer_class, learning_rate, optimizer_kwargs or {})
        self.is_flat = is_elementwise(self.optimizer) and all(
            parameters[name].dtype == mx.float32 for name in self.names
        )
        self.optimizer.init(self.pack(parameters))

    @property
    def learning_rate(self) -> mx.array:
        """:return: the learning rate, a scalar array"""
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | mx.array) -> None:
        self.optimizer.learning_rate = mx.array(value, dtype=mx.float32)

    @property
    def state(self) -> dict[str, Any]:
        """:return: the optimizer's state, a tree of arrays"""
        return self.optimizer.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.optimizer.state = state

    def pack(self, arrays: Mapping[str, mx.array]) -> Arrays:
        """
        :param arrays: name -> array, at least those that are optimised
        :return: what the optimizer works on: one flat vector, or the arrays as they are
        """
        if not self.is_flat:
            return {name: arrays[name] for name in self.names}
        pieces = []
        for name in self.names:
            pieces.append(arrays[name].reshape(-1))
            if padding := -arrays[name].size % _ALIGNMENT:
                pieces.append(mx.zeros((padding,)))
        return {_FLAT: mx.concatenate(pieces)}

    def unpack(self, packed: Arrays) -> Arrays:
        """
        :param packed: an answer of :meth:`pack`
        :return: name -> array
        """
        if not self.is_flat:
            return dict(packed)
        arrays, start = {}, 0
        vector = packed[_FLAT]
        for name, shape in self.shapes.items():
            size = _size(shape)
            arrays[name] = vector[start : start + size].reshape(shape)
            start += size + -size % _ALIGNMENT
        return arrays

    def apply(
        self, gradients: Arrays, packed: Arrays, state: dict[str, Any]
    ) -> tuple[Arrays, dict[str, Any]]:
        """
        One step of the optimizer, as a pure function.

        :param gradients: packed gradients
        :param packed: packed parameters
        :param state: the optimizer's state
        :return: the new parameters and the new state
        """
        own = self.optimizer.state
        try:
            self.optimizer.state = tree_map(lambda leaf: leaf, state)
            return self.optimizer.apply_gradients(gradients, packed), self.optimizer.state
        finally:
            self.optimizer.state = own

    def state_dict(self) -> Arrays:
        """:return: the state as named arrays: ``step``, ``learning_rate``, ``m.<parameter>``, …"""
        arrays: Arrays = {}
        for key, value in self.state.items():
            if isinstance(value, mx.array):
                arrays[key] = value
        if self.is_flat:
            for slot, vector in self.state[_FLAT].items():
                arrays |= {f"{slot}.{name}": a for name, a in self.unpack({_FLAT: vector}).items()}
        else:
            for name in self.names:
                arrays |= {f"{slot}.{name}": a for slot, a in tree_flatten(self.state[name])}
        return arrays

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Replace the state. Nothing changes if anything is wrong.

        :param state_dict: as :meth:`state_dict` gives it, or a torch optimizer's, as SB3's files hold it
        :raises ValueError: if the names or shapes are not those of this optimizer
        """
        own = self.state_dict()
        if "param_groups" in state_dict:
            state_dict = {**own, **from_torch_state(state_dict, self.names)}
        given = {name: to_mlx(value) for name, value in state_dict.items()}
        wrong = sorted(own.keys() ^ given.keys()) or [k for k in own if own[k].shape != given[k].shape]
        if wrong:
            raise ValueError(
                f"The optimizer state does not fit {type(self.optimizer).__name__} over these parameters: "
                f"{', '.join(wrong[:5])}{', …' if len(wrong) > 5 else ''} missing, unknown or of another "
                "shape."
            )
        state: dict[str, Any] = {
            key: given[key].astype(value.dtype)
            for key, value in self.state.items()
            if isinstance(value, mx.array)
        }
        if self.is_flat:
            state[_FLAT] = {
                slot: self.pack({name: given[f"{slot}.{name}"] for name in self.names})[_FLAT]
                for slot in self.state[_FLAT]
            }
        else:
            for name in self.names:
                state[name] = {slot: given[f"{slot}.{name}"] for slot in self.state[name]}
        self.state = state


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


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
    One optimisation step on minibatches of a data set, compiled once per minibatch size.

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
        self._compiled: Callable[..., Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

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
        # Padding included, so that one flat vector is one reduction.
        finite = mx.stack([mx.isfinite(array).all() for array in state.parameters.values()]).all()
        mx.eval(arrays, state.optimizer, finite)
        if not finite.item() or (losses is not None and not np.isfinite(losses).all()):
            raise FloatingPointError(self._what_is_not_finite(arrays, losses))
        set_named_parameters(self.module, arrays)
        self.optimizer.state = state.optimizer

    def _what_is_not_finite(self, arrays: Arrays, losses: np.ndarray | None) -> str:
        seen = []
        if losses is not None and (wrong := np.flatnonzero(~np.isfinite(losses))).size:
            seen.append(f"the loss of minibatch {wrong[0]} (of {losses.size}) was {losses[wrong[0]]}")
        names = [name for name in self.optimizer.names if not mx.isfinite(arrays[name]).all().item()]
        if names:
            seen.append(f"{len(names)} of {len(self.optimizer.names)} parameters, first {names[0]}")
        return (
            f"The update gave numbers that are nan or infinite: {'; '.join(seen)}. Nothing was changed: the "
            "network and its optimizer are as they were before. Wrap the environments in "
            "VecCheckNan(env, raise_exception=True) to see whether the nan comes from them; if not, try a "
            "smaller learning rate."
        )

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
        if self._compiled is None:
            random_state = mx.random.state
            self._compiled = mx.compile(self._step, inputs=random_state, outputs=random_state)
        with random_state_kept():
            answer, metrics = self._compiled(state.arrays(), data, indices, settings)
        return TrainState(**answer), metrics

    def metrics(self, rows: mx.array) -> dict[str, np.ndarray]:
        """
        :param rows: (calls, metrics), the stacked metrics of several calls
        :return: name -> (calls,) float64; ``loss`` first, ``active`` last: 0 after the stop
        """
        return dict(zip(self.metric_names, to_numpy(rows).T.astype(np.float64), strict=True))

    def _step(
        self, state: dict[str, Any], data: Arrays, indices: mx.array, settings: Arrays
    ) -> tuple[dict[str, Any], mx.array]:
        old = TrainState(**state)
        batch = tree_map(lambda rows: rows[indices], data)

        def loss(parameters: Arrays) -> tuple[mx.array, Metrics, Arrays]:
            with bound(self.module, parameters | old.buffers):
                value, metrics = self.loss(batch, settings)
                arrays = named_parameters(self.module)
                return value, metrics, {name: arrays[name] for name in old.buffers}

        parameters = self.optimizer.unpack(old.parameters)
        (value, metrics, buffers), gradients = mx.value_and_grad(loss)(parameters)
        packed = self.optimizer.pack(gradients)
        if "max_grad_norm" in settings:
            packed = clip_by_global_norm(packed, settings["max_grad_norm"])
        new, optimizer_state = self.optimizer.apply(packed, old.parameters, old.optimizer)
        answer = TrainState(new, buffers, optimizer_state, old.active).arrays()
        stop = metrics.pop("stop", None)
        if stop is not None:
            active = mx.logical_and(old.active, mx.logical_not(stop))
            answer = tree_map(lambda a, b: mx.where(active, a, b), answer, state) | {"active": active}
        metrics = {"loss": value, **metrics, "active": old.active}
        self.metric_names = list(metrics)
        return answer, mx.stack([m.astype(mx.float32) for m in metrics.values()])
