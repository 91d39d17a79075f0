"""
The objective of Trust Region Policy Optimization, Schulman et al. (2015), https://arxiv.org/abs/1502.05477.

Pure functions of arrays; ``(batch,)``.
"""

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean
from mlx_baselines3.common.training.losses import normalize, value_loss

__all__ = ["normalize", "surrogate", "value_loss"]


def surrogate(advantages: mx.array, log_prob: mx.array, old_log_prob: mx.array) -> mx.array:
    """
    Equation 14: ``mean(A pi(a|s) / pi_old(a|s))``

    :param advantages: A
    :param log_prob: log pi(a|s)
    :param old_log_prob: log pi_old(a|s), of the policy that collected
    :return: scalar
    """
    return mean(advantages * mx.exp(log_prob - old_log_prob))
