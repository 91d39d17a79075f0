"""Gradient steps on batches of a replay buffer, with several networks, optimizers and targets.

An algorithm writes one gradient step the way its paper does: compute a target, descend on a loss, let
the target networks follow. :class:`OffPolicyUpdate` makes a pure function of it (all arrays in, all
arrays out), compiles it, and runs the gradient steps of one ``train()`` without asking the host for
anything until the end.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common.buffers.batches import FLUSH_BYTES
from mlx_baselines3.common.native.interrupts import interrupts_allowed, interrupts_deferred
from mlx_baselines3.common.nn.integer_observations import not_readable
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import Arrays, ParameterOptimizer
from mlx_baselines3.common.nn.structure import is_same, structure
from mlx_baselines3.common.nn.threads import CompiledFunctions, tracing
from mlx_baselines3.common.training.pace import Pace
from mlx_baselines3.common.training.update import (
    bound,
    clip_by_global_norm,
    is_finite,
    random_state_kept,
    sum_of_arrays,
)
from mlx_baselines3.common.utils import polyak_average

__all__ = ["GradientStep", "OffPolicyUpdate", "StepFunction", "follow", "off_policy_error"]

Extras = TypeVar("Extras")


def _find(network: Module, name: str) -> mx.array:
    """An array by its name, also inside a module that the network has borrowed from another one."""
    place: Any = network
    for key in name.split("."):
        if isinstance(place, (list, tuple)):
            place = place[int(key)]
        elif isinstance(place, dict) and key in place:
            place = place[key]
        else:
            place = getattr(place, key)
    array: mx.array = place
    return array


def _sources(source: Module, target: Module) -> Arrays:
    """
    What each array of the target follows.

    :raises ValueError: if names or shapes differ
    """
    names = named_parameters(target)
    odd = sorted(named_parameters(source).keys() - names.keys())
    found: Arrays = {}
    for name in names:
        try:
            found[name] = _find(source, name)
        except (AttributeError, IndexError):
            odd.append(name)
    odd += [name for name, array in found.items() if array.shape != names[name].shape]
    if odd:
        raise ValueError(
            f"A target network must have the names and shapes of its {type(source).__name__}; "
            f"these are missing on one side or differ in shape: {', '.join(odd[:5])}. Whoever replaces a "
            "module by one of another form does so in the target network, too."
        )
    return found


def _averaged(source: Arrays, target: Arrays, tau: float | mx.array) -> Arrays:
    """Polyak average, except that running statistics are copied: they are no parameters but counts."""
    average = polyak_average(source, target, tau)
    return {name: source[name] if "running_" in name else value for name, value in average.items()}


def follow(source: Module, target: Module, tau: float) -> None:
    """
    ``target <- tau * source + (1 - tau) * target``; running statistics of a batch normalisation are copied.

    :param source: a network
    :param target: one of the same shape
    :param tau: 1 copies
    :raises ValueError: if names or shapes differ
    """
    new = _averaged(_sources(source, target), named_parameters(target), tau)
    # An array that two networks hold could be changed in place through either, hence the copies.
    new = {name: mx.array(value) for name, value in new.items()}
    # Evaluated at once: otherwise the history of a target that no one reads would grow for ever.
    mx.eval(new)
    set_named_parameters(target, new)


def off_policy_error(wrong: list[str]) -> FloatingPointError:
    """
    :param wrong: what is nan or infinite
    :return: what to raise when an update gave such numbers and was thrown away
    """
    return FloatingPointError(
        f"The update gave numbers that are nan or infinite: {', '.join(wrong)}. Nothing was changed: "
        "networks and optimizers are as they were before. Wrap the environments in "
        "VecCheckNan(env, raise_exception=True) to see whether they come from there; if not, try a "
        "smaller learning rate."
    )


class GradientStep:
    """
    One gradient step while it is traced. The networks hold the step's own arrays meanwhile, so that they
    are called as always.

    :param networks: name -> network
    :param optimizers: name of a network -> its optimizer
    :param targets: name of a target network -> name of the network it follows
    :param state: all arrays, as :meth:`OffPolicyUpdate.begin` gives them
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
        gradients = optimizer.pack(gradients)
        if max_grad_norm is not None:
            gradients = clip_by_global_norm(gradients, max_grad_norm)
        packed, state = optimizer.apply(gradients, packed, self._optimizer_states[name])
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
        goals = _sources(self._networks[source], network)
        if target in self._packed:
            packed = polyak_average(self._packed[source], self._packed[target], tau)
            self._packed[target] = packed
            set_named_parameters(network, self._layout(target).unpack(packed))
            arrays = {name: arrays[name] for name in arrays.keys() - set(self._layout(target).names)}
        set_named_parameters(network, _averaged({name: goals[name] for name in arrays}, arrays, tau))

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


class OffPolicyUpdate:
    """
    The gradient steps of one ``train()``.

    :param networks: name -> network, everything that the step reads or changes
    :param optimizers: name of a network -> its optimizer, made for that very network
    :param step: ``(step, batch, settings, variant) -> metrics``: one gradient step in terms of
        :class:`GradientStep`. ``batch`` has no axis of gradient steps, ``settings`` are scalars, and the
        metrics are scalars too. ``variant`` is the caller's, and compiled in: what a step does may depend
        on it, for instance whether the actor learns too
    :param targets: name of a target network -> name of the network it follows
    :param compiled: False runs the steps as they are: slower, but what they draw from generators other than
        MLX's is drawn anew in each
    :raises ValueError: if a target network does not have the names and shapes of its source
    """

    def __init__(
        self,
        networks: Mapping[str, Module],
        optimizers: Mapping[str, ParameterOptimizer],
        step: StepFunction,
        targets: Mapping[str, str] | None = None,
        compiled: bool = True,
    ):
        self.compiled = compiled
        self.networks = dict(networks)
        self.optimizers = dict(optimizers)
        self.targets = dict(targets or {})
        self.step = step
        self._compiled = CompiledFunctions()
        self._metric_names: dict[Hashable, list[str]] = {}
        self._pace = Pace()
        for target, source in self.targets.items():
            _sources(networks[source], networks[target])
        self._made_of = self._structure(networks, optimizers)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pace": Pace()}

    @staticmethod
    def _structure(
        networks: Mapping[str, Module], optimizers: Mapping[str, ParameterOptimizer]
    ) -> tuple[list[str], list[Any]]:
        return [*networks, *optimizers], structure(*networks.values(), *optimizers.values())

    def is_for(self, networks: Mapping[str, Module], optimizers: Mapping[str, ParameterOptimizer]) -> bool:
        """
        :param networks: networks by name
        :param optimizers: optimizers by name
        :return: whether these are the very objects of this update, made of the same modules as then
        """
        names, parts = self._structure(networks, optimizers)
        return names == self._made_of[0] and is_same(parts, self._made_of[1])

    def begin(self) -> dict[str, Any]:
        """:return: all arrays: packed ones (trained, or targets of those), the rest, optimizer states"""
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
        return {"packed": packed, "rest": rest, "optimizers": states}

    def finish(
        self, state: Mapping[str, Any], rows: list[tuple[Hashable, mx.array]]
    ) -> dict[str, np.ndarray]:
        """
        Evaluate what the steps gave, and put it into the networks and the optimizers.

        :param state: as the last step gave it
        :param rows: the variant and the metrics of each step
        :return: the metrics by name
        :raises FloatingPointError: if a metric or a parameter is nan or infinite; networks and optimizers
            are then as they were at :meth:`begin`
        """
        arrays = {
            name: rest | (self._layout(name).unpack(state["packed"][name]) if name in state["packed"] else {})
            for name, rest in state["rest"].items()
        }
        sums = {name: sum_of_arrays(state["packed"][name]) for name in state["packed"]}
        with interrupts_allowed():
            mx.eval(arrays, state["optimizers"], sums, [row for _, row in rows], mx.random.state)
        metrics = self._metrics(rows)
        wrong = [f"the parameters of {name}" for name, value in sums.items() if not is_finite(value)]
        wrong += [f"the metric {name}" for name, values in metrics.items() if not np.isfinite(values).all()]
        if wrong:
            raise off_policy_error(wrong)
        with interrupts_deferred():
            for name, values in arrays.items():
                set_named_parameters(self.networks[name], values)
            for name, optimizer in self.optimizers.items():
                optimizer.state = state["optimizers"][name]
        return metrics

    def _layout(self, name: str) -> ParameterOptimizer:
        return self.optimizers[self.targets.get(name, name)]

    def run(
        self,
        batches: Iterable[Arrays],
        settings: Mapping[str, float],
        variants: Iterable[Hashable] | None = None,
    ) -> dict[str, np.ndarray]:
        """
        Take one gradient step per batch.

        :param batches: name -> (batch, ...) array or a dictionary of them, one mapping per gradient step
        :param settings: numbers that may change from call to call
        :param variants: one per gradient step; None for all if there is only one kind
        :return: name -> (steps,) float64; a metric that only some variants have is shorter
        :raises FloatingPointError: if the outcome is nan or infinite; nothing has changed then
        """
        scalars = {name: mx.array(value, dtype=mx.float32) for name, value in settings.items()}
        state = self.begin()
        self._pace.begin()
        rows: list[tuple[Hashable, mx.array]] = []
        waiting = 0
        with interrupts_allowed(), random_state_kept():
            for batch, variant in zip(batches, repeat(None) if variants is None else variants, strict=False):
                with tracing:
                    state, row = self._function(variant)(state, batch, scalars)
                rows.append((variant, row))
                self._pace.went_on((state, row))
                waiting += _bytes(batch)
                if waiting > FLUSH_BYTES:
                    mx.async_eval(state)  # type: ignore[no-untyped-call]
                    waiting = 0
        return self.finish(state, rows)

    def _metrics(self, rows: list[tuple[Hashable, mx.array]]) -> dict[str, np.ndarray]:
        columns: dict[str, list[float]] = {}
        for variant, row in rows:
            for name, value in zip(self._metric_names[variant], to_numpy(row), strict=True):
                columns.setdefault(name, []).append(float(value))
        return {name: np.array(values) for name, values in columns.items()}

    def _function(self, variant: Hashable) -> Callable[..., Any]:
        if not self.compiled:
            return partial(self._pure, variant)
        functions = self._compiled.by_name
        if variant not in functions:
            random_state = mx.random.state
            functions[variant] = mx.compile(
                partial(self._pure, variant), inputs=random_state, outputs=random_state
            )
        return functions[variant]

    def _pure(
        self, variant: Hashable, state: dict[str, Any], batch: Arrays, settings: Arrays
    ) -> tuple[dict[str, Any], mx.array]:
        own = {name: named_parameters(network) for name, network in self.networks.items()}
        # Traced arrays must not stay in the networks.
        with interrupts_deferred():
            try:
                step = GradientStep(self.networks, self.optimizers, self.targets, state)
                with not_readable():
                    metrics = self.step(step, batch, settings, variant)
                new_state = step.state()
            finally:
                for name, arrays in own.items():
                    set_named_parameters(self.networks[name], arrays)
        self._metric_names[variant] = list(metrics)
        return new_state, mx.stack([value.astype(mx.float32) for value in metrics.values()])
