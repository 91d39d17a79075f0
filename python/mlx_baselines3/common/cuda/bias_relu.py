"""
A convolution's bias and ReLU on an NVIDIA GPU. With MLX's operations both are kernels of their own, and so
are three backwards, of which the sum over all pixels takes as long as the convolution.
"""

from typing import Any, cast

import mlx.core as mx

from mlx_baselines3.common.cuda.nvrtc import Kernel

__all__ = ["bias_relu", "suits", "template"]

_THREADS = 256
# Blocks that keep a large GPU busy.
_BLOCKS = 1056
# Channels are taken four at a time, by one thread each.
_AT_ONCE = 4
template = """
// Four channels for each thread: column `lane` of a row of `lanes`.
extern "C" __global__ void bias_relu(const float4* x, const float4* bias, float4* y, int rows, int lanes) {
  const long count = (long)rows * lanes;
  for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (long)gridDim.x * blockDim.x) {
    const float4 a = x[i], b = bias[i % lanes];
    y[i] = {fmaxf(a.x + b.x, 0.f), fmaxf(a.y + b.y, 0.f), fmaxf(a.z + b.z, 0.f), fmaxf(a.w + b.w, 0.f)};
  }
}

extern "C" __global__ void bias_relu_back(const float4* by_y, const float4* y, float4* by_x, float4* sums,
                                          int rows, int lanes) {
  SHARED float4 parts[256];
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = blockDim.x / lanes;
  float4 sum = {0.f, 0.f, 0.f, 0.f};
  if (group < groups)
    for (long row = (long)blockIdx.x * groups + group; row < rows; row += (long)gridDim.x * groups) {
      const long i = row * lanes + lane;
      float4 g = by_y[i];
      const float4 a = y[i];
      g = {a.x > 0.f ? g.x : 0.f, a.y > 0.f ? g.y : 0.f, a.z > 0.f ? g.z : 0.f, a.w > 0.f ? g.w : 0.f};
      by_x[i] = g;
      sum.x += g.x; sum.y += g.y; sum.z += g.z; sum.w += g.w;
    }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (group == 0) {
    for (int j = 1; j < groups; j++) {
      const float4 g = parts[j * lanes + lane];
      sum.x += g.x; sum.y += g.y; sum.z += g.z; sum.w += g.w;
    }
    sums[(long)blockIdx.x * lanes + lane] = sum;
  }
}"""
_SOURCE = template.replace("SHARED", "__shared__")
_forward, _backward = Kernel("bias_relu", _SOURCE), Kernel("bias_relu_back", _SOURCE)


def suits(channels: int) -> bool:
    """
    :param channels: of a convolution's output
    :return: whether the kernels can be used
    """
    return channels % _AT_ONCE == 0 and 0 < channels <= _AT_ONCE * _THREADS


def _blocks(rows: int, lanes: int) -> int:
    return max(min(_BLOCKS, -(-rows * lanes // _THREADS)), 1)


@mx.custom_function
def _bias_relu(x: mx.array, bias: mx.array) -> mx.array:
    rows, lanes = x.size // bias.size, bias.size // _AT_ONCE
    blocks = _blocks(rows, lanes)
    return _forward([x, bias], [x.shape], (blocks, 1), _THREADS, (rows, lanes))[0]


@_bias_relu.vjp
def _(primals: tuple[mx.array, mx.array], by_y: mx.array, y: mx.array) -> Any:
    x, bias = primals
    rows, lanes = x.size // bias.size, bias.size // _AT_ONCE
    blocks = _blocks(rows, lanes)
    shapes: list[tuple[int, ...]] = [x.shape, (blocks, bias.size)]
    by_x, sums = _backward([by_y, y], shapes, (blocks, 1), _THREADS, (rows, lanes))
    return by_x, sums.sum(axis=0)


def bias_relu(x: mx.array, bias: mx.array) -> mx.array:
    """
    :param x: (..., channels) float32
    :param bias: (channels,)
    :return: ``max(x + bias, 0)``
    """
    return cast(mx.array, _bias_relu(x, bias))
