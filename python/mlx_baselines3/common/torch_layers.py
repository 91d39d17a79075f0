"""Feature extractors and multi-layer perceptrons. The module keeps SB3's name; its content is MLX."""

import math
from typing import Any

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import TensorDict
from mlx_baselines3.common.nn.activations import Tanh, make_activation
from mlx_baselines3.common.nn.layers import Conv2d, Flatten, Linear, Module, ModuleDict, Sequential
from mlx_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from mlx_baselines3.common.utils import get_device

__all__ = [
    "BaseFeaturesExtractor",
    "CombinedExtractor",
    "FlattenExtractor",
    "MlpExtractor",
    "NatureCNN",
    "TensorDict",
    "create_mlp",
    "get_actor_critic_arch",
    "get_device",
    "get_flattened_obs_dim",
    "is_image_space",
]


class BaseFeaturesExtractor(Module):
    """
    Base of everything that turns observations into a vector of features.

    :param observation_space: space of one observation
    :param features_dim: length of the feature vector
    """

    def __init__(self, observation_space: gym.Space[Any], features_dim: int = 0) -> None:
        super().__init__()
        assert features_dim > 0, f"features_dim must be positive, got {features_dim}"
        self._observation_space = observation_space
        self._features_dim = features_dim

    @property
    def features_dim(self) -> int:
        """:return: length of the feature vector"""
        return self._features_dim


class FlattenExtractor(BaseFeaturesExtractor):
    """
    The observation itself, flattened: what ``MlpPolicy`` uses.

    :param observation_space: space of one observation
    """

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.flatten = Flatten()

    def forward(self, observations: mx.array) -> mx.array:
        """
        :param observations: (batch, ...) float32
        :return: (batch, features_dim)
        """
        return self.flatten(observations)


class NatureCNN(BaseFeaturesExtractor):
    """
    The convolutional network of Mnih et al. (2015), "Human-level control through deep reinforcement
    learning", Nature 518.

    :param observation_space: a Box of channel-first images
    :param features_dim: units of the last layer
    :param normalized_image: the images are already in [0, 1]: check neither dtype nor bounds
    :raises AssertionError: if the space does not hold such images
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        features_dim: int = 512,
        normalized_image: bool = False,
    ) -> None:
        assert isinstance(observation_space, spaces.Box), (
            f"NatureCNN needs a Box observation space, got {observation_space}."
        )
        super().__init__(observation_space, features_dim)
        assert is_image_space(observation_space, check_channels=False, normalized_image=normalized_image), (
            f"NatureCNN needs images, got {observation_space}. Use `MlpPolicy` or `MultiInputPolicy` for "
            "observations that are not images; for images that are already normalised pass "
            "`policy_kwargs=dict(normalize_images=False)`; `check_env` tells what is wrong with an "
            "environment of your own."
        )
        channels, height, width = observation_space.shape
        self.cnn = Sequential(
            Conv2d(channels, 32, kernel_size=8, stride=4),
            nn.ReLU(),
            Conv2d(32, 64, kernel_size=4, stride=2),
            nn.ReLU(),
            Conv2d(64, 64, kernel_size=3, stride=1),
            nn.ReLU(),
            Flatten(),
        )
        n_flatten = 64 * math.prod(self._output_side(side) for side in (height, width))
        assert n_flatten > 0, f"NatureCNN needs images of at least 36 x 36 pixels, got {height} x {width}."
        self.linear = Sequential(Linear(n_flatten, features_dim), nn.ReLU())

    @staticmethod
    def _output_side(side: int) -> int:
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            side = (side - kernel) // stride + 1
        return max(side, 0)

    def forward(self, observations: mx.array) -> mx.array:
        """
        :param observations: (batch, channels, height, width) float32
        :return: (batch, features_dim)
        """
        return self.linear(self.cnn(observations))


def _checked_units(net_arch: Any) -> list[int]:
    """
    :param net_arch: units of hidden layers
    :return: the same as plain integers
    :raises TypeError: it is no list of whole numbers
    :raises ValueError: a layer would have no units
    """
    expected = "expected a list with the units of each hidden layer, whole numbers of at least 1"
    if not isinstance(net_arch, (list, tuple)):
        raise TypeError(f"net_arch is {net_arch!r}: {expected}.")
    for units in net_arch:
        if not isinstance(units, (int, np.integer)) or isinstance(units, bool):
            raise TypeError(f"net_arch={net_arch!r} holds {units!r}: {expected}.")
        if units < 1:
            raise ValueError(
                f"net_arch={net_arch!r} holds {units}: {expected}. No hidden layer at all is `net_arch=[]`."
            )
    return [int(units) for units in net_arch]


def create_mlp(
    input_dim: int,
    output_dim: int,
    net_arch: list[int],
    activation_fn: type[nn.Module] = nn.ReLU,
    squash_output: bool = False,
    with_bias: bool = True,
    pre_linear_modules: list[type[nn.Module]] | None = None,
    post_linear_modules: list[type[nn.Module]] | None = None,
) -> list[nn.Module]:
    """
    The layers of a multi-layer perceptron.

    :param input_dim: length of the input
    :param output_dim: length of the output; 0 leaves the output layer away
    :param net_arch: units of the hidden layers
    :param activation_fn: class of the activation after each hidden layer
    :param squash_output: put a tanh at the end
    :param with_bias: whether the linear layers have a bias
    :param pre_linear_modules: classes of modules before each linear layer, called with its input size
    :param post_linear_modules: classes of modules between each hidden linear layer and its activation,
        called with the layer's output size
    :return: the layers in order
    :raises TypeError: ``net_arch`` is no list of whole numbers
    :raises ValueError: a layer would have no units
    """
    net_arch = _checked_units(net_arch)
    pre, post = pre_linear_modules or [], post_linear_modules or []
    modules: list[nn.Module] = []
    for units in net_arch:
        modules += [module(input_dim) for module in pre]
        modules.append(Linear(input_dim, units, bias=with_bias))
        modules += [module(units) for module in post]
        modules.append(make_activation(activation_fn))
        input_dim = units
    if output_dim > 0:
        modules += [module(input_dim) for module in pre]
        modules.append(Linear(input_dim, output_dim, bias=with_bias))
    if squash_output:
        modules.append(Tanh())
    return modules


class MlpExtractor(Module):
    """
    Two separate perceptrons on the same features, one for the policy and one for the value.

    :param feature_dim: length of the feature vector
    :param net_arch: units of the hidden layers: one list for both, or ``dict(pi=[…], vf=[…])`` where a
        missing key means no hidden layer
    :param activation_fn: class of the activation after each layer
    :param device: kept for SB3's signature; MLX arrays belong to no device
    """

    def __init__(
        self,
        feature_dim: int,
        net_arch: list[int] | dict[str, list[int]],
        activation_fn: type[nn.Module],
        device: mx.Device | str = "auto",
    ) -> None:
        super().__init__()
        arches = net_arch if isinstance(net_arch, dict) else {"pi": net_arch, "vf": net_arch}
        pi_arch, vf_arch = (_checked_units(arches.get(key, [])) for key in ("pi", "vf"))
        self.policy_net = Sequential(*create_mlp(feature_dim, 0, pi_arch, activation_fn))
        self.value_net = Sequential(*create_mlp(feature_dim, 0, vf_arch, activation_fn))
        self.latent_dim_pi = pi_arch[-1] if pi_arch else feature_dim
        self.latent_dim_vf = vf_arch[-1] if vf_arch else feature_dim

    def forward(self, features: mx.array) -> tuple[mx.array, mx.array]:
        """
        :param features: (batch, feature_dim)
        :return: (batch, latent_dim_pi) for the policy and (batch, latent_dim_vf) for the value
        """
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: mx.array) -> mx.array:
        """
        :param features: (batch, feature_dim)
        :return: (batch, latent_dim_pi)
        """
        return self.policy_net(features)

    def forward_critic(self, features: mx.array) -> mx.array:
        """
        :param features: (batch, feature_dim)
        :return: (batch, latent_dim_vf)
        """
        return self.value_net(features)


class CombinedExtractor(BaseFeaturesExtractor):
    """
    Features of a Dict observation: a NatureCNN for each image, the flattened value for the rest, side
    by side in the order of the space's keys.

    :param observation_space: a Dict space
    :param cnn_output_dim: features of each image
    :param normalized_image: as in :class:`NatureCNN`
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
    ) -> None:
        extractors: dict[str, nn.Module] = {}
        features_dim = 0
        for key, space in observation_space.spaces.items():
            if is_image_space(space, normalized_image=normalized_image):
                extractors[key] = NatureCNN(space, cnn_output_dim, normalized_image)
                features_dim += cnn_output_dim
            else:
                extractors[key] = Flatten()
                features_dim += get_flattened_obs_dim(space)
        super().__init__(observation_space, features_dim)
        self.extractors = ModuleDict(extractors)

    def forward(self, observations: TensorDict) -> mx.array:
        """
        :param observations: one array (batch, ...) per key
        :return: (batch, features_dim)
        """
        features = [extractor(observations[key]) for key, extractor in self.extractors.named_items()]
        return mx.concatenate(features, axis=1)


def get_actor_critic_arch(net_arch: list[int] | dict[str, list[int]]) -> tuple[list[int], list[int]]:
    """
    The hidden layers of actor and critic of an off-policy algorithm.

    :param net_arch: one list for both, or ``dict(pi=[…], qf=[…])``
    :return: units of the actor's and of the critic's hidden layers
    :raises AssertionError: if a dict lacks one of its two keys
    """
    if isinstance(net_arch, list):
        return net_arch, net_arch
    assert isinstance(net_arch, dict), f"net_arch must be a list of ints or a dict, got {net_arch!r}"
    for key, network in (("pi", "actor"), ("qf", "critic")):
        assert key in net_arch, f"net_arch has no key {key!r} for the {network} network: {net_arch!r}"
    return net_arch["pi"], net_arch["qf"]
