"""A convolution in NumPy, to compare layers with."""

import numpy as np


def numpy_convolution(x, weight, bias, stride, padding):
    """``x`` is (batch, channels, height, width), ``weight`` (out, in, kernel, kernel)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    n, _, height, width = x.shape
    out_channels, _, kernel, _ = weight.shape
    rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    out = np.zeros((n, out_channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", patch, weight) + bias
    return out
