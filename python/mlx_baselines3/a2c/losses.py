"""The losses of Advantage Actor Critic, Mnih et al. (2016), https://arxiv.org/abs/1602.01783.

Pure functions of arrays; ``(batch,)`` unless said otherwise.
"""

import mlx.core as mx

__all__ = ["entropy_loss", "normalize", "policy_loss", "value_loss"]


def normalize(advantages: mx.array) -> mx.array:
    """
    ``(A - mean(A)) / (std(A) + 1e-8)`` with the unbiased standard deviation.

    :param advantages: A
    :return: the normalised advantages; one alone is left as it is, it has no deviation
    """
    if advantages.size == 1:
        return advantages
    centred = advantages - advantages.mean()
    std = mx.sqrt(mx.square(centred).sum() / (advantages.size - 1))
    return centred / (std + 1e-8)


def policy_loss(log_prob: mx.array, advantages: mx.array) -> mx.array:
    """
    ``-mean(A log pi(a|s))``, whose gradient is the policy gradient (section 3 of the paper).

    :param log_prob: log pi(a|s)
    :param advantages: A
    :return: scalar
    """
    # The sign goes into the divisor: one operation less, and one kernel less to compile.
    return (advantages * log_prob).sum() / -log_prob.size


def value_loss(values: mx.array, returns: mx.array) -> mx.array:
    """
    ``mean((R - V)^2)``

    :param values: V
    :param returns: R, the TD(lambda) targets
    :return: scalar
    """
    return mx.square(returns - values).sum() / values.size


def entropy_loss(entropy: mx.array | None, log_prob: mx.array) -> mx.array:
    """
    ``-mean(H)``; where the entropy has no closed form, its estimate ``H = -log pi(a|s)``.

    :param entropy: H, or None
    :param log_prob: log pi(a|s)
    :return: scalar
    """
    return log_prob.mean() if entropy is None else entropy.sum() / -entropy.size
