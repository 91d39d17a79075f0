"""
Targets of Truncated Quantile Critics, Kuznetsov et al. (2020), https://arxiv.org/abs/2005.04269; the loss is
``contrib.common.utils.quantile_huber_loss``.

Pure functions of arrays.
"""

import mlx.core as mx

__all__ = ["truncated_target"]


def truncated_target(
    rewards: mx.array,
    dones: mx.array,
    discounts: mx.array,
    next_quantiles: mx.array,
    kept: int,
    next_log_prob: mx.array,
    ent_coef: mx.array,
) -> mx.array:
    """
    Equations 11 and 12: ``r + (1 - d) gamma (z_i(s', a') - alpha log pi(a'|s'))`` for the smallest quantiles
    of all target critics together.

    :param rewards: (batch, 1) r
    :param dones: (batch, 1) d, 1 where the episode ended
    :param discounts: gamma, scalar or (batch, 1)
    :param next_quantiles: (batch, n_critics, n_quantiles) z(s', a') of the target critics
    :param kept: number of quantiles that are left
    :param next_log_prob: (batch, 1) log pi(a'|s')
    :param ent_coef: alpha, scalar
    :return: (batch, 1, kept)
    """
    pooled = mx.sort(next_quantiles.reshape(len(next_quantiles), -1), axis=1)[:, :kept]
    targets = rewards + (1 - dones) * discounts * (pooled - ent_coef * next_log_prob)
    return targets[:, None]
