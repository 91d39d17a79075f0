"""The loss of Deep Q-Network, Mnih et al. (2015), https://www.nature.com/articles/nature14236.

Pure functions of arrays; ``(batch, 1)`` unless said otherwise.
"""

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean

__all__ = ["huber_loss", "q_of_actions", "td_target"]


def td_target(rewards: mx.array, dones: mx.array, discounts: mx.array, next_q_values: mx.array) -> mx.array:
    """
    ``r + gamma (1 - done) max_a' Q_target(s', a')``; after n steps ``r`` is their discounted sum and
    ``gamma`` is ``gamma^n``.

    :param rewards: r
    :param dones: 1 where the episode ended in s', else 0
    :param discounts: gamma, scalar or one per transition
    :param next_q_values: (batch, actions) Q_target(s', .)
    :return: the target of Q(s, a)
    """
    return rewards + discounts * (1 - dones) * next_q_values.max(axis=1, keepdims=True)


def q_of_actions(q_values: mx.array, actions: mx.array) -> mx.array:
    """
    Select ``Q(s, a)`` from ``Q(s, .)``.

    :param q_values: (batch, actions)
    :param actions: a, integers
    :return: the values of these actions
    """
    return mx.take_along_axis(q_values, actions.reshape(-1, 1).astype(mx.int32), axis=1)


def huber_loss(q_values: mx.array, targets: mx.array) -> mx.array:
    """
    ``mean(h(Q - y))`` with ``h(x) = x^2 / 2`` where ``|x| < 1``, else ``|x| - 1/2``: quadratic for small
    errors, with gradients of at most 1 for large ones (Huber 1964, section "Training details" of the paper).

    :param q_values: Q
    :param targets: y
    :return: scalar
    """
    distance = mx.abs(q_values - targets)
    return mean(mx.where(distance < 1, 0.5 * mx.square(distance), distance - 0.5))
