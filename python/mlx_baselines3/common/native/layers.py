"""Linear layers and activations, read from the modules of a network."""

from typing import Any, NamedTuple

import mlx.nn as nn

from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.nn.activations import Tanh
from mlx_baselines3.common.nn.layers import Sequential, is_exactly

__all__ = ["Layer", "activation_of", "mlp_layers", "sequence"]

_PLAIN = {nn.Identity: "identity", Tanh: "tanh", nn.Tanh: "tanh", nn.ReLU: "relu", nn.SiLU: "silu"}


class Layer(NamedTuple):
    """
    A linear layer and its activation.

    :param linears: modules whose outputs are concatenated, usually one
    :param activation: name of the activation function
    :param parameter: its parameter, if it has one
    """

    linears: tuple[nn.Linear, ...]
    activation: str = "identity"
    parameter: float = 0.0


def activation_of(module: Any) -> tuple[str, float]:
    """
    :param module: an activation
    :return: its name and its number, 0 if it has none
    :raises NotNative: if Rust does not have it
    """
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


def sequence(network: Any) -> list[Any]:
    """
    :param network: a :class:`~mlx_baselines3.common.nn.layers.Sequential`
    :return: its layers
    :raises NotNative: if it is of another class
    """
    if type(network) is not Sequential:
        raise NotNative(f"the policy has a {type(network).__name__}")
    check_unchanged(network, Sequential, ("__call__", "forward"))
    return list(network.layers())


def mlp_layers(network: Any) -> list[Layer]:
    """
    Read a sequence of linear layers and activations.

    :param network: a :class:`~mlx_baselines3.common.nn.layers.Sequential`
    :return: the layers, each with the activation after it
    :raises NotNative: if it is of another class, contains another module, or has an activation without a
        linear layer before it
    """
    layers: list[Layer] = []
    for module in sequence(network):
        if is_exactly(module, nn.Linear):
            layers.append(Layer((module,)))
            continue
        name, parameter = activation_of(module)
        if name == "identity":
            continue
        if not layers or layers[-1].activation != "identity":
            raise NotNative(f"a {type(module).__name__} does not follow a linear layer")
        layers[-1] = Layer(layers[-1].linears, name, parameter)
    return layers
