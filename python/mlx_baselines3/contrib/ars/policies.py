"""The policies of ARS: a linear one, and an MLP."""

from typing import Any

import mlx.core as mx
from gymnasium import spaces
from mlx import nn

from mlx_baselines3.common.native.actor import Blueprint, blueprint, mlp_layers, observed
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.layers import Sequential, named_parameters
from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.preprocessing import get_action_dim
from mlx_baselines3.common.torch_layers import create_mlp
from mlx_baselines3.common.type_aliases import PyTorchObs

__all__ = [
    "ARSLinearPolicy",
    "ARSPolicy",
    "BasePolicy",
    "LinearPolicy",
    "MlpPolicy",
    "PyTorchObs",
    "create_mlp",
    "get_action_dim",
]


class ARSPolicy(BasePolicy):
    """
    A deterministic policy: an MLP whose outputs are the action, or whose largest output is.

    :param observation_space: space of one observation
    :param action_space: a Box or a Discrete space
    :param net_arch: units of the hidden layers; two of 64 by default
    :param activation_fn: class of the activations
    :param with_bias: whether the layers have biases
    :param squash_output: of a Box: scale tanh of the outputs to its bounds instead of clipping the outputs
    :raises NotImplementedError: the action space is of another kind
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        with_bias: bool = True,
        squash_output: bool = True,
    ) -> None:
        is_box = isinstance(action_space, spaces.Box)
        super().__init__(observation_space, action_space, squash_output=is_box and squash_output)
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.with_bias = with_bias
        self.features_extractor = self.make_features_extractor()
        self.features_dim = self.features_extractor.features_dim
        if is_box:
            outputs = get_action_dim(action_space)
        elif isinstance(action_space, spaces.Discrete):
            outputs = int(action_space.n)
        else:
            raise NotImplementedError(
                f"ARS has no policy for actions of {action_space}; it takes Box and Discrete spaces."
            )
        layers = create_mlp(
            self.features_dim, outputs, self.net_arch, activation_fn, self.squash_output, with_bias
        )
        self.action_net = Sequential(*layers)
        mx.eval(named_parameters(self))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "with_bias": self.with_bias,
            "squash_output": self.squash_output,
        }

    def forward(self, obs: PyTorchObs) -> mx.array:
        """
        :param obs: (batch, ...) observations
        :return: (batch, action_dim) actions before they are scaled or clipped, or (batch,) choices
        """
        outputs = self.action_net(self.extract_features(obs, self.features_extractor))
        if isinstance(self.action_space, spaces.Box):
            return outputs
        return outputs.argmax(axis=1).astype(mx.int64)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> mx.array:
        return self(observation)


class ARSLinearPolicy(ARSPolicy):
    """
    A linear policy.

    :param observation_space: space of one observation
    :param action_space: a Box or a Discrete space
    :param with_bias: whether there are biases
    :param squash_output: of a Box: scale tanh of the outputs to its bounds instead of clipping the outputs
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        with_bias: bool = False,
        squash_output: bool = False,
    ) -> None:
        super().__init__(
            observation_space, action_space, net_arch=[], with_bias=with_bias, squash_output=squash_output
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        return {key: parameters[key] for key in parameters.keys() - {"net_arch", "activation_fn"}}


MlpPolicy = ARSPolicy
LinearPolicy = ARSLinearPolicy


@blueprint.register
def _ars_blueprint(policy: ARSPolicy) -> Blueprint:
    methods = ("__call__", "forward", "predict", "_predict", "obs_to_tensor", "extract_features")
    check_unchanged(policy, ARSPolicy, methods)
    keys, codes, (features,) = observed(policy, policy.features_extractor)
    is_box = isinstance(policy.action_space, spaces.Box)
    head = "deterministic" if is_box else "epsilon_greedy"
    return Blueprint(tuple(mlp_layers(policy.action_net)), head, keys=keys, codes=codes, features=features)
