"""
Many arrays as one vector, on an NVIDIA GPU: packing, clipping and Adam in one kernel each.

With MLX's own operations each array's gradient is copied by a kernel to its place in the vector. A kernel
costs the host 6 to 10 us, whatever it does.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_baselines3.common.cuda.nvrtc import Kernel

__all__ = ["adam", "pack", "squares"]

_THREADS = 256
# Numbers that a block goes over.
_CHUNK = 1024
# Pointers that a kernel takes; the driver's limit is 4096 bytes of arguments.
MOST_ARRAYS = 200


class _Layout(NamedTuple):
    """Sizes of arrays, and with the gaps after them."""

    sizes: tuple[int, ...]
    padded: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.padded)

    def blocks(self) -> list[tuple[int, int, int]]:
        """For each block its array, where it begins there, and where in the vector."""
        found, place = [], 0
        for i, padded in enumerate(self.padded):
            found += [(i, start, place + start) for start in range(0, padded, _CHUNK)]
            place += padded
        return found


def _head(layout: _Layout) -> str:
    """Tables, and a macro that finds a thread's numbers: `x` is the array's number at `at` of the vector."""
    blocks = layout.blocks()
    table = ",".join(f"{{{a},{b},{c}}}" for a, b, c in blocks)
    return f"""
__constant__ int BLOCK[{len(blocks)}][3] = {{{table}}};
__constant__ int SIZE[{len(layout.sizes)}] = {{{",".join(map(str, layout.sizes))}}};
__constant__ int PADDED[{len(layout.sizes)}] = {{{",".join(map(str, layout.padded))}}};
#define EACH(WORK) {{ \\
  const float* const given[] = {{{",".join(f"a{i}" for i in range(len(layout.sizes)))}}}; \\
  const int array = BLOCK[blockIdx.x][0], start = BLOCK[blockIdx.x][1], place = BLOCK[blockIdx.x][2]; \\
  const int size = SIZE[array], end = min(PADDED[array] - start, {_CHUNK}); \\
  const float* from = given[array] + start; \\
  for (int i = threadIdx.x; i < end; i += {_THREADS}) {{ \\
    const int at = place + i; const float x = start + i < size ? from[i] : 0.f; WORK }} }}
"""


def _arguments(layout: _Layout) -> str:
    return ", ".join(f"const float* a{i}" for i in range(len(layout.sizes)))


_SUM = """
__device__ float block_sum(float x) {
  __shared__ float parts[32];
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.f;
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  return x;
}
"""


@functools.cache
def _pack_kernel(layout: _Layout) -> Kernel:
    return Kernel(
        "pack",
        f'{_head(layout)}extern "C" __global__ void pack({_arguments(layout)}, float* out) {{ '
        "EACH(out[at] = x;) }",
    )


@functools.cache
def _squares_kernel(layout: _Layout) -> Kernel:
    return Kernel(
        "squares",
        f'{_head(layout)}{_SUM}extern "C" __global__ void squares({_arguments(layout)}, float* out) {{ '
        "float sum = 0.f; EACH(sum += x * x;) sum = block_sum(sum); "
        "if (threadIdx.x == 0) out[blockIdx.x] = sum; }",
    )


@functools.cache
def _adam_kernel(
    layout: _Layout, n_squares: int, clips: bool, corrects: bool, numbers: tuple[float, float, float]
) -> Kernel:
    b1, b2, eps = (
        f"{number!r}f" if "." in repr(number) or "e" in repr(number) else f"{number!r}.f"
        for number in numbers
    )
    clipped = "const float* parts, const float* most, " if clips else ""
    scale = (
        f"""float sum = 0.f; for (int i = threadIdx.x; i < {n_squares}; i += {_THREADS}) sum += parts[i];
  sum = block_sum(sum); const float scale = fminf(most[0] / (sqrtf(sum) + 1e-6f), 1.f);"""
        if clips
        else "const float scale = 1.f;"
    )
    size, root = (
        (f"rate[0] / (1.f - powf({b1}, t))", f"rsqrtf(1.f - powf({b2}, t))")
        if corrects
        else ("rate[0]", "1.f")
    )
    return Kernel(
        "adam",
        f"""{_head(layout)}{_SUM}
extern "C" __global__ void adam({_arguments(layout)}, const float* p, const float* m, const float* v,
    const float* rate, const unsigned long long* step, {clipped}float* p2, float* m2, float* v2,
    unsigned long long* next) {{
  {scale}
  if (blockIdx.x == 0 && threadIdx.x == 0) next[0] = step[0] + 1;
  const float t = (float)(step[0] + 1), size_ = {size}, root = {root};
  EACH(const float g = x * scale; const float a = {b1} * m[at] + (1.f - {b1}) * g;
    const float b = {b2} * v[at] + (1.f - {b2}) * (g * g);
    m2[at] = a; v2[at] = b; p2[at] = p[at] - size_ * a / (sqrtf(b) * root + {eps});)
}}""",
    )


def _layout(arrays: Sequence[mx.array], alignment: int) -> _Layout:
    sizes = tuple(array.size for array in arrays)
    return _Layout(sizes, tuple(size + -size % alignment for size in sizes))


def pack(arrays: Sequence[mx.array], alignment: int) -> mx.array:
    """
    :param arrays: float32, any shapes
    :param alignment: each begins at a multiple of it
    :return: one vector of their numbers, zeros between
    """
    layout = _layout(arrays, alignment)
    return _pack_kernel(layout)([*arrays], [(layout.size,)], (len(layout.blocks()), 1), _THREADS)[0]


def squares(arrays: Sequence[mx.array]) -> mx.array:
    """
    :param arrays: float32, any shapes
    :return: numbers whose sum is the sum of all squares
    """
    layout = _layout(arrays, 1)
    blocks = len(layout.blocks())
    return _squares_kernel(layout)([*arrays], [(blocks,)], (blocks, 1), _THREADS)[0]


def adam(
    gradients: Sequence[mx.array],
    alignment: int,
    vectors: tuple[mx.array, mx.array, mx.array],
    numbers: tuple[float, float, float],
    corrects: bool,
    rate: mx.array,
    step: mx.array,
    clip: tuple[mx.array, mx.array] | None = None,
) -> list[mx.array]:
    """
    One step of Adam, see :class:`~mlx_baselines3.common.nn.optimizers.Adam`.

    :param gradients: as :func:`pack` would take them
    :param alignment: as there
    :param vectors: packed parameters, first and second moments
    :param numbers: both betas and epsilon
    :param corrects: whether the bias is corrected
    :param rate: learning rate, scalar
    :param step: how many there were, uint64
    :param clip: what :func:`squares` gave of all gradients, and the largest norm; None does not clip
    :return: the new vectors, and the number of steps
    """
    layout = _layout(gradients, alignment)
    n_squares = clip[0].size if clip else 0
    kernel = _adam_kernel(layout, n_squares, clip is not None, corrects, numbers)
    inputs = [*gradients, *vectors, rate, step, *(clip or ())]
    shapes: list[tuple[int, ...]] = [(layout.size,)] * 3 + [()]
    dtypes = [mx.float32] * 3 + [mx.uint64]
    return kernel(inputs, shapes, (len(layout.blocks()), 1), _THREADS, dtypes=dtypes)
