"""The losses of Proximal Policy Optimization, Schulman et al. (2017), https://arxiv.org/abs/1707.06347.

Pure functions of arrays; ``(batch,)`` unless said otherwise.
"""

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean, total
from mlx_baselines3.common.training.losses import entropy_loss, normalize, value_loss

__all__ = [
    "approximate_kl",
    "clip_fraction",
    "clipped_values",
    "entropy_loss",
    "normalize",
    "policy_loss",
    "value_loss",
]


def policy_loss(ratio: mx.array, advantages: mx.array, clip_range: mx.array) -> mx.array:
    """
    Equation 7 of the paper, to be minimised:
    ``-mean(min(r A, clip(r, 1 - epsilon, 1 + epsilon) A))``

    :param ratio: r, probability of the action now over its probability at collection
    :param advantages: A
    :param clip_range: epsilon, scalar
    :return: scalar
    """
    clipped = mx.clip(ratio, 1 - clip_range, 1 + clip_range)
    # Negating the divisor saves an operation and a kernel.
    return total(mx.minimum(advantages * ratio, advantages * clipped)) / -ratio.size


def clipped_values(values: mx.array, old_values: mx.array, clip_range_vf: mx.array) -> mx.array:
    """
    ``V_old + clip(V - V_old, -epsilon, epsilon)``, which replaces V in the loss when the value function is
    clipped (as in SB3: without a maximum over both errors).

    :param values: V
    :param old_values: V at collection
    :param clip_range_vf: epsilon in units of the reward, scalar
    :return: the clipped values
    """
    return old_values + mx.clip(values - old_values, -clip_range_vf, clip_range_vf)


def approximate_kl(ratio: mx.array, log_ratio: mx.array) -> mx.array:
    """
    ``mean((r - 1) - log r)``, an unbiased estimate of the divergence of the new policy from the old
    one that is never negative (Schulman, http://joschu.net/blog/kl-approx.html).

    :param ratio: r
    :param log_ratio: log r
    :return: scalar
    """
    return mean((ratio - 1) - log_ratio)


def clip_fraction(ratio: mx.array, clip_range: mx.array) -> mx.array:
    """
    Fraction of the batch that is clipped: ``mean(|r - 1| > epsilon)``

    :param ratio: r
    :param clip_range: epsilon, scalar
    :return: scalar
    """
    return mean((mx.abs(ratio - 1) > clip_range).astype(mx.float32))
