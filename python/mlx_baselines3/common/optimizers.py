"""What :mod:`mlx.optimizers` lacks, and the translation of torch's optimizer arguments."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

__all__ = ["RMSpropTFLike", "from_torch_state", "is_elementwise", "make_optimizer"]


class RMSpropTFLike(optim.RMSprop):
    """
    RMSprop as TensorFlow has it: epsilon inside the square root, and the running average of squared
    gradients starts at 1. Gives A2C a stabler start than the usual RMSprop.

    :param learning_rate: step size
    :param alpha: smoothing constant of the running average
    :param eps: added to the average before the square root
    """

    def __init__(self, learning_rate: float, alpha: float = 0.99, eps: float = 1e-8):
        super().__init__(learning_rate, alpha, eps)

    def init_single(self, parameter: mx.array, state: dict[str, mx.array]) -> None:
        """
        :param parameter: an array to be optimised
        :param state: receives its running average
        """
        state["v"] = mx.ones_like(parameter)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """
        ``v <- alpha v + (1 - alpha) g^2``, ``p <- p - lr g / sqrt(v + eps)``

        :param gradient: g
        :param parameter: p
        :param state: holds v
        :return: the new p
        """
        state["v"] = self.alpha * state["v"] + (1 - self.alpha) * mx.square(gradient)
        learning_rate = self.learning_rate.astype(gradient.dtype)
        return parameter - learning_rate * gradient * mx.rsqrt(state["v"] + self.eps)


# Optimizers whose update of one number depends on no other number: many parameters may then be
# updated as one long vector.
_ELEMENTWISE = (
    RMSpropTFLike,
    optim.AdaDelta,
    optim.Adagrad,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.Lion,
    optim.RMSprop,
    optim.SGD,
)


def is_elementwise(optimizer: optim.Optimizer) -> bool:
    """
    :param optimizer: any MLX optimizer
    :return: True if it treats every number alone; subclasses by the user are not assumed to
    """
    return type(optimizer) in _ELEMENTWISE


def make_optimizer(
    optimizer_class: type[optim.Optimizer], learning_rate: float, optimizer_kwargs: dict[str, Any]
) -> optim.Optimizer:
    """
    Build an MLX optimizer from the arguments that torch's twin would take.

    :param optimizer_class: for instance ``mlx.optimizers.Adam``
    :param learning_rate: the first learning rate
    :param optimizer_kwargs: the other arguments. A ``weight_decay`` of 0 is dropped where MLX's class
        has no such argument, and Adam corrects its bias, as torch's does, unless told not to
    :return: the optimizer
    :raises ValueError: if torch's argument has no twin
    """
    kwargs = dict(optimizer_kwargs)
    if optimizer_class in (optim.Adam, optim.AdamW):
        kwargs.setdefault("bias_correction", True)
    if optimizer_class not in (optim.AdamW, optim.SGD, optim.Lion) and not kwargs.get("weight_decay", 1):
        del kwargs["weight_decay"]
    try:
        return optimizer_class(learning_rate, **kwargs)
    except TypeError as error:
        hint = " (use mlx.optimizers.AdamW for weight decay)" if kwargs.get("weight_decay") else ""
        raise ValueError(
            f"optimizer_kwargs={optimizer_kwargs!r} do not fit {optimizer_class.__name__}: {error}{hint}"
        ) from error


# What torch calls the running averages that MLX calls m and v.
_TORCH_SLOTS = {"exp_avg": "m", "exp_avg_sq": "v", "square_avg": "v"}


def from_torch_state(state_dict: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """
    Translate the state of torch's Adam, RMSprop or SB3's RMSpropTFLike.

    :param state_dict: ``{"state": {index: {slot: array}}, "param_groups": [...]}``
    :param names: the parameters in the order in which torch numbers them
    :return: ``step``, ``learning_rate`` and ``m.<parameter>``, …; only the learning rate if the
        optimizer had not made a step yet
    :raises ValueError: if the numbers of parameters differ
    """
    group = state_dict["param_groups"][0]
    if len(group["params"]) != len(names):
        raise ValueError(
            f"The optimizer state is for {len(group['params'])} parameters, this network has {len(names)}."
        )
    translated: dict[str, Any] = {"learning_rate": np.float32(group["lr"])}
    for index, name in zip(group["params"], names, strict=True):
        slots = state_dict["state"].get(index, {})
        for slot, array in slots.items():
            if slot == "step":
                translated["step"] = np.uint64(int(np.array(array)))
            elif slot in _TORCH_SLOTS:
                translated[f"{_TORCH_SLOTS[slot]}.{name}"] = array
    return translated
