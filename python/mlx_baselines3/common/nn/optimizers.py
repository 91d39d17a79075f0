"""Optimizers that :mod:`mlx.optimizers` lacks, and the translation of torch's optimizer arguments."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from mlx_baselines3.common.nn.layer_hints import refuse_torch
from mlx_baselines3.common.nn.sums import total

__all__ = [
    "Adam",
    "ParameterGroup",
    "RMSpropTFLike",
    "check_learning_rate",
    "clip_by_global_norm",
    "corrects_bias",
    "from_torch_state",
    "is_elementwise",
    "make_optimizer",
    "mlx_kwargs",
]


class RMSpropTFLike(optim.RMSprop):
    """
    TensorFlow's RMSprop: epsilon inside the square root, and the running average of squared gradients starts
    at 1. It makes A2C more stable at the start than the usual RMSprop.

    :param lr: step size
    :param alpha: smoothing constant of the running averages
    :param eps: added to the average before the square root
    :param weight_decay: weight of the L2 penalty
    :param momentum: momentum factor
    :param centered: divide by the standard deviation of the gradient instead of its root mean square
        (Graves 2013, https://arxiv.org/abs/1308.0850)
    :raises ValueError: if a number is negative
    """

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ):
        numbers = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        for name, value in numbers.items():
            if not callable(value) and not value >= 0.0:
                raise ValueError(f"RMSpropTFLike: {name} must not be negative, got {value}")
        super().__init__(lr, alpha, eps)
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.centered = centered

    def init_single(self, parameter: mx.array, state: dict[str, mx.array]) -> None:
        """
        :param parameter: an array to be optimised
        :param state: receives its running averages
        """
        state["v"] = mx.ones_like(parameter)
        if self.momentum > 0:
            state["momentum_buffer"] = mx.zeros_like(parameter)
        if self.centered:
            state["grad_avg"] = mx.zeros_like(parameter)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """
        ``v <- alpha v + (1 - alpha) g^2``, ``p <- p - lr g / sqrt(v + eps)``; if centred, ``v`` is replaced
        by ``v - a^2`` with ``a <- alpha a + (1 - alpha) g``; with momentum, the step is
        ``b <- momentum b + g / sqrt(...)``.

        :param gradient: g; the gradient of the penalty, ``weight_decay * p``, is added to it
        :param parameter: p
        :param state: contains v, and a and b if needed
        :return: the new p
        """
        if self.weight_decay != 0:
            gradient = gradient + self.weight_decay * parameter
        variance = state["v"] = self.alpha * state["v"] + (1 - self.alpha) * mx.square(gradient)
        if self.centered:
            state["grad_avg"] = self.alpha * state["grad_avg"] + (1 - self.alpha) * gradient
            variance = variance - mx.square(state["grad_avg"])
        step = gradient * mx.rsqrt(variance + self.eps)
        if self.momentum > 0:
            step = state["momentum_buffer"] = self.momentum * state["momentum_buffer"] + step
        return parameter - self.learning_rate.astype(gradient.dtype) * step


class Adam(optim.Adam):
    """
    MLX's Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1), with the same arguments.

    The bias corrections are the same for all parameters. With MLX's expression the compiler recomputes their
    powers for each parameter, which takes longer than everything else in the step.
    """

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """
        ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``,
        ``p <- p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)``

        :param gradient: g
        :param parameter: p
        :param state: contains m and v
        :return: the new p
        """
        b1, b2 = self.betas
        m = state["m"] = b1 * state["m"] + (1 - b1) * gradient
        v = state["v"] = b2 * state["v"] + (1 - b2) * mx.square(gradient)
        step_size, root_scale = self._corrections()
        return parameter - step_size * m / (mx.sqrt(v) * root_scale + self.eps)

    def _corrections(self) -> tuple[mx.array, mx.array]:
        if not self.bias_correction:
            return self.learning_rate, mx.array(1.0)
        b1, b2 = self.betas
        numbers = [self.learning_rate / (1 - b1**self.step), mx.rsqrt(1 - b2**self.step)]
        # Going through one array keeps the compiler from fusing the powers into the big kernel.
        step_size, root_scale = mx.split(mx.stack(numbers), 2)
        return step_size.squeeze(), root_scale.squeeze()


# Elementwise optimizers: many parameters can be updated as one long vector.
_ELEMENTWISE = (
    Adam,
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


def check_learning_rate(learning_rate: float) -> float:
    """
    :param learning_rate: a number, or the result of a schedule
    :return: the same
    :raises ValueError: if it is negative, infinite or nan
    """
    if not 0.0 <= learning_rate < math.inf:
        raise ValueError(
            f"The learning rate must be a finite number that is not negative, got {learning_rate}. "
            "A schedule is called with the remaining progress: 1 at the start, 0 at the end."
        )
    return learning_rate


def clip_by_global_norm(gradients: dict[str, mx.array], max_norm: mx.array) -> dict[str, mx.array]:
    """
    Scale all gradients together so that their common 2-norm is at most ``max_norm``
    (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063).

    :param gradients: name -> gradient
    :param max_norm: scalar
    :return: the scaled gradients
    """
    squares = [total(g * g) for g in gradients.values()]
    norm = mx.sqrt(sum(squares[1:], squares[0]))
    scale = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: g * scale for name, g in gradients.items()}


def is_elementwise(optimizer: optim.Optimizer) -> bool:
    """
    :param optimizer: any MLX optimizer
    :return: whether it treats every number independently; False for subclasses by the user
    """
    return type(optimizer) in _ELEMENTWISE


def corrects_bias(optimizer: optim.Optimizer) -> bool:
    """
    :param optimizer: any MLX optimizer
    :return: whether its step depends on the number of previous steps; True for custom classes
    """
    if is_elementwise(optimizer):
        return bool(getattr(optimizer, "bias_correction", False))
    return True


class ParameterGroup(Mapping[str, Any]):
    """
    A parameter group of torch's optimizers: hyperparameters under torch's names. Only ``lr`` can be set; the
    model's schedule overwrites it before each update, as in SB3.

    :param optimizer: the optimizer with its parameters
    """

    _NAMES = ("betas", "eps", "alpha", "momentum", "weight_decay", "centered")

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def __getitem__(self, key: str) -> Any:
        if key == "lr":
            return self._optimizer.learning_rate.item()
        if key == "params":
            return list(self._optimizer.names)
        if key in self._NAMES and hasattr(self._optimizer.bare, key):
            return getattr(self._optimizer.bare, key)
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "lr":
            raise KeyError(f"Only 'lr' of a parameter group can be set, got {key!r}.")
        self._optimizer.learning_rate = check_learning_rate(float(value))

    def __iter__(self) -> Iterator[str]:
        return iter(["lr", "params", *(key for key in self._NAMES if hasattr(self._optimizer.bare, key))])

    def __len__(self) -> int:
        return len(list(iter(self)))


def mlx_kwargs(optimizer_class: type[optim.Optimizer], optimizer_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param optimizer_class: for instance ``mlx.optimizers.Adam``
    :param optimizer_kwargs: the arguments of torch's class, except for the learning rate
    :return: equivalent arguments of MLX's class: Adam corrects its bias by default, and a ``weight_decay`` of
        0 is dropped if the class has no such argument
    """
    corrected = optimizer_class in (optim.Adam, optim.AdamW)
    kwargs = {**({"bias_correction": True} if corrected else {}), **optimizer_kwargs}
    decaying = (optim.AdamW, optim.Lion, optim.SGD, RMSpropTFLike)
    if optimizer_class not in decaying and not kwargs.get("weight_decay", 1):
        del kwargs["weight_decay"]
    return kwargs


def make_optimizer(
    optimizer_class: type[optim.Optimizer], learning_rate: float, optimizer_kwargs: dict[str, Any]
) -> optim.Optimizer:
    """
    Create an MLX optimizer from the arguments of torch's counterpart.

    :param optimizer_class: for instance ``mlx.optimizers.Adam``
    :param learning_rate: the initial learning rate
    :param optimizer_kwargs: the other arguments. A ``weight_decay`` of 0 is dropped if MLX's class has no
        such argument, and Adam corrects its bias by default, as in torch
    :return: the optimizer
    :raises ValueError: if an argument has no counterpart, or the learning rate is negative or not finite
    :raises TypeError: the class is torch's
    """
    refuse_torch(optimizer_class, "optimizer_class", "mlx.optimizers.Optimizer")
    kwargs = mlx_kwargs(optimizer_class, optimizer_kwargs)
    check_learning_rate(learning_rate)
    try:
        return (Adam if optimizer_class is optim.Adam else optimizer_class)(learning_rate, **kwargs)
    except TypeError as error:
        hint = " (use mlx.optimizers.AdamW for weight decay)" if kwargs.get("weight_decay") else ""
        raise ValueError(
            f"optimizer_kwargs={optimizer_kwargs!r} do not fit {optimizer_class.__name__}: {error}{hint}"
        ) from error


# torch's names of the running averages, which MLX calls m and v.
_TORCH_SLOTS = {
    "exp_avg": "m",
    "exp_avg_sq": "v",
    "grad_avg": "grad_avg",
    "momentum_buffer": "momentum_buffer",
    "square_avg": "v",
}


def from_torch_state(state_dict: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """
    Translate the state of torch's Adam, RMSprop or SGD, or of SB3's RMSpropTFLike.

    :param state_dict: ``{"state": {index: {slot: array}}, "param_groups": [...]}``
    :param names: the parameters in torch's order
    :return: ``step``, ``learning_rate`` and ``m.<parameter>``, …; only the learning rate before the first
        step
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
        translated |= _from_torch_slots(slots, name)
    return translated


def _from_torch_slots(slots: Mapping[str, Any], name: str) -> dict[str, Any]:
    """torch's state of one parameter, under MLX's names."""
    known = dict(_TORCH_SLOTS)
    translated: dict[str, Any] = {}
    if slots.get("momentum_buffer") is not None and "square_avg" not in slots:
        # SGD, whose momentum MLX calls v. torch's does not count steps, but has made one.
        known["momentum_buffer"] = "v"
        translated["step"] = np.uint64(1)
    for slot, array in slots.items():
        if slot == "step":
            translated["step"] = np.uint64(int(np.array(array)))
        elif slot in known and array is not None:
            translated[f"{known[slot]}.{name}"] = array
    return translated
