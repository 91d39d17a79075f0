"""The losses of PPO on padded sequences: means over the steps that are no padding.

Pure functions of arrays; ``(rows,)`` unless said otherwise. ``mask`` is True where a row is a step.
"""

import mlx.core as mx

__all__ = ["masked_mean", "normalize"]


def masked_mean(values: mx.array, mask: mx.array) -> mx.array:
    """
    :param values: numbers; those on padding have to be finite
    :param mask: which to take
    :return: their mean, a scalar
    """
    return mx.where(mask, values, 0.0).sum() / mask.sum()


def normalize(advantages: mx.array, mask: mx.array) -> mx.array:
    """
    ``(A - mean(A)) / (std(A) + 1e-8)``, with the unbiased standard deviation of the steps. That of a single
    step is not defined: it stays as it is.

    :param advantages: A
    :param mask: which rows are steps
    :return: the normalised advantages
    """
    count = mask.sum()
    mean = masked_mean(advantages, mask)
    squares = mx.where(mask, mx.square(advantages - mean), 0.0).sum()
    deviation = mx.sqrt(squares / mx.maximum(count - 1, 1))
    return mx.where(count > 1, (advantages - mean) / (deviation + 1e-8), advantages)
