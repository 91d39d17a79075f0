"""The losses of Advantage Actor Critic, Mnih et al. (2016), https://arxiv.org/abs/1602.01783.

Pure functions of arrays; ``(batch,)`` unless said otherwise.
"""

import mlx.core as mx

from mlx_baselines3.common.nn.sums import total
from mlx_baselines3.common.training.losses import entropy_loss, normalize, value_loss

__all__ = ["entropy_loss", "normalize", "policy_loss", "value_loss"]


def policy_loss(log_prob: mx.array, advantages: mx.array) -> mx.array:
    """
    ``-mean(A log pi(a|s))``, whose gradient is the policy gradient (section 3 of the paper).

    :param log_prob: log pi(a|s)
    :param advantages: A
    :return: scalar
    """
    # Negating the divisor saves an operation and a kernel.
    return total(advantages * log_prob) / -log_prob.size
