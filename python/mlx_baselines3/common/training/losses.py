"""What the losses of several algorithms have in common.

Pure functions of arrays; ``(batch,)`` unless said otherwise.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean, total

__all__ = ["entropy_loss", "normalize", "smallest", "squared_errors", "value_loss"]


def normalize(advantages: mx.array) -> mx.array:
    """
    ``(A - mean(A)) / (std(A) + 1e-8)`` with the unbiased standard deviation.

    :param advantages: A
    :return: the normalised advantages; one alone is left as it is, it has no deviation
    """
    if advantages.size == 1:
        return advantages
    # Neither mean nor deviation changes when all are moved by the first one, and equal advantages become
    # exactly 0. Otherwise the rounding error of their mean would be divided by itself, and give 1.
    moved = advantages - advantages[:1]
    centred = moved - mean(moved)
    std = mx.sqrt(total(mx.square(centred)) / (advantages.size - 1))
    return centred / (std + 1e-8)


def value_loss(values: mx.array, returns: mx.array) -> mx.array:
    """
    ``mean((R - V)^2)``

    :param values: V
    :param returns: R, the TD(lambda) targets
    :return: scalar
    """
    return total(mx.square(returns - values)) / values.size


def entropy_loss(entropy: mx.array | None, log_prob: mx.array) -> mx.array:
    """
    ``-mean(H)``; where the entropy has no closed form, its estimate ``H = -log pi(a|s)``.

    :param entropy: H, or None
    :param log_prob: log pi(a|s)
    :return: scalar
    """
    return mean(log_prob) if entropy is None else total(entropy) / -entropy.size


def smallest(q_values: Sequence[mx.array]) -> mx.array:
    """
    ``min_i Q_i(s, a)``, clipped double Q-learning (Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477,
    section 4.2): optimistic less often than any one critic.

    :param q_values: one (batch, 1) array per critic
    :return: (batch, 1) the smallest value of each row
    """
    return mx.concatenate(list(q_values), axis=1).min(axis=1, keepdims=True)


def squared_errors(q_values: Sequence[mx.array], target: mx.array, weight: float = 1.0) -> mx.array:
    """
    ``weight * sum_i mean((Q_i(s, a) - y)^2)`` over several critics

    :param q_values: one (batch, 1) array per critic
    :param target: (batch, 1) y
    :param weight: a constant factor
    :return: scalar
    """
    return total(mx.square(mx.concatenate(list(q_values), axis=1) - target)) * (weight / target.size)
