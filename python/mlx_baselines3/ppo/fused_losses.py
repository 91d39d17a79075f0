"""
PPO's losses and metrics in one kernel on an NVIDIA GPU, and their gradient in another. In :mod:`.losses` they
are thirty operations on a few numbers each, and each of those is a kernel.
"""

from typing import Any

import mlx.core as mx

from mlx_baselines3.common.cuda.nvrtc import Kernel

__all__ = ["NAMES", "surrogate"]

# What the kernel gives, in its order; the mean advantage and the inverse deviation come behind.
NAMES = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss")
_THREADS = 1024
# Columns of a row: values, log_probs, advantages, returns.
_SOURCE = """
#define OLD 1
#define ADVANTAGE 2
#define RETURN 3
#define ARGUMENTS const float* log_prob, const float* entropy, const float* values, const float* rows, \\
  const float* clip, const float* entropy_weight, const float* value_weight
__device__ float total(float x) {
  __shared__ float parts[32];
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.f;
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  return x;
}
extern "C" __global__ void __launch_bounds__(1024) ppo_losses(ARGUMENTS, float* out, int n, int normalizes) {
  // Equal advantages become exactly 0: all are moved by the first one.
  const float first = rows[ADVANTAGE];
  float mean = 0.f, scale = 1.f;
  if (normalizes && n > 1) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += rows[4 * (long)i + ADVANTAGE] - first;
    mean = total(sum) / n;
    sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const float d = rows[4 * (long)i + ADVANTAGE] - first - mean;
      sum += d * d;
    }
    scale = 1.f / (sqrtf(total(sum) / (n - 1)) + 1e-8f);
    mean += first;
  }
  const float range = clip[0];
  float policy = 0.f, value = 0.f, ent = 0.f, kl = 0.f, clipped = 0.f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float* row = rows + 4 * (long)i;
    const float a = normalizes && n > 1 ? (row[ADVANTAGE] - first - (mean - first)) * scale : row[ADVANTAGE];
    const float log_ratio = log_prob[i] - row[OLD], r = expf(log_ratio), error = row[RETURN] - values[i];
    policy += fminf(a * r, a * fminf(fmaxf(r, 1.f - range), 1.f + range));
    value += error * error; ent += entropy[i]; kl += (r - 1.f) - log_ratio; clipped += fabsf(r - 1.f) > range;
  }
  policy = total(policy) / -n; value = total(value) / n; ent = total(ent) / -n; kl = total(kl) / n;
  clipped = total(clipped) / n;
  if (threadIdx.x == 0) {
    out[0] = policy; out[1] = value; out[2] = ent; out[3] = kl; out[4] = clipped;
    out[5] = policy + entropy_weight[0] * ent + value_weight[0] * value; out[6] = mean; out[7] = scale;
  }
}
extern "C" __global__ void ppo_gradients(ARGUMENTS, const float* out, const float* given, float* d_log_prob,
    float* d_entropy, float* d_values, int n, int normalizes) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float* row = rows + 4 * (long)i;
  const float a = normalizes && n > 1 ? (row[ADVANTAGE] - out[6]) * out[7] : row[ADVANTAGE];
  const float range = clip[0], r = expf(log_prob[i] - row[OLD]);
  const float capped = fminf(fmaxf(r, 1.f - range), 1.f + range);
  const bool inside = r >= 1.f - range && r <= 1.f + range;
  // Of two equal numbers, minimum() passes the gradient to the first, or both are the same.
  const float slope = a * r <= a * capped || inside ? -a * r / n : 0.f;
  // Of all that is given, only the losses have a gradient that anyone asks for.
  d_log_prob[i] = (given[0] + given[5]) * slope;
  d_entropy[i] = -(given[2] + given[5] * entropy_weight[0]) / n;
  d_values[i] = (given[1] + given[5] * value_weight[0]) * 2.f * (values[i] - row[RETURN]) / n;
}"""
_losses, _gradients = Kernel("ppo_losses", _SOURCE), Kernel("ppo_gradients", _SOURCE)


def surrogate(
    outcome: tuple[mx.array, mx.array, mx.array],
    rows: mx.array,
    weights: tuple[mx.array, mx.array, mx.array],
    normalizes: bool,
) -> dict[str, mx.array]:
    """
    :param outcome: (batch,) log probabilities, entropies and values now
    :param rows: (batch, 4) values and log probabilities at collection, advantages, returns
    :param weights: clip range, weights of entropy and value loss, scalars
    :param normalizes: whether the advantages are normalised
    :return: the losses and metrics of :data:`NAMES`, scalars
    """
    count = len(rows)
    scalars = (count, int(normalizes))

    @mx.custom_function
    def losses(*given: mx.array) -> mx.array:
        return _losses([*given], [(8,)], (1, 1), _THREADS, scalars)[0]

    @losses.vjp
    def gradients(given: tuple[mx.array, ...], cotangent: mx.array, out: mx.array) -> Any:
        blocks = -(-count // 256), 1
        found = _gradients([*given, out, cotangent], [(count,)] * 3, blocks, 256, scalars)
        return (*found, *(mx.zeros_like(array) for array in given[3:]))

    out: Any = losses(*outcome, rows, *weights)
    return dict(zip(NAMES, (part.squeeze() for part in mx.split(out, 8)), strict=False))
