"""The gradient steps of one ``train()`` as MLX computes them.

An algorithm writes one gradient step the way its paper does: compute a target, descend on a loss, let
the target networks follow. :class:`CompiledUpdate` makes a pure function of it (all arrays in, all
arrays out), compiles it, and runs the gradient steps of one ``train()`` without asking the host for
anything until the end. PPO's and A2C's have one network and one ``descend``.

MLX's own form would be

    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(batch): ...

It changes the networks in place, so that an update with nan, or one that Ctrl-C ends, could not be undone;
and it runs clip and optimizer once for each array instead of once for all small ones.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx.utils import tree_map

from mlx_baselines3.common.buffers.batches import FLUSH_BYTES
from mlx_baselines3.common.cuda import nvrtc, vectors
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.nn.integer_observations import not_readable
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import bound, named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import Arrays, ParameterOptimizer
from mlx_baselines3.common.nn.threads import CompiledFunctions, random_state_kept, tracing
from mlx_baselines3.common.training.not_finite import check_finite, sum_of_arrays
from mlx_baselines3.common.training.pace import Pace
from mlx_baselines3.common.training.target_networks import averaged, sources
from mlx_baselines3.common.utils import polyak_average

__all__ = ["CompiledUpdate", "GradientStep", "Metrics", "Minibatch", "StepFunction"]

Extras = TypeVar("Extras")
Metrics = dict[str, np.ndarray]
# Arrays, or a data set and the rows of it to take.
Minibatch = Arrays | tuple[Arrays, mx.array]
# The metrics of some gradient steps, each with the kind of step that knows their names.
_Rows = list[tuple[Hashable, mx.array]]
# The metric that ends an update, and the one that says whether a step still counted.
_STOP, _ACTIVE = "stop", "active"


class GradientStep:
    """
    One gradient step while it is traced. The networks hold the step's own arrays meanwhile, so that they
    are called as always.

    :param networks: name -> network
    :param optimizers: name of a network -> its optimizer
    :param targets: name of a target network -> name of the network it follows
    :param state: all arrays, as :meth:`CompiledUpdate.begin` gives them
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        targets: Mapping[str, str],
        state: Mapping[str, Any],
    ):
        self._networks = networks
        self._optimizers = optimizers
        self._targets = targets
        self._packed: dict[str, Arrays] = dict(state["packed"])
        self._optimizer_states: dict[str, Any] = dict(state["optimizers"])
        for name, arrays in state["rest"].items():
            set_named_parameters(networks[name], arrays)
        for name, packed in self._packed.items():
            set_named_parameters(networks[name], self._layout(name).unpack(packed))

    def _layout(self, name: str) -> ParameterOptimizer:
        return self._optimizers[self._targets.get(name, name)]

    def descend(
        self,
        name: str,
        loss: Callable[[], tuple[mx.array, Extras]],
        max_grad_norm: mx.array | None = None,
    ) -> tuple[mx.array, Extras]:
        """
        One step of an optimizer. Whatever is computed afterwards sees the new parameters.

        :param name: the network to change
        :param loss: gives the loss, a scalar, and anything else made of arrays that is wanted from inside.
            Arrays made before the call are constants to the gradient
        :param max_grad_norm: clip the gradient to this 2-norm
        :return: the loss before the step, and the extras
        """
        optimizer, network = self._optimizers[name], self._networks[name]

        def of(leaves: Arrays) -> tuple[mx.array, Extras, dict[str, Arrays]]:
            with bound(network, leaves):
                before = self._named()
                value, extras = loss()
                return value, extras, _replaced(before, self._named())

        packed = self._packed[name]
        if not packed:  # all frozen
            return loss()
        (value, extras, statistics), gradients = mx.value_and_grad(of)(optimizer.unpack(packed))
        for owner, arrays in statistics.items():
            set_named_parameters(self._networks[owner], arrays)
        packed, state = optimizer.descend(gradients, packed, self._optimizer_states[name], max_grad_norm)
        self._packed[name], self._optimizer_states[name] = packed, state
        set_named_parameters(network, optimizer.unpack(packed))
        return value, extras

    def follow(self, target: str, tau: mx.array) -> None:
        """
        ``target <- tau * source + (1 - tau) * target``, running statistics copied.

        :param target: name of a target network
        :param tau: how far, scalar
        """
        source, network = self._targets[target], self._networks[target]
        arrays = named_parameters(network)
        goals = sources(self._networks[source], network)
        if target in self._packed:
            packed = polyak_average(self._packed[source], self._packed[target], tau)
            self._packed[target] = packed
            set_named_parameters(network, self._layout(target).unpack(packed))
            arrays = {name: arrays[name] for name in arrays.keys() - set(self._layout(target).names)}
        set_named_parameters(network, averaged({name: goals[name] for name in arrays}, arrays, tau))

    def state(self) -> dict[str, Any]:
        """:return: all arrays after the step"""
        rest = {
            name: {key: value for key, value in arrays.items() if key not in self._packed_names(name)}
            for name, arrays in self._named().items()
        }
        return {"packed": self._packed, "rest": rest, "optimizers": self._optimizer_states}

    def _packed_names(self, name: str) -> set[str]:
        return set(self._layout(name).names) if name in self._packed else set()

    def _named(self) -> dict[str, Arrays]:
        return {name: named_parameters(network) for name, network in self._networks.items()}


def _replaced(before: dict[str, Arrays], after: dict[str, Arrays]) -> dict[str, Arrays]:
    """The arrays that a forward pass put somewhere: running statistics."""
    return {
        owner: {name: value for name, value in arrays.items() if value is not before[owner][name]}
        for owner, arrays in after.items()
    }


def _bytes(arrays: Any) -> int:
    if isinstance(arrays, Mapping):
        return sum(_bytes(value) for value in arrays.values())
    return int(arrays.nbytes)


StepFunction = Callable[[GradientStep, Arrays, Arrays, Any], Arrays]


class CompiledUpdate:
    """
    The gradient steps of one ``train()``.

    A step that has a metric ``stop``, a condition, ends an update early: from the first minibatch where it
    holds, parameters and optimizers stay as they are. Nothing is asked of the host meanwhile.

    :param networks: name -> network, everything that the step reads or changes
    :param optimizers: name of a network -> its optimizer, made for that very network
    :param step: ``(step, batch, settings, variant) -> metrics``: one gradient step in terms of
        :class:`GradientStep`. ``batch`` has no axis of gradient steps, ``settings`` are scalars, and the
        metrics are scalars too. ``variant`` is the caller's, and compiled in: what a step does may depend
        on it, for instance whether the actor learns too
    :param targets: name of a target network -> name of the network it follows
    :param compiles: False runs the steps as they are: slower, but what they draw from generators other than
        MLX's is drawn anew in each
    :raises ValueError: if a target network does not have the names and shapes of its source
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        step: StepFunction,
        targets: Mapping[str, str] | None = None,
        compiles: bool = True,
    ):
        self.networks = dict(networks)
        self.optimizers = dict(optimizers)
        self.targets = dict(targets or {})
        self.step = step
        self.compiles = compiles
        # Numbers of rows worth compiling for; None: all. MLX compiles kernels for each size, which costs
        # seconds, and memory that it does not give back.
        self.compiled_sizes: Collection[int] | None = None
        self._compiled = CompiledFunctions()
        self._metric_names: dict[Hashable, list[str]] = {}
        self._pace = Pace()
        # Numbers as arrays, for the next call: a GPU fetches each new one from the host.
        self._scalars: dict[str, tuple[float, mx.array]] = {}
        self._goes_on = mx.array(True)
        for target, source in self.targets.items():
            sources(networks[source], networks[target])

    def run(
        self,
        batches: Iterable[Minibatch],
        settings: Mapping[str, float],
        variants: Iterable[Hashable] | None = None,
    ) -> Metrics:
        """
        Take one gradient step for each minibatch.

        :param batches: name -> (batch, ...) array or a dictionary of them, one mapping per gradient step; or
            a pair of such arrays and (minibatch,) the rows to take
        :param settings: numbers that may change from call to call
        :param variants: one per gradient step; None for all if there is only one kind
        :return: name -> (steps,) float64; a metric that only some variants have is shorter
        :raises FloatingPointError: if a parameter or a metric is nan or infinite; nothing has changed then
        """
        pairs = zip(batches, repeat(None) if variants is None else variants, strict=False)
        with interrupts_allowed(), random_state_kept():
            state, rows = self._take(self.begin(), pairs, self._arrays_of(settings))
        (metrics,) = self._finish(state, [rows])
        return metrics

    def run_epochs(
        self, epochs: Iterable[Iterable[Minibatch]], settings: Mapping[str, float]
    ) -> list[Metrics]:
        """
        Go over a data set several times. The host asks after each pass whether the update has been stopped.

        :param epochs: for each pass its minibatches, as :meth:`run` takes them
        :param settings: numbers that may change from call to call
        :return: for each pass name -> (minibatches,) float64, up to the one that stopped it
        :raises FloatingPointError: if a parameter or the metric ``loss`` is nan or infinite; nothing has
            changed then
        """
        state, scalars = self.begin(), self._arrays_of(settings)
        passes: list[_Rows] = []
        with interrupts_allowed(), random_state_kept():
            for minibatches in epochs:
                state, rows = self._take(state, zip(minibatches, repeat(None), strict=False), scalars)
                passes.append(rows)
                # Only steps that may stop give a reason to ask, and to wait, before the end.
                if any(_ACTIVE in self._metric_names[kind] for kind, _ in rows[-1:]):
                    mx.eval(state, [row for _, row in rows])
                    if not state[_ACTIVE].item():
                        break
                else:
                    # Meanwhile the host draws the next order.
                    mx.async_eval(state, [row for _, row in rows])  # type: ignore[no-untyped-call]
        return self._finish(state, passes, ("loss",))

    def begin(self) -> dict[str, Any]:
        """:return: all arrays: packed ones (trained, or targets of those), the rest, optimizer states, and
        whether the update continues"""
        packed: dict[str, Arrays] = {}
        rest: dict[str, Arrays] = {}
        for name, network in self.networks.items():
            arrays = named_parameters(network)
            layout = self.optimizers.get(self.targets.get(name, name))
            if layout is not None:
                packed[name] = layout.pack(arrays)
            names = layout.names if layout is not None else []
            rest[name] = {key: arrays[key] for key in arrays.keys() - set(names)}
        states = {name: optimizer.state for name, optimizer in self.optimizers.items()}
        return {"packed": packed, "rest": rest, "optimizers": states, _ACTIVE: self._goes_on}

    def _take(
        self, state: dict[str, Any], batches: Iterable[tuple[Minibatch, Hashable]], settings: Arrays
    ) -> tuple[dict[str, Any], _Rows]:
        """The gradient steps of one pass over some minibatches, each with its variant."""
        self._pace.begin()
        rows: _Rows = []
        waiting = 0
        for batch, variant in batches:
            kind = (variant, *settings)
            with tracing:
                state, row = self._function(kind, batch)(state, batch, settings)
            rows.append((kind, row))
            self._pace.record_step((state, row))
            # The rows of a data set are taken out of memory that is there already.
            waiting += 0 if isinstance(batch, tuple) else _bytes(batch)
            if waiting > FLUSH_BYTES:
                mx.async_eval(state)  # type: ignore[no-untyped-call]
                waiting = 0
        return state, rows

    def _finish(
        self, state: Mapping[str, Any], passes: list[_Rows], checked: Collection[str] | None = None
    ) -> list[Metrics]:
        """
        Evaluate what the steps gave, and put it into the networks and the optimizers.

        :param state: as the last step gave it
        :param passes: for each pass over the data the metrics of its steps
        :param checked: metrics that have to be finite; None: all
        :return: the metrics by name
        :raises FloatingPointError: if one of those or a parameter is nan or infinite; networks and
            optimizers are then as they were at :meth:`begin`
        """
        unpacked = {name: self._layout(name).unpack(packed) for name, packed in state["packed"].items()}
        arrays = {name: rest | unpacked.get(name, {}) for name, rest in state["rest"].items()}
        sums = {name: sum_of_arrays(packed) for name, packed in state["packed"].items()}
        numbers = [row for some in passes for _, row in some] + [*sums.values()]
        together = _together(numbers)
        with interrupts_allowed():
            mx.eval(arrays, state["optimizers"], together, mx.random.state)
        read = iter(_read(together, numbers))
        metrics = [self._metrics([(kind, next(read)) for kind, _ in some]) for some in passes]
        names = {name for each in metrics for name in each if checked is None or name in checked}
        check_finite(
            {name: np.concatenate([each[name] for each in metrics]) for name in sorted(names)},
            {name: _not_finite(unpacked[name]) for name in sums if not np.isfinite(next(read)).all()},
        )
        with interrupts_deferred():
            for name, values in arrays.items():
                set_named_parameters(self.networks[name], values)
            for name, optimizer in self.optimizers.items():
                optimizer.state = state["optimizers"][name]
        return metrics

    def _metrics(self, rows: list[tuple[Hashable, np.ndarray]]) -> Metrics:
        """The metrics by name, without the steps after the one that stopped the update."""
        columns: dict[str, list[float]] = {}
        for kind, row in rows:
            values = dict(zip(self._metric_names[kind], row.tolist(), strict=True))
            if values.pop(_ACTIVE, True):
                for name, value in values.items():
                    columns.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in columns.items()}

    def _layout(self, name: str) -> ParameterOptimizer:
        return self.optimizers[self.targets.get(name, name)]

    def _arrays_of(self, settings: Mapping[str, float]) -> Arrays:
        for name, value in settings.items():
            known = self._scalars.get(name)
            if known is None or known[0] != value:
                self._scalars[name] = value, mx.array(value, dtype=mx.float32)
        return {name: self._scalars[name][1] for name in settings}

    def _function(self, kind: tuple[Any, ...], batch: Minibatch) -> Callable[..., Any]:
        if not self.compiles or not self._is_usual(batch):
            return partial(self._pure, kind)
        functions = self._compiled.by_name
        if kind not in functions:
            random_state = mx.random.state
            functions[kind] = mx.compile(partial(self._pure, kind), inputs=random_state, outputs=random_state)
        return functions[kind]

    def _is_usual(self, batch: Minibatch) -> bool:
        sizes = self.compiled_sizes
        return sizes is None or not isinstance(batch, tuple) or batch[1].size in sizes

    def _pure(
        self, kind: tuple[Any, ...], state: dict[str, Any], batch: Minibatch, settings: Arrays
    ) -> tuple[dict[str, Any], mx.array]:
        own = {name: named_parameters(network) for name, network in self.networks.items()}
        # Traced arrays must not stay in the networks.
        with interrupts_deferred():
            try:
                step = GradientStep(self.networks, self.optimizers, self.targets, state)
                with not_readable():
                    metrics = dict(self.step(step, _rows_of(batch), settings, kind[0]))
                new_state = {**step.state(), _ACTIVE: state[_ACTIVE]}
            finally:
                for name, arrays in own.items():
                    set_named_parameters(self.networks[name], arrays)
        if (stop := metrics.pop(_STOP, None)) is not None:
            metrics[_ACTIVE] = state[_ACTIVE]
            active = mx.logical_and(state[_ACTIVE], mx.logical_not(stop))
            new_state = tree_map(lambda new, old: mx.where(active, new, old), new_state, state)
            new_state[_ACTIVE] = active
        self._metric_names[kind] = list(metrics)
        numbers = [value.astype(mx.float32) for value in metrics.values()]
        # Stacking is a kernel for each number.
        return new_state, vectors.pack(numbers, 1) if nvrtc.usable() else mx.stack(numbers)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pace": Pace()}


def _rows_of(batch: Minibatch) -> Arrays:
    if not isinstance(batch, tuple):
        return batch
    data, indices = batch
    picked: Arrays = tree_map(lambda rows: _taken(rows, indices), data)
    return picked


def _taken(rows: mx.array, indices: mx.array) -> mx.array:
    if rows.dtype == mx.uint8 and rows[:1].size % 4 == 0 and mx.default_device().type == mx.gpu:
        # A GPU gathers words faster than bytes.
        words = rows.reshape(len(rows), -1).view(mx.uint32)[indices]
        return words.view(mx.uint8).reshape(-1, *rows.shape[1:])
    return rows[indices]


def _together(arrays: list[mx.array]) -> list[mx.array]:
    """Numbers in fewer arrays: the host waits for each page that it fetches from an NVIDIA GPU."""
    if not nvrtc.usable() or any(array.dtype != mx.float32 for array in arrays):
        return arrays
    most = vectors.MOST_ARRAYS
    return [vectors.pack(arrays[i : i + most], 1) for i in range(0, len(arrays), most)]


def _read(together: list[mx.array], arrays: list[mx.array]) -> list[np.ndarray]:
    """The numbers of each of the arrays that :func:`_together` was given."""
    numbers = [to_numpy(array) for array in together]
    if together is arrays:
        return numbers
    return np.split(np.concatenate(numbers), np.cumsum([array.size for array in arrays])[:-1])


def _not_finite(arrays: Arrays) -> tuple[list[str], int]:
    return [name for name, array in arrays.items() if not mx.isfinite(array).all().item()], len(arrays)
