"""
The losses of TD3, Fujimoto et al. (2018), https://arxiv.org/abs/1802.09477, algorithm 1; DDPG's
(https://arxiv.org/abs/1509.02971) are the same with one critic and no smoothing.

Pure functions of arrays; ``(batch, 1)`` unless said otherwise.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean
from mlx_baselines3.common.training.losses import smallest, squared_errors

__all__ = ["actor_loss", "critic_loss", "smallest", "smoothed", "td_target"]


def smoothed(actions: mx.array, noise: mx.array, std: mx.array, limit: mx.array) -> mx.array:
    """
    Target policy smoothing, equation 14: ``clip(a + clip(sigma epsilon, -c, c), -1, 1)``. Similar actions
    then have similar values, so the actor cannot exploit spurious peaks of a critic.

    :param actions: (batch, action_dim) actions a of the target actor, in [-1, 1]
    :param noise: (batch, action_dim) standard normals epsilon
    :param std: sigma, scalar
    :param limit: c, scalar
    :return: (batch, action_dim) actions in [-1, 1]
    """
    return mx.clip(actions + mx.clip(std * noise, -limit, limit), -1.0, 1.0)


def td_target(rewards: mx.array, dones: mx.array, discounts: mx.array, next_q_values: mx.array) -> mx.array:
    """
    Equation 10: ``r + (1 - d) gamma min_i Q'_i(s', a')``

    :param rewards: r
    :param dones: d, 1 where the episode ended
    :param discounts: gamma, scalar or one per row
    :param next_q_values: the smallest target critic's value of the next action
    :return: the target of Q_i(s, a)
    """
    return rewards + (1 - dones) * discounts * next_q_values


def critic_loss(q_values: Sequence[mx.array], target: mx.array) -> mx.array:
    """
    ``sum_i mean((Q_i(s, a) - y)^2)``

    :param q_values: one array per critic
    :param target: y
    :return: scalar
    """
    return squared_errors(q_values, target)


def actor_loss(q_values: mx.array) -> mx.array:
    """
    ``-mean(Q_0(s, mu(s)))``, whose gradient is the deterministic policy gradient
    (https://proceedings.mlr.press/v32/silver14.pdf).

    :param q_values: the first critic's value of the actor's action
    :return: scalar
    """
    return -mean(q_values)
