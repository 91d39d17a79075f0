"""How a policy computes its actions, read from its modules: what acts in Rust, and may learn there."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.distributions.state_dependent_noise import StateDependentNoiseDistribution
from mlx_baselines3.common.native.eligibility import NotNative, check_parts, check_unchanged
from mlx_baselines3.common.nn.activations import Tanh
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import Flatten, Sequential, is_exactly
from mlx_baselines3.common.preprocessing import is_image_space
from mlx_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor

Observations = np.ndarray | dict[str, np.ndarray]

_PLAIN = {nn.Identity: "identity", Tanh: "tanh", nn.Tanh: "tanh", nn.ReLU: "relu", nn.SiLU: "silu"}


# Methods of a distribution that decide which action is taken.
DRAWING = ("proba_distribution", "get_actions", "sample", "mode", "actions_from_params")


class Layer(NamedTuple):
    """
    A dense layer and what follows it.

    :param linears: modules whose outputs are put side by side, usually one
    :param activation: name of the function
    :param parameter: its number, if it has one
    """

    linears: tuple[nn.Linear, ...]
    activation: str = "identity"
    parameter: float = 0.0


@dataclass(frozen=True, eq=False)
class Blueprint:
    """
    How a policy computes its actions.

    :param layers: the network
    :param head: ``categorical``, ``multi_categorical``, ``bernoulli``, ``gaussian``, ``squashed_gaussian``,
        ``state_dependent``, ``squashed_state_dependent``, ``deterministic`` or ``epsilon_greedy`` (the best
        choice: the caller explores)
    :param options: options of each choice (``multi_categorical``)
    :param log_std: logarithms of the standard deviations (``gaussian`` and ``state_dependent``)
    :param critic: the network of the values of the observations, if there is one
    :param noise: whose ``get_std`` turns ``log_std`` into standard deviations (``state_dependent``)
    :param keys: those of Dict observations, which the network sees side by side in this order
    """

    layers: tuple[Layer, ...]
    head: str
    options: tuple[int, ...] = ()
    log_std: mx.array | None = None
    critic: tuple[Layer, ...] = ()
    noise: StateDependentNoiseDistribution | None = None
    keys: tuple[str, ...] = ()

    def standard_deviations(self) -> np.ndarray:
        """:return: the standard deviations, row after row; none for a head that has none"""
        if self.log_std is None:
            return np.empty(0, np.float32)
        if self.noise is None:
            return np.exp(to_numpy(self.log_std)).ravel()
        return to_numpy(self.noise.get_std(self.log_std)).ravel()

    def arrays(self) -> list[mx.array]:
        """:return: every array of the policy that the actions depend on"""
        own = [] if self.log_std is None else [self.log_std]
        parts = (linear for layer in self.layers for linear in layer.linears)
        return own + [linear[key] for linear in parts for key in ("weight", "bias") if key in linear]

    def has_modules_of(self, other: "Blueprint") -> bool:
        """
        :param other: a blueprint
        :return: whether it has the same head and the very same modules in the same places
        """
        if (self.head, self.options, len(self.layers)) != (other.head, other.options, len(other.layers)):
            return False
        return all(
            len(a.linears) == len(b.linears)
            and all(map(operator.is_, a.linears, b.linears))
            and a[1:] == b[1:]
            for a, b in zip(self.layers, other.layers, strict=True)
        )

    def shape(self) -> tuple[Any, ...]:
        """:return: what two policies have in common that differ in their weights alone"""
        layers = [
            (layer.linears[0].weight.shape[1], sum(linear.weight.shape[0] for linear in layer.linears))
            + layer[1:]
            for layer in self.layers
        ]
        spread = () if self.noise is None else (self.noise.use_expln, self.noise.full_std)
        return (layers, self.head, list(self.options), *spread)


@singledispatch
def blueprint(policy: Any) -> Blueprint:
    """
    :param policy: a policy
    :return: how it computes its actions
    :raises NotNative: it does more than a perceptron can
    """
    raise NotNative(f"{type(policy).__name__} has no native form")


def _activation(module: nn.Module) -> tuple[str, float]:
    kind = type(module)
    if kind in _PLAIN:
        return _PLAIN[kind], 0.0
    if kind is nn.ELU:
        return "elu", float(module._alpha)
    if kind is nn.LeakyReLU:
        return "leaky_relu", float(module._negative_slope)
    if kind is nn.GELU and module._approx == "none":
        return "gelu", 0.0
    raise NotNative(f"there is no native {kind.__name__} layer")


def perceptron(network: Any) -> list[Layer]:
    """
    Read a sequence of linear layers and activations.

    :param network: a :class:`~mlx_baselines3.common.nn.layers.Sequential`
    :return: the layers, each with the activation after it
    :raises NotNative: it is none, another module is in it, or an activation where no linear layer is
        before it
    """
    if type(network) is not Sequential:
        raise NotNative(f"the policy has a {type(network).__name__}")
    check_unchanged(network, Sequential, ("__call__", "forward"))
    layers: list[Layer] = []
    for module in network.layers():
        if is_exactly(module, nn.Linear):
            layers.append(Layer((module,)))
            continue
        name, parameter = _activation(module)
        if name == "identity":
            continue
        if not layers or layers[-1].activation != "identity":
            raise NotNative(f"a {type(module).__name__} does not follow a linear layer")
        layers[-1] = Layer(layers[-1].linears, name, parameter)
    return layers


def observed_keys(space: spaces.Space[Any], *extractors: Any) -> tuple[str, ...]:
    """
    :param space: an observation space
    :param extractors: what a policy makes features with
    :return: the keys of a Dict whose vectors are put side by side in this order; none for a Box
    :raises NotNative: an observation is not an array of numbers that a network takes as they are
    """
    kind = CombinedExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
    check_parts(*((extractor, kind) for extractor in extractors))
    if not isinstance(space, spaces.Dict):
        _check_vector(space, "the observation space is")
        return ()
    for key, part in space.spaces.items():
        _check_vector(part, f"the observation {key!r} is")
    for extractor in extractors:
        check_parts(*((part, Flatten) for _, part in extractor.extractors.named_items()))
    return tuple(space.spaces)


def _check_vector(space: spaces.Space[Any], what: str) -> None:
    if not isinstance(space, spaces.Box):
        raise NotNative(f"{what} a {type(space).__name__} and not a Box")
    if is_image_space(space):
        raise NotNative("the observations are images")


def side_by_side(observations: Any, keys: Sequence[str], batch_axes: int = 1) -> np.ndarray:
    """
    :param observations: an array, or one for each key
    :param keys: those of a Dict in their order; none for an array
    :param batch_axes: how many axes come before those of an observation
    :return: the array as it is; or (..., numbers) float32, the flattened observations of a Dict in a row
    """
    if not keys:
        return np.asarray(observations)
    arrays = (np.asarray(observations[key]) for key in keys)
    rows = [np.asarray(array, np.float32).reshape(*array.shape[:batch_axes], -1) for array in arrays]
    return np.concatenate(rows, axis=-1)
