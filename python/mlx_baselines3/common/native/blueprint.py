"""Blueprints of policies: their networks and distributions, as Rust needs them to act and to learn."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, singledispatch
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlx_baselines3.common.distributions.state_dependent_noise import StateDependentNoiseDistribution
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.extractors import Codes, Features, as_columns
from mlx_baselines3.common.native.layers import Layer
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.threads import computing

Observations = np.ndarray | dict[str, np.ndarray]

# Methods of a distribution that decide which action is taken.
DRAWING = ("proba_distribution", "get_actions", "sample", "mode", "actions_from_params")


@dataclass(frozen=True, eq=False)
class Blueprint:
    """
    How a policy computes its actions.

    :param layers: the network
    :param head: ``categorical``, ``multi_categorical``, ``bernoulli``, ``gaussian``, ``squashed_gaussian``,
        ``state_dependent``, ``squashed_state_dependent``, ``deterministic``, ``epsilon_greedy`` or
        ``greedy_quantiles`` (the best choice: the caller explores)
    :param options: options of each choice (``multi_categorical``), or of the one (``greedy_quantiles``)
    :param log_std_owner: whose ``log_std`` are the logarithms of the standard deviations (``gaussian`` and
        ``state_dependent``)
    :param critic: the network of the values of the observations, if there is one
    :param noise: whose ``get_std`` turns ``log_std`` into standard deviations (``state_dependent``)
    :param draws_noise: whether Rust draws exploration matrices; if not, it takes those of ``noise``
    :param keys: those of Dict observations, which the network sees side by side in this order unless
        there are features
    :param codes: what turns integer observations into numbers, by key; the key of a single array is empty
    :param features: what the network sees of the observations: branches side by side, for each key one; none
        where it sees the observations as they are
    :param critic_features: the same for the critic; the very same object if the two share an extractor
    """

    layers: tuple[Layer, ...]
    head: str
    options: tuple[int, ...] = ()
    log_std_owner: Module | None = None
    critic: tuple[Layer, ...] = ()
    noise: StateDependentNoiseDistribution | None = None
    draws_noise: bool = True
    keys: tuple[str, ...] = ()
    codes: Codes = field(default_factory=dict)
    features: Features = ()
    critic_features: Features = ()

    @property
    def log_std(self) -> mx.array | None:
        """:return: logarithms of the standard deviations as they are now, if there are any"""
        return None if self.log_std_owner is None else self.log_std_owner.log_std

    def shares_features(self) -> bool:
        """:return: whether actor and critic have one features extractor"""
        return bool(self.features) and self.critic_features is self.features

    def without_features(self) -> "Blueprint":
        """:return: what follows the features extractor of the actor"""
        return replace(self, features=(), critic_features=(), keys=(), codes={})

    def of_critic(self) -> "Blueprint":
        """:return: the network of the values, behind a features extractor that both share"""
        if self.shares_features():
            return Blueprint(self.critic, "deterministic")
        features, keys, codes = self.critic_features, self.keys, self.codes
        return Blueprint(self.critic, "deterministic", keys=keys, codes=codes, features=features)

    def check_critic(self) -> None:
        """:raises NotNative: if weights of the value network are not float32"""
        linears = (linear for layer in self.critic for linear in layer.linears)
        if any(
            linear[key].dtype != mx.float32
            for linear in linears
            for key in ("weight", "bias")
            if key in linear
        ):
            raise NotNative("its weights are not float32")

    def columns(self, observations: Any, batch_axes: int = 1) -> list[np.ndarray]:
        """
        :param observations: an array, or one for each key
        :param batch_axes: how many axes come before those of an observation
        :return: what the extractor takes, or the network where there is none: arrays (rows, numbers)
        """
        keys = self.keys if isinstance(observations, dict) else ()
        if self.codes:
            observations = self._encoded(observations, batch_axes)
        if self.features:
            arrays = as_columns(observations, keys)
        else:
            arrays = [np.ascontiguousarray(side_by_side(observations, keys, batch_axes), np.float32)]
        return [array.reshape(math.prod(array.shape[:batch_axes]), -1) for array in arrays]

    def _encoded(self, observations: Any, batch_axes: int) -> Any:
        """The observations with codes in place of integers."""
        if not isinstance(observations, dict):
            return self.codes[""].encode(observations, batch_axes)
        codes = {key: code.encode(observations[key], batch_axes) for key, code in self.codes.items()}
        return {**observations, **codes}

    def flat_columns(self, observations: Any, batch_axes: int = 1) -> list[np.ndarray]:
        """
        :param observations: as :meth:`columns` takes them
        :param batch_axes: as :meth:`columns` takes it
        :return: the same arrays with one axis
        """
        return [column.reshape(-1) for column in self.columns(observations, batch_axes)]

    def rows(self, observations: Any) -> Observations:
        """
        :param observations: (steps, n_envs, ...) an array, or one for each key
        :return: the same with one axis of rows
        """
        if isinstance(observations, dict) and (self.features or self.codes):
            return {key: array.reshape(-1, *array.shape[2:]) for key, array in observations.items()}
        array = side_by_side(observations, self.keys, batch_axes=2)
        return array.reshape(-1, *array.shape[2:])

    def stacked(self, observations: Sequence[Observations]) -> Observations:
        """
        :param observations: single ones
        :return: a batch of them
        """
        batches: dict[str, Any] = {key: [one[key] for one in observations] for key in self.keys}
        if batches:
            return {key: np.stack(batch) for key, batch in batches.items()}
        return np.stack([np.asarray(one) for one in observations])

    def deviations(self) -> np.ndarray:
        """
        :return: the standard deviations of a ``state_dependent`` head, row after row; their logarithms of a
            ``gaussian`` one; none of others
        """
        if self.log_std is None:
            return np.empty(0, np.float32)
        if self.noise is None:
            return to_numpy(self.log_std).ravel()
        # A computation, for which a forked child may have no thread.
        with computing():
            return to_numpy(self.noise.get_std(self.log_std)).ravel()

    def arrays(self) -> list[mx.array]:
        """:return: every array of the policy that the actions depend on"""
        try:
            return [*map(dict.__getitem__, *self._places)]
        except KeyError:
            # A bias that was taken away; the policy is read again before it is used.
            return [holder[key] for holder, key in zip(*self._places, strict=True) if key in holder]

    @cached_property
    def _places(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The modules with the arrays, and their names there."""
        owner = self.log_std_owner
        parts = [linear for layer in self.layers for linear in layer.linears]
        parts += [module for branch in self.features for module in branch.modules()]
        places = [(part, key) for part in parts for key in ("weight", "bias") if key in part]
        if owner is not None:
            places.insert(0, (owner, "log_std"))
        return [holder for holder, _ in places], [key for _, key in places]

    def has_modules_of(self, other: "Blueprint") -> bool:
        """
        :param other: a blueprint
        :return: whether it has the same head and the same module objects in the same places
        """
        if (self.head, self.options, len(self.layers)) != (other.head, other.options, len(other.layers)):
            return False
        return all(
            len(a.linears) == len(b.linears)
            and all(map(operator.is_, a.linears, b.linears))
            and a[1:] == b[1:]
            for a, b in zip(self.layers, other.layers, strict=True)
        ) and _same_modules(self.features, other.features)

    def shape(self) -> tuple[Any, ...]:
        """:return: everything except for the weights, for comparison"""
        layers = [
            (layer.linears[0].weight.shape[1], sum(linear.weight.shape[0] for linear in layer.linears))
            + layer[1:]
            for layer in self.layers
        ]
        spread = () if self.noise is None else (self.noise.use_expln, self.noise.full_std)
        features = [branch.shape() for branch in self.features]
        return (layers, self.head, list(self.options), features, *spread)


def _same_modules(features: Features, others: Features) -> bool:
    if features is others:
        return True
    if len(features) != len(others):
        return False
    return all(
        a.shape() == b.shape() and all(map(operator.is_, a.modules(), b.modules()))
        for a, b in zip(features, others, strict=True)
    )


@singledispatch
def blueprint(policy: Any) -> Blueprint:
    """
    :param policy: a policy
    :return: how it computes its actions
    :raises NotNative: it does more than an MLP behind a features extractor can
    """
    raise NotNative(f"{type(policy).__name__} has no native form")


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
