"""Recurrent policies that act in Rust: the LSTMs step there, and the MLPs behind them are a native actor."""

import operator
import threading
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_baselines3 import _native
from mlx_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from mlx_baselines3.common.native.actor import DRAWING, Blueprint, Layer, NativeActor, mlp_layers, observed
from mlx_baselines3.common.native.blueprint import Observations
from mlx_baselines3.common.native.eligibility import NotNative, check_parts, check_unchanged
from mlx_baselines3.common.native.snapshot import Remembered, Snapshot
from mlx_baselines3.common.nn.threads import tracing
from mlx_baselines3.common.torch_layers import MlpExtractor
from mlx_baselines3.contrib.common.recurrent.lstm import LSTM
from mlx_baselines3.contrib.common.recurrent.policies import RecurrentActorCriticPolicy, predict_natively

__all__ = ["MemoryPlan", "NativeMemory", "memory_plan", "native_memory", "places_of"]

_HEADS: dict[type, str] = {
    CategoricalDistribution: "categorical",
    MultiCategoricalDistribution: "multi_categorical",
    BernoulliDistribution: "bernoulli",
    DiagGaussianDistribution: "gaussian",
}
# Methods that a subclass may override, so that the layers alone do not determine actions and values.
_DECISIVE = (
    "__call__", "forward", "_recall", "_process_sequence", "_predict", "evaluate_actions", "get_distribution",
    "predict_values", "extract_features", "obs_to_tensor", "_get_action_dist_from_latent",
)  # fmt: skip
_ARRAYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class MemoryPlan(NamedTuple):
    """
    How a recurrent policy computes actions and values.

    :param behind: what is behind the LSTMs, the actor's and the critic's layers
    :param actor: the LSTM of the actor
    :param critic: the LSTM of the critic, if it has its own
    :param critic_sees_actor: the critic takes what the actor's LSTM gives; else, without an LSTM of its own,
        the observations
    """

    behind: Blueprint
    actor: LSTM
    critic: LSTM | None
    critic_sees_actor: bool

    def arrays(self) -> list[mx.array]:
        """:return: every array that actions and values depend on"""
        lstms = [lstm for lstm in (self.actor, self.critic) if lstm is not None]
        own = [array for lstm in lstms for array in arrays_of(lstm)]
        return [*own, *self.behind.arrays(), *self.behind.of_critic().arrays()]


def arrays_of(lstm: LSTM) -> list[mx.array]:
    """
    :param lstm: an LSTM
    :return: its parameters, layer after layer
    """
    names = _ARRAYS if lstm.has_bias else _ARRAYS[:2]
    return [getattr(lstm, f"{name}_l{layer}") for layer in range(lstm.num_layers) for name in names]


def places_of(lstm: LSTM, place: Any) -> "_native.LstmSpec":
    """
    :param lstm: an LSTM
    :param place: says where its parameter of some name lies in a vector
    :return: the same as ``_native`` takes it
    """
    names = _ARRAYS if lstm.has_bias else _ARRAYS[:2]
    empty: dict[str, Any] = dict.fromkeys(_ARRAYS)
    layers: Any = [
        {**empty, **{name: place(f"{name}_l{layer}") for name in names}} for layer in range(lstm.num_layers)
    ]
    return {"inputs": lstm.input_size, "hidden": lstm.hidden_size, "layers": layers}


def memory_plan(policy: Any) -> MemoryPlan:
    """
    :param policy: a recurrent policy
    :return: how it computes actions and values
    :raises NotNative: only MLX can
    """
    dist = policy.action_dist
    head = _HEADS.get(type(dist))
    if head is None:
        raise NotNative(f"the actions follow a {type(dist).__name__}")
    check_unchanged(policy, RecurrentActorCriticPolicy, _DECISIVE)
    check_unchanged(dist, type(dist), (*DRAWING, "log_prob"))
    mlp = policy.mlp_extractor
    check_parts((mlp, MlpExtractor), (policy.action_net, nn.Linear), (policy.value_net, nn.Linear))
    check_unchanged(mlp, MlpExtractor, ("__call__", "forward", "forward_actor", "forward_critic"))
    for lstm in (policy.lstm_actor, policy.lstm_critic):
        if lstm is not None:
            check_parts((lstm, LSTM))
            check_unchanged(lstm, LSTM, ("__call__", "forward", "_layer"))
            if lstm.dropout:
                raise NotNative("the LSTM has a dropout")
    keys, codes, features = observed(policy, policy.pi_features_extractor, policy.vf_features_extractor)
    if any(features):
        raise NotNative("the LSTM is behind a features extractor with layers")
    first: list[Layer] = []
    if policy.critic is not None:
        check_parts((policy.critic, nn.Linear))
        first = [Layer((policy.critic,))]
    behind = Blueprint(
        layers=(*mlp_layers(mlp.policy_net), Layer((policy.action_net,))),
        head=head,
        options=tuple(dist.action_dims) if isinstance(dist, MultiCategoricalDistribution) else (),
        log_std_owner=policy if head == "gaussian" else None,
        critic=(*first, *mlp_layers(mlp.value_net), Layer((policy.value_net,))),
        keys=keys,
        codes=codes,
    )
    return MemoryPlan(behind, policy.lstm_actor, policy.lstm_critic, policy.shared_lstm)


class NativeMemory:
    """
    A recurrent policy that acts in Rust.

    States are hidden and cell states ``(layers, batch, hidden)`` of NumPy.

    :param plan: how the policy computes actions and values
    """

    def __init__(self, plan: MemoryPlan):
        self.plan = plan
        # Observations go through the LSTMs; what follows these takes arrays.
        self.actor = NativeActor(plan.behind.without_features())
        self._lstms = [_native.Lstm(_consecutive(lstm)) for lstm in (plan.actor, plan.critic) if lstm]
        self._arrays: list[mx.array] = []
        # One workspace: threads take turns.
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Take over the weights that have changed."""
        with self._lock:
            arrays = self.plan.arrays()
            if len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays)):
                return
            mx.eval(arrays)
            self._arrays = arrays
            self.actor.refresh(self.plan.behind.without_features())
            for native, lstm in zip(self._lstms, filter(None, self.plan[1:3]), strict=True):
                native.load(np.concatenate([np.asarray(array).reshape(-1) for array in arrays_of(lstm)]))

    def rows(self, obs: Observations) -> np.ndarray:
        """
        :param obs: (batch, ...) observations, for a Dict space a dictionary of them
        :return: (batch, inputs) what the LSTMs take
        """
        (rows,) = self.plan.behind.columns(obs)
        return rows

    def _step(self, index: int, rows: np.ndarray, states: Any, starts: Any) -> tuple[np.ndarray, Any]:
        """:return: what an LSTM gives, and its states after the step"""
        keep = 1 - np.asarray(starts, np.float32)[:, None]
        after = tuple(np.ascontiguousarray(part, np.float32) * keep for part in states)
        return self._lstms[index].step(rows, *after), after

    def act(
        self, obs: Observations, states: Any, starts: Any, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """
        :param obs: (batch, ...) observations
        :param states: the actor's before the step
        :param starts: (batch,) where a new episode begins
        :param deterministic: the most likely actions instead of random ones
        :return: (batch, action_dim) actions before clipping, and the states after the step
        """
        with self._lock:
            latent, after = self._step(0, self.rows(obs), states, starts)
            return self.actor.act(latent, deterministic), after

    def values(self, obs: Observations, states: Any, starts: Any) -> np.ndarray:
        """
        :param obs: (batch, ...) observations
        :param states: the critic's before the step
        :param starts: (batch,) where a new episode begins
        :return: (batch, 1) their values
        """
        with self._lock:
            rows = self.rows(obs)
            if self.plan.critic is not None or self.plan.critic_sees_actor:
                rows, _ = self._step(len(self._lstms) - 1, rows, states, starts)
            return self.actor.critic().outputs(rows)

    def infer(self, obs: Observations, states: Any, starts: Any) -> tuple[np.ndarray, ...]:
        """
        One step of a rollout.

        :param obs: (batch, ...) observations
        :param states: the actor's and the critic's before the step
        :param starts: (batch,) where a new episode begins
        :return: (batch, action_dim) actions before clipping, (batch, 1) values, (batch,) log-likelihoods, and
            the states of actor and critic after the step
        """
        with self._lock:
            rows = self.rows(obs)
            latent, after_pi = self._step(0, rows, states[0], starts)
            seen, after_vf = (latent, after_pi) if self.plan.critic_sees_actor else (rows, after_pi)
            if self.plan.critic is not None:
                seen, after_vf = self._step(1, rows, states[1], starts)
            actions = self.actor.act(latent)
            log_probs = self.actor.log_probs(latent, actions)
            assert log_probs is not None
            return actions, self.actor.critic().outputs(seen), log_probs, after_pi, after_vf


def _consecutive(lstm: LSTM) -> "_native.LstmSpec":
    """The places of parameters that lie one after the other, as :func:`arrays_of` gives them."""
    end = 0
    places: dict[str, int] = {}
    names = _ARRAYS if lstm.has_bias else _ARRAYS[:2]
    for layer in range(lstm.num_layers):
        for name in names:
            places[f"{name}_l{layer}"] = end
            end += getattr(lstm, f"{name}_l{layer}").size
    return places_of(lstm, places.__getitem__)


def native_memory(policy: Any) -> NativeMemory:
    """
    The native form of a recurrent policy, with its present weights.

    :param policy: a recurrent policy
    :return: always the same one for the same policy, unless its layers are replaced
    :raises NotNative: only MLX can run the policy; the message says why
    """
    # Another thread may be tracing an update of the same networks.
    with tracing:
        known: Remembered | None = vars(policy).get("_remembered_memory")
        if known is None or not known.is_current(policy):
            # There before the snapshot is taken, which counts attributes.
            known = vars(policy)["_remembered_memory"] = Remembered()
            try:
                memory: Any = NativeMemory(memory_plan(policy))
            except NotNative as reason:
                memory = str(reason)
            known.actor = memory
            known.snapshot = Snapshot(policy)
        if isinstance(known.actor, str):
            raise NotNative(known.actor)
        found: Any = known.actor
        assert isinstance(found, NativeMemory)
        found.refresh()
        return found


@predict_natively.register
def _predict_natively(
    policy: RecurrentActorCriticPolicy,
    observation: Any,
    deterministic: bool,
    state: Any,
    episode_start: Any,
    memory: list[Any],
) -> tuple[np.ndarray, bool] | None:
    try:
        native = native_memory(policy)
    except NotNative:
        return None
    rows, is_batch = policy._batch_of(observation)
    n_rows = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    states, starts = policy.check_memory(state, episode_start, n_rows)
    actions, after = native.act(rows, states, starts, deterministic)
    memory += after
    return actions, is_batch
