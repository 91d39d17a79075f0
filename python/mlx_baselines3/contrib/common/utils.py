"""Functions that sb3-contrib's algorithms share."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_baselines3.common.nn.sums import mean

__all__ = ["conjugate_gradient_solver", "flat_grad", "quantile_huber_loss"]


def quantile_huber_loss(
    current_quantiles: mx.array,
    target_quantiles: mx.array,
    cum_prob: mx.array | None = None,
    sum_over_quantiles: bool = True,
) -> mx.array:
    """
    The loss of quantile regression, Dabney et al. (2017), equation 10, https://arxiv.org/abs/1710.10044:
    ``|tau_i - [d < 0]| h(d)`` for each target minus estimate, ``d``, with ``h(d) = d^2 / 2`` where
    ``|d| <= 1``, else ``|d| - 1/2``. No gradient flows through ``[d < 0]``.

    :param current_quantiles: (batch, n) or (batch, critics, n) estimates of the quantiles
    :param target_quantiles: (batch, m), (batch, 1, m) or (batch, critics, m) targets; as many axes
    :param cum_prob: tau, the cumulative probabilities of the estimates, with a last axis of 1 for the
        targets: broadcastable to (batch, n, m) or (batch, critics, n, m); by default the midpoints
        ``(i + 1/2) / n``
    :param sum_over_quantiles: the sum over the estimates (QR-DQN) instead of their mean (TQC); always the
        mean over everything else
    :return: scalar
    :raises ValueError: the two have other numbers of axes or rows, or neither two nor three axes
    """
    axes = current_quantiles.ndim
    if axes != target_quantiles.ndim:
        raise ValueError(
            f"current_quantiles has {axes} axes and target_quantiles has {target_quantiles.ndim}; both need "
            "the same number of them."
        )
    if current_quantiles.shape[0] != target_quantiles.shape[0]:
        raise ValueError(
            f"current_quantiles has {current_quantiles.shape[0]} rows and target_quantiles has "
            f"{target_quantiles.shape[0]}; both need the same batch size."
        )
    if axes not in (2, 3):
        raise ValueError(
            f"current_quantiles has {axes} axes, expected 2 or 3: (batch, [critics,] quantiles)."
        )
    if cum_prob is None:
        n_quantiles = current_quantiles.shape[-1]
        cum_prob = ((mx.arange(n_quantiles, dtype=mx.float32) + 0.5) / n_quantiles).reshape(-1, 1)
    gap = target_quantiles[..., None, :] - current_quantiles[..., None]
    distance = mx.abs(gap)
    huber = mx.where(distance > 1, distance - 0.5, mx.square(gap) * 0.5)
    weight = mx.stop_gradient(mx.abs(cum_prob - (gap < 0).astype(mx.float32)))
    loss = mean(weight * huber)
    return loss * current_quantiles.shape[-1] if sum_over_quantiles else loss


def conjugate_gradient_solver(
    matrix_vector_dot_fn: Callable[[mx.array], mx.array],
    b: mx.array,
    max_iter: int = 10,
    residual_tol: float = 1e-10,
    noise: mx.array | None = None,
) -> mx.array:
    """
    Solve ``A x = b`` approximately for a symmetric positive definite A, by conjugate gradients
    (Hestenes and Stiefel 1952).

    The first guess is small noise and not 0, as in sb3-contrib: a vanishing ``b`` does not divide by 0 then.

    :param matrix_vector_dot_fn: x -> A x
    :param b: (n,)
    :param max_iter: most iterations, each with one product
    :param residual_tol: stop where the squared 2-norm of ``b - A x`` is smaller
    :param noise: (n,) standard normals of the first guess; drawn from MLX's generator by default
    :return: (n,) x
    """
    x = 1e-4 * (mx.random.normal(b.shape) if noise is None else noise)
    residual = b - matrix_vector_dot_fn(x)
    squared = mx.inner(residual, residual)
    if float(squared) < residual_tol:
        return x
    direction = residual
    for i in range(max_iter):
        product = matrix_vector_dot_fn(direction)
        length = squared / mx.inner(direction, product)
        x = x + length * direction
        if i == max_iter - 1:
            break
        residual = residual - length * product
        before, squared = squared, mx.inner(residual, residual)
        if float(squared) < residual_tol:
            break
        direction = residual + (squared / before) * direction
    return x


def flat_grad(
    output: Callable[[list[mx.array]], mx.array],
    parameters: Sequence[mx.array],
    create_graph: bool = False,
    retain_graph: bool = False,
) -> mx.array:
    """
    The gradient of a function in one vector.

    MLX differentiates functions, so ``output`` is one, where torch's takes a tensor. The gradient can be
    differentiated again whatever the other arguments are.

    :param output: a scalar function of the list of parameters
    :param parameters: arrays
    :param create_graph: for compatibility with sb3-contrib
    :param retain_graph: for compatibility with sb3-contrib
    :return: (total size,) the gradients one after the other
    """
    gradients = mx.grad(output)(list(parameters))
    return mx.concatenate([gradient.reshape(-1) for gradient in gradients])
