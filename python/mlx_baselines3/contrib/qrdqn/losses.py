"""
Targets of QR-DQN, Dabney et al. (2017), https://arxiv.org/abs/1710.10044; the loss is
``contrib.common.utils.quantile_huber_loss``.

Pure functions of arrays.
"""

import mlx.core as mx

__all__ = ["quantile_target", "quantiles_of_actions"]


def quantiles_of_actions(quantiles: mx.array, actions: mx.array) -> mx.array:
    """
    Select the quantiles of ``Z(s, a)`` from those of ``Z(s, .)``.

    :param quantiles: (batch, n_quantiles, actions)
    :param actions: (batch,) or (batch, 1) a, integers
    :return: (batch, n_quantiles)
    """
    indices = actions.reshape(-1, 1, 1).astype(mx.int32)
    indices = mx.broadcast_to(indices, (len(quantiles), quantiles.shape[1], 1))
    return mx.take_along_axis(quantiles, indices, axis=2).squeeze(2)


def quantile_target(
    rewards: mx.array, dones: mx.array, discounts: mx.array, next_quantiles: mx.array
) -> mx.array:
    """
    Algorithm 1: ``r + gamma (1 - done) theta_j(s', a*)`` with the action ``a*`` whose quantiles have the
    largest mean; after n steps ``r`` is their discounted sum and ``gamma`` is ``gamma^n``.

    :param rewards: (batch, 1) r
    :param dones: (batch, 1) 1 where the episode ended in s', else 0
    :param discounts: gamma, scalar or (batch, 1)
    :param next_quantiles: (batch, n_quantiles, actions) theta(s', .) of the target network
    :return: (batch, n_quantiles)
    """
    best = next_quantiles.mean(axis=1).argmax(axis=1)
    return rewards + discounts * (1 - dones) * quantiles_of_actions(next_quantiles, best)
