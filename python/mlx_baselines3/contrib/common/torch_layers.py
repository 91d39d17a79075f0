"""Batch renormalization, the layer of CrossQ."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_baselines3.common.nn.layers import Module

__all__ = ["BatchRenorm", "BatchRenorm1d"]

_BUFFERS = ["ra_mean", "ra_var", "steps"]


class BatchRenorm(Module):
    """
    Batch renormalization, Ioffe (2017), https://arxiv.org/abs/1702.03275.

    In training, batches are normalized by their own mean and unbiased variance, and the running averages
    follow. After ``warmup_steps`` batches that is corrected towards the running averages, within bounds:
    without a gradient through the correction. In evaluation the running averages normalize.

    The variance of a unit that is the same for a whole batch is 0, and so is the gradient of its deviation
    here; torch's is nan, and hidden only where the activation before is one that cuts gradients off.

    :param num_features: number of inputs
    :param eps: added to variances
    :param momentum: how far the running averages move with each batch
    :param affine: scale and shift the result by ``scale`` and ``bias``
    :param warmup_steps: batches before the correction
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 0.001,
        momentum: float = 0.01,
        affine: bool = True,
        warmup_steps: int = 100_000,
    ):
        super().__init__()
        self.scale = mx.ones(num_features)
        self.bias = mx.zeros(num_features)
        self.ra_mean = mx.zeros(num_features)
        self.ra_var = mx.ones(num_features)
        self.steps = mx.array(0, mx.int64)
        self.affine = affine
        self.eps = eps
        self.momentum = momentum
        self.num_features = num_features
        # Bounds of the correction, of its scale and its shift.
        self.rmax = 3.0
        self.dmax = 5.0
        self.warmup_steps = warmup_steps
        self.freeze(keys=_BUFFERS, recurse=False)

    def unfreeze(self, *args: Any, **kwargs: Any) -> "BatchRenorm":
        """
        Train ``scale`` and ``bias``; the running averages are never trained. Arguments as MLX's.

        :return: this module
        """
        super().unfreeze(*args, **kwargs)
        self.freeze(keys=_BUFFERS, recurse=False)
        return self

    def _check_input_dim(self, x: mx.array) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not say which inputs it takes.")

    def forward(self, x: mx.array) -> mx.array:
        """
        :param x: (batch, num_features)
        :return: the same shape, normalized
        """
        mean, var = self._of_batch(x) if self.training else (self.ra_mean, self.ra_var)
        x = (x - mean) * mx.rsqrt(var + self.eps)
        return self.scale * x + self.bias if self.affine else x

    def _of_batch(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """:return: what a batch is normalized by; the running averages have followed it"""
        if len(x) < 2:
            raise ValueError(
                f"Batch renormalization was given a batch of {len(x)}, expected 2 rows or more in training: "
                "one row has no variance. Choose a larger batch_size."
            )
        mean, var = x.mean(axis=0), x.var(axis=0, ddof=1)
        is_warm = self.steps > self.warmup_steps
        running_std = mx.sqrt(self.ra_var + self.eps)
        scale = mx.clip(mx.sqrt(var + self.eps) / running_std, 1 / self.rmax, self.rmax)
        shift = mx.clip((mean - self.ra_mean) / running_std, -self.dmax, self.dmax)
        scale = mx.stop_gradient(mx.where(is_warm, scale, 1.0))
        shift = mx.stop_gradient(mx.where(is_warm, shift, 0.0))
        self.ra_mean = self.ra_mean + self.momentum * (mx.stop_gradient(mean) - self.ra_mean)
        self.ra_var = self.ra_var + self.momentum * (mx.stop_gradient(var) - self.ra_var)
        self.steps = self.steps + 1
        # The square root's slope at 0 is infinite, and times the slope of the variance, 0, it would be nan.
        varies = var > 0
        std = mx.where(varies, mx.sqrt(mx.where(varies, var, 1.0)), 0.0)
        return mean - shift * std / scale, var / mx.square(scale)

    def extra_repr(self) -> str:
        """:return: the arguments"""
        return (
            f"num_features={self.num_features}, momentum={self.momentum}, "
            f"warmup_steps={self.warmup_steps}, affine={self.affine}"
        )

    def _extra_repr(self) -> str:
        return self.extra_repr()


class BatchRenorm1d(BatchRenorm):
    """:class:`BatchRenorm` of vectors."""

    def _check_input_dim(self, x: mx.array) -> None:
        if x.ndim == 1:
            raise ValueError(f"Expected 2D or 3D input (got {x.ndim}D input)")


def set_renorm_training_mode(network: nn.Module, mode: bool) -> None:
    """
    :param network: a network
    :param mode: whether its batch renormalizations normalize by the batch, and follow it
    """
    for module in network.modules():
        if isinstance(module, BatchRenorm):
            module.train(mode)
