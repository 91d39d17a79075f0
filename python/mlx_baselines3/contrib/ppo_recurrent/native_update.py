"""The gradient steps of RecurrentPPO in Rust."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_baselines3 import _native
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.native.vectors import TrainedVector, flat
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.training.native_on_policy import HEADS, NativeOnPolicyUpdate
from mlx_baselines3.contrib.common.recurrent.buffers import STATES
from mlx_baselines3.contrib.common.recurrent.native_memory import memory_plan, places_of

__all__ = ["NativeRecurrentUpdate"]


class NativeRecurrentUpdate(NativeOnPolicyUpdate):
    """
    The gradient steps of RecurrentPPO.

    :param policy: policy and value function
    :param optimizer: its optimizer
    :param env_rows: rows of one environment in a rollout
    :raises NotNative: there is no native form of them
    """

    def __init__(self, policy: Any, optimizer: ParameterOptimizer, env_rows: int):
        plan = memory_plan(policy)
        dist = policy.action_dist
        check_unchanged(dist, type(dist), ("entropy",))
        self._vector = vector = TrainedVector(policy, optimizer)
        self._plan, self._env_rows = plan.behind, env_rows
        behind = plan.behind
        head = HEADS[behind.head]
        outputs = sum(linear.weight.shape[0] for linear in behind.layers[-1].linears)

        def spec(name: str) -> "_native.LstmSpec":
            return places_of(getattr(policy, name), lambda key: vector.places[f"{name}.{key}"])

        self._core: Any = _native.RecurrentUpdate(
            spec("lstm_actor"),
            vector.layer_plans(behind.layers),
            None if plan.critic is None else spec("lstm_critic"),
            vector.layer_plans(behind.critic),
            plan.critic_sees_actor,
            head,
            list(behind.options) or [outputs],
            vector.places["log_std"] if head == "gaussian" else 0,
            optimizer.size,
        )

    def _data(self, rollout: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
        memory = {name: flat(rollout[name]) for name in (*STATES, "episode_starts")}
        return *super()._data(rollout), {**memory, "env_rows": self._env_rows}
