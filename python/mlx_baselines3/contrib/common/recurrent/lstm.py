"""An LSTM with torch's parameters: gates in the order input, forget, cell, output, and two biases."""

import math
from typing import Any

import mlx.core as mx

from mlx_baselines3.common.nn.layers import Module
from mlx_baselines3.common.nn.memory import check_widths

__all__ = ["LSTM"]


class LSTM(Module):
    """
    Layers of long short-term memory (https://doi.org/10.1162/neco.1997.9.8.1735), with the names and the
    layout of ``torch.nn.LSTM``: ``weight_ih_l0`` ``(4 * hidden, inputs)``, ``weight_hh_l0`` ``(4 * hidden,
    hidden)``, ``bias_ih_l0`` and ``bias_hh_l0``. Initial parameters are uniform in ``±1 / sqrt(hidden)``.

    :param input_size: numbers of an input
    :param hidden_size: numbers of a hidden state
    :param num_layers: layers on top of each other
    :param bias: whether there are biases
    :param dropout: share of what one layer gives the next one that is dropped in training mode
    :param unknown: other arguments of torch's class
    :raises ValueError: other arguments, which are not supported, or a size below 1
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            raise ValueError(
                f"lstm_kwargs has {', '.join(sorted(unknown))}, which this LSTM does not support: it takes "
                "`bias` "
                "and `dropout`."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected a share of at least 0 and less than 1.")
        for name, size in (("lstm_hidden_size", hidden_size), ("n_lstm_layers", num_layers)):
            if size < 1:
                raise ValueError(f"{name} is {size}, expected at least 1.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.has_bias = dropout, bias
        bound = 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else hidden_size
            check_widths(inputs, 4 * hidden_size)
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (4 * hidden_size, inputs),
                "weight_hh": (4 * hidden_size, hidden_size),
            }
            if bias:
                shapes |= dict.fromkeys(("bias_ih", "bias_hh"), (4 * hidden_size,))
            for name, shape in shapes.items():
                setattr(self, f"{name}_l{layer}", mx.random.uniform(-bound, bound, shape))

    def forward(
        self, x: mx.array, states: tuple[mx.array, mx.array], keep: mx.array | None = None
    ) -> tuple[mx.array, tuple[mx.array, mx.array]]:
        """
        :param x: (length, batch, inputs)
        :param states: hidden and cell states (layers, batch, hidden) before the first step
        :param keep: (length, batch) factors on the states before each step: 0 where a new episode begins;
            None keeps all
        :return: (length, batch, hidden) hidden states of the last layer, and all states after the last step
        """
        factors = None if keep is None else [step.squeeze(0) for step in mx.split(keep[..., None], len(x))]
        after = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                kept = mx.random.bernoulli(1 - self.dropout, x.shape)
                x = mx.where(kept, x / (1 - self.dropout), 0.0)
            x, last = self._layer(layer, x, (states[0][layer], states[1][layer]), factors)
            after.append(last)
        return x, (mx.stack([h for h, _ in after]), mx.stack([c for _, c in after]))

    def _layer(
        self, layer: int, x: mx.array, state: tuple[mx.array, mx.array], factors: list[mx.array] | None
    ) -> tuple[mx.array, tuple[mx.array, mx.array]]:
        length, batch, inputs = x.shape
        weights = getattr(self, f"weight_ih_l{layer}")
        # What does not depend on the state, for all steps at once.
        driven = x.reshape(length * batch, inputs) @ weights.T
        if self.has_bias:
            driven = driven + (getattr(self, f"bias_ih_l{layer}") + getattr(self, f"bias_hh_l{layer}"))
        steps = mx.split(driven.reshape(length, batch, -1), length)
        recurrent = getattr(self, f"weight_hh_l{layer}").T
        hidden, cell = state
        outputs = []
        for i, step in enumerate(steps):
            if factors is not None:
                hidden, cell = hidden * factors[i], cell * factors[i]
            gates = mx.addmm(step.squeeze(0), hidden, recurrent)
            taken, kept, new, shown = mx.split(gates, 4, axis=-1)
            cell = mx.sigmoid(kept) * cell + mx.sigmoid(taken) * mx.tanh(new)
            hidden = mx.sigmoid(shown) * mx.tanh(cell)
            outputs.append(hidden)
        return mx.stack(outputs), (hidden, cell)
