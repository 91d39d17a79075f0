"""The gradient steps of TRPO's value function in Rust."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from mlx_baselines3.common.training.native_on_policy import NativeOnPolicyUpdate

__all__ = ["NativeCriticUpdate"]


class NativeCriticUpdate(NativeOnPolicyUpdate):
    """
    A2C's gradient steps where nothing is an advantage: the policy's gradient is 0, and the value function
    learns alone. The two must share no parameters. Arguments as its base.
    """

    def run(
        self,
        rollout: Mapping[str, np.ndarray],
        orders: Iterable[np.ndarray],
        batch_size: int | None,
        settings: Mapping[str, float],
        normalize: bool,
    ) -> list[dict[str, np.ndarray]]:
        """
        Go over a rollout several times.

        :param rollout: the columns of a rollout buffer, flattened
        :param orders: for each pass (rows,) uint32, the rows in their order
        :param batch_size: rows of a gradient step
        :param settings: not used
        :param normalize: not used
        :return: for each pass ``value_loss`` among others, (minibatches,) float64
        :raises FloatingPointError: if a loss or a parameter is nan or infinite; nothing has changed then
        """
        columns = {**rollout, "advantages": np.zeros_like(rollout["advantages"])}
        objective = {"ent_coef": 0.0, "vf_coef": 1.0, "max_grad_norm": math.inf}
        return super().run(columns, orders, batch_size, objective, False)
