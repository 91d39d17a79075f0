"""ONNX export of policies; import it from :mod:`~mlx_baselines3.export`."""

from __future__ import annotations

import io
import pathlib
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3._version import __version__
from mlx_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from mlx_baselines3.common.formats.archive import atomic_open
from mlx_baselines3.common.formats.paths import open_path
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.policies.actor_critic import ActorCriticPolicy
from mlx_baselines3.common.preprocessing import is_image_space
from mlx_baselines3.common.torch_layers import MlpExtractor
from mlx_baselines3.contrib.ars.policies import ARSPolicy
from mlx_baselines3.contrib.common.maskable.policies import MaskableActorCriticPolicy
from mlx_baselines3.contrib.common.recurrent.lstm import LSTM
from mlx_baselines3.contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from mlx_baselines3.contrib.common.torch_layers import BatchRenorm1d
from mlx_baselines3.contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from mlx_baselines3.dqn.policies import DQNPolicy, QNetwork
from mlx_baselines3.export.onnx_graph import Graph, NotInONNX, clip, emit
from mlx_baselines3.sac import policies as sac
from mlx_baselines3.td3 import policies as td3

if TYPE_CHECKING:
    from mlx_baselines3.common.base_class import BaseAlgorithm

__all__ = ["export_onnx"]

# Operator set 17 and IR version 8 are supported by all runtimes of recent years.
_OPSET, _FILE_VERSION = 17, 8


def export_onnx(model: BaseAlgorithm, path: str | pathlib.Path | io.BufferedIOBase) -> None:
    """
    Write a model's deterministic actions as ONNX, for deployment.

    The graph takes batches of any size of the observations of ``predict(observation, deterministic=True)``:
    ``obs``, or one input per key of a Dict space, in the dtype of the space, images channel-first. It returns
    ``actions`` inside the action space. Image scaling, one-hot encoding, clipping and unscaling are part of
    the graph; ``VecNormalize`` is not.

    The graph of a MaskablePPO also takes ``action_masks`` ``(batch, choices)``, booleans. That of a
    RecurrentPPO takes ``hidden_state`` and ``cell_state`` ``(layers, batch, hidden)``, zeros at first, and
    ``episode_start`` ``(batch,)``, booleans; it returns ``next_hidden_state`` and ``next_cell_state``.

    :param model: the algorithm
    :param path: the file (".onnx" is added if there is no suffix) or an open binary file
    :raises NotInONNX: the policy has a part that is neither this package's nor MLX's; the message names it
    :raises ImportError: the package onnx is not installed
    """
    graph = Graph()
    policy: Any = model.policy
    space = policy.observation_space
    is_dict = isinstance(space, spaces.Dict)
    parts = dict(space.spaces) if is_dict else {"obs": space}
    if "actions" in parts:
        raise NotInONNX("the observation space has a key 'actions', which is the name of the output")
    prepared = {key: _prepare(graph, key, part, policy) for key, part in parts.items()}
    try:
        raw = _actions(policy, graph, prepared if is_dict else prepared["obs"])
    except NotNative as error:
        raise NotInONNX(f"{error}, which the file would not contain") from error
    _finish(graph, raw, policy)
    contents = _file(graph, parts, policy.action_space).SerializeToString()
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path, model.verbose, suffix="onnx") as stream:
            stream.write(contents)
    else:
        open_path(path, "w", model.verbose).write(contents)


def _prepare(graph: Graph, name: str, space: spaces.Space[Any], policy: Any) -> str:
    """Counterpart of ``preprocess_obs``."""
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        value = graph.cast(name, np.float32)
        if isinstance(space, spaces.Box) and policy.normalize_images and is_image_space(space):
            value = graph.add("Div", value, graph.constant(np.float32(255)))
        return value
    if isinstance(space, spaces.Discrete):
        column = graph.add("Unsqueeze", graph.cast(name, np.int64), graph.constant(np.array([1])))
        return graph.one_hot(column, np.arange(space.start, space.start + space.n))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(size) for size in space.nvec]
        starts = [int(start) for start in getattr(space, "start", np.zeros(len(sizes)))]
        columns = graph.constant(np.repeat(np.arange(len(sizes)), sizes))
        codes = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)])
        return graph.one_hot(graph.add("Gather", graph.cast(name, np.int64), columns, axis=1), codes)
    raise NotInONNX(f"observations of {space} cannot be exported to ONNX")


@singledispatch
def _actions(policy: Any, graph: Graph, obs: Any) -> str:
    """
    :param policy: a policy
    :param graph: graph to append its networks to
    :param obs: name of the preprocessed observations, or names by key
    :return: name of (batch, ...) deterministic actions before clipping or unscaling
    """
    raise NotInONNX(f"a {type(policy).__name__} cannot be exported to ONNX")


def _choices(graph: Graph, logits: str, sizes: list[int]) -> str:
    """The likeliest choice of each component of an action."""
    ends = np.cumsum(sizes).tolist()
    parts = [graph.columns(logits, end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return graph.add("Concat", *(graph.add("ArgMax", p, axis=1, keepdims=1) for p in parts), axis=1)


@_actions.register
def _maskable(policy: MaskableActorCriticPolicy, graph: Graph, obs: Any) -> str:
    own = ("predict", "_predict", "get_distribution", "_get_action_dist_from_latent", "extract_features")
    check_unchanged(policy, MaskableActorCriticPolicy, own)
    check_unchanged(policy.mlp_extractor, MlpExtractor, ("forward_actor",))
    features = emit(policy.pi_features_extractor, graph, obs)
    logits = emit(policy.action_net, graph, emit(policy.mlp_extractor.policy_net, graph, features))
    sizes = policy.mask_groups
    masks = graph.input("action_masks", np.bool_, ["batch", sum(sizes)])
    logits = graph.add("Where", masks, logits, graph.constant(np.float32(-1e8)))
    if isinstance(policy.action_space, spaces.Discrete):
        return graph.add("ArgMax", logits, axis=1, keepdims=0)
    choices = _choices(graph, logits, sizes)
    # predict() returns integers, but for MultiBinary the file has floats.
    return graph.cast(choices, np.float32) if isinstance(policy.action_space, spaces.MultiBinary) else choices


def _lstm(graph: Graph, lstm: LSTM, value: str) -> str:
    """One step of an LSTM, whose states are inputs and outputs of the file."""
    shape = [lstm.num_layers, "batch", lstm.hidden_size]
    states = [graph.input(name, np.float32, shape) for name in ("hidden_state", "cell_state")]
    starts = graph.input("episode_start", np.bool_, ["batch"])
    keep = graph.cast(graph.add("Not", starts), np.float32)
    keep = graph.add("Unsqueeze", keep, graph.constant(np.array([1])))
    after: list[list[str]] = [[], []]
    for layer in range(lstm.num_layers):
        index = graph.constant(np.array(layer))
        hidden, cell = (graph.add("Mul", graph.add("Gather", s, index, axis=0), keep) for s in states)
        products = []
        for name, taken in (("ih", value), ("hh", hidden)):
            inputs = [graph.constant(to_numpy(getattr(lstm, f"weight_{name}_l{layer}")))]
            if lstm.has_bias:
                inputs.append(graph.constant(to_numpy(getattr(lstm, f"bias_{name}_l{layer}"))))
            products.append(graph.add("Gemm", taken, *inputs, transB=1))
        gates = graph.add("Add", *products)
        size = lstm.hidden_size
        parts = [graph.columns(gates, i * size, (i + 1) * size) for i in range(4)]
        i, f, o = (graph.add("Sigmoid", parts[k]) for k in (0, 1, 3))
        new = graph.add("Mul", i, graph.add("Tanh", parts[2]))
        cell = graph.add("Add", graph.add("Mul", f, cell), new)
        value = graph.add("Mul", o, graph.add("Tanh", cell))
        for states_after, state in zip(after, (value, cell), strict=True):
            states_after.append(graph.add("Unsqueeze", state, graph.constant(np.array([0]))))
    for name, parts in zip(("next_hidden_state", "next_cell_state"), after, strict=True):
        graph.output(name, graph.add("Concat", *parts, axis=0), np.float32, shape)
    return value


@_actions.register
def _recurrent(policy: RecurrentActorCriticPolicy, graph: Graph, obs: Any) -> str:
    own = ("predict", "_predict", "get_distribution", "_process_sequence", "extract_features")
    check_unchanged(policy, RecurrentActorCriticPolicy, own)
    latent = _lstm(graph, policy.lstm_actor, emit(policy.pi_features_extractor, graph, obs))
    return _head(policy, graph, latent)


@_actions.register
def _actor_critic(policy: ActorCriticPolicy, graph: Graph, obs: Any) -> str:
    own = ("predict", "_predict", "get_distribution", "_get_action_dist_from_latent", "extract_features")
    check_unchanged(policy, ActorCriticPolicy, own)
    return _head(policy, graph, emit(policy.pi_features_extractor, graph, obs))


def _head(policy: ActorCriticPolicy, graph: Graph, features: str) -> str:
    """The most likely actions, by the features of a policy."""
    check_unchanged(policy, ActorCriticPolicy, ("_get_action_dist_from_latent",))
    check_unchanged(policy.mlp_extractor, MlpExtractor, ("forward_actor",))
    value = emit(policy.action_net, graph, emit(policy.mlp_extractor.policy_net, graph, features))
    dist = policy.action_dist
    if isinstance(dist, CategoricalDistribution):
        return graph.add("ArgMax", value, axis=1, keepdims=0)
    if isinstance(dist, MultiCategoricalDistribution):
        return _choices(graph, value, dist.action_dims)
    if isinstance(dist, BernoulliDistribution):
        return graph.cast(graph.add("Greater", value, graph.constant(np.float32(0))), np.float32)
    if isinstance(dist, StateDependentNoiseDistribution) and dist.bijector is not None:
        return graph.add("Tanh", value)
    return value


@_actions.register
def _dqn(policy: DQNPolicy, graph: Graph, obs: Any) -> str:
    check_unchanged(policy, DQNPolicy, ("predict", "_predict"))
    check_unchanged(policy.q_net, QNetwork, ("_predict", "__call__", "forward", "extract_features"))
    values = emit(policy.q_net.q_net, graph, emit(policy.q_net.features_extractor, graph, obs))
    return graph.add("ArgMax", values, axis=1, keepdims=0)


@emit.register
def _batch_renorm(module: BatchRenorm1d, graph: Graph, value: str) -> str:
    """By the running averages, as in evaluation: one factor and one summand for each unit."""
    check_unchanged(module, BatchRenorm1d, ("__call__", "forward"))
    mean, var, scale, bias = (to_numpy(module[key]) for key in ("ra_mean", "ra_var", "scale", "bias"))
    factor = 1 / np.sqrt(var + np.float32(module.eps))
    factor, shift = (factor * scale, bias) if module.affine else (factor, np.zeros_like(bias))
    value = graph.add("Sub", value, graph.constant(mean))
    return graph.add("Add", graph.add("Mul", value, graph.constant(factor)), graph.constant(shift))


@_actions.register
def _ars(policy: ARSPolicy, graph: Graph, obs: Any) -> str:
    check_unchanged(policy, ARSPolicy, ("predict", "_predict", "__call__", "forward", "extract_features"))
    outputs = emit(policy.action_net, graph, emit(policy.features_extractor, graph, obs))
    if isinstance(policy.action_space, spaces.Box):
        return outputs
    return graph.add("ArgMax", outputs, axis=1, keepdims=0)


@_actions.register
def _qrdqn(policy: QRDQNPolicy, graph: Graph, obs: Any) -> str:
    network = policy.quantile_net
    check_unchanged(policy, QRDQNPolicy, ("predict", "_predict"))
    check_unchanged(network, QuantileNetwork, ("_predict", "__call__", "forward", "extract_features"))
    quantiles = emit(network.quantile_net, graph, emit(network.features_extractor, graph, obs))
    shape = graph.constant(np.array([-1, network.n_quantiles, int(network.action_space.n)]))
    means = graph.add("ReduceMean", graph.add("Reshape", quantiles, shape), axes=[1], keepdims=0)
    return graph.add("ArgMax", means, axis=1, keepdims=0)


@_actions.register
def _sac(policy: sac.SACPolicy, graph: Graph, obs: Any) -> str:
    actor = policy.actor
    check_unchanged(policy, sac.SACPolicy, ("predict", "_predict"))
    own = ("__call__", "forward", "get_action_dist_params", "extract_features")
    check_unchanged(actor, sac.Actor, own)
    value = emit(actor.latent_pi, graph, emit(actor.features_extractor, graph, obs))
    layers = list(actor.mu.layers()) if isinstance(actor.mu, Sequential) else [actor.mu]
    for layer in layers:
        if isinstance(layer, sac.HardTanh):
            value = clip(graph, value, -layer.limit, layer.limit)
        else:
            value = emit(layer, graph, value)
    return graph.add("Tanh", value)


@_actions.register
def _td3(policy: td3.TD3Policy, graph: Graph, obs: Any) -> str:
    actor = policy.actor
    check_unchanged(policy, td3.TD3Policy, ("predict", "_predict"))
    check_unchanged(actor, td3.Actor, ("__call__", "forward", "extract_features"))
    return emit(actor.mu, graph, emit(actor.features_extractor, graph, obs))


def _finish(graph: Graph, value: str, policy: Any) -> None:
    """Shape and bounds of the action space, under the name of the output."""
    space = policy.action_space
    if isinstance(space, spaces.Box):
        shape = graph.constant(np.array([-1, *space.shape]))
        dtype = _box_dtype(space)
        value = graph.cast(graph.add("Reshape", value, shape), dtype)
        low, high = (np.asarray(bound, dtype) for bound in (space.low, space.high))
        if policy.squash_output:
            half = graph.constant(np.asarray(0.5 * (high - low), dtype))
            one = graph.constant(np.ones((), dtype))
            value = graph.add("Mul", graph.add("Add", value, one), half)
            value = graph.add("Add", value, graph.constant(low))
        else:
            value = graph.add("Max", value, graph.constant(low))
            value = graph.add("Min", value, graph.constant(high))
    graph.nodes[-1].output[0] = "actions"


def _box_dtype(space: spaces.Box) -> Any:
    """dtype of predict(): float also for integer spaces."""
    return space.dtype if space.dtype.kind == "f" else np.result_type(space.dtype, np.float32)


def _file(graph: Graph, parts: dict[str, spaces.Space[Any]], action_space: spaces.Space[Any]) -> Any:
    onnx = graph.onnx
    helper = onnx.helper

    def tensor(name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    def further(name: str, dtype: Any, shape: list[Any]) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [tensor(name, space.dtype, space.shape or ()) for name, space in parts.items()]
    # predict() returns MultiBinary actions as float32.
    dtype: Any = np.float32 if isinstance(action_space, spaces.MultiBinary) else np.int64
    if isinstance(action_space, spaces.Box):
        dtype = _box_dtype(action_space)
    output = tensor("actions", dtype, action_space.shape or ())
    inputs += [further(*described) for described in graph.inputs]
    outputs = [output, *(further(*described) for described in graph.outputs)]
    made = helper.make_graph(graph.nodes, "policy", inputs, outputs, graph.constants)

    file = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_FILE_VERSION,
        producer_name="mlx-baselines3",
        producer_version=__version__,
    )
    onnx.checker.check_model(file, full_check=True)
    return file
