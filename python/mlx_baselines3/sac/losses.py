"""
The losses of Soft Actor-Critic, Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905.

Pure functions of arrays; ``(batch, 1)`` unless said otherwise. The paper's alpha is SB3's ``ent_coef``.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean
from mlx_baselines3.common.training.losses import smallest, squared_errors

__all__ = ["actor_loss", "critic_loss", "ent_coef_loss", "smallest", "soft_target"]


def soft_target(
    rewards: mx.array,
    dones: mx.array,
    discounts: mx.array,
    next_q_values: mx.array,
    next_log_prob: mx.array,
    ent_coef: mx.array,
) -> mx.array:
    """
    Equations 2, 3 and 6: ``r + (1 - d) gamma (min_i Q'_i(s', a') - alpha log pi(a'|s'))``

    :param rewards: r
    :param dones: d, 1 where the episode ended
    :param discounts: gamma, scalar or one per row
    :param next_q_values: the smallest target critic's value of the next action
    :param next_log_prob: log pi(a'|s')
    :param ent_coef: alpha, scalar
    :return: the target of Q_i(s, a)
    """
    return rewards + (1 - dones) * discounts * (next_q_values - ent_coef * next_log_prob)


def critic_loss(q_values: Sequence[mx.array], target: mx.array) -> mx.array:
    """
    Equation 5, summed over the critics: ``sum_i mean((Q_i(s, a) - y)^2) / 2``

    :param q_values: one array per critic
    :param target: y
    :return: scalar
    """
    return squared_errors(q_values, target, 0.5)


def actor_loss(log_prob: mx.array, q_values: mx.array, ent_coef: mx.array) -> mx.array:
    """
    Equation 7: ``mean(alpha log pi(a|s) - min_i Q_i(s, a))`` for an action of the current policy

    :param log_prob: log pi(a|s)
    :param q_values: the smallest critic's value of the action
    :param ent_coef: alpha, scalar
    :return: scalar
    """
    return mean(ent_coef * log_prob - q_values)


def ent_coef_loss(log_ent_coef: mx.array, log_prob: mx.array, target_entropy: mx.array) -> mx.array:
    """
    Equation 18, with log alpha instead of alpha: ``mean(-log(alpha) (log pi(a|s) + H))``. The
    logarithm keeps alpha positive (https://github.com/rail-berkeley/softlearning/issues/37).

    :param log_ent_coef: log alpha, (1,)
    :param log_prob: log pi(a|s)
    :param target_entropy: H, scalar
    :return: scalar
    """
    return -mean(log_ent_coef * mx.stop_gradient(log_prob + target_entropy))
