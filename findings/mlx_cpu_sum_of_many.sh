#!/usr/bin/env bash
# MLX's CPU backend adds up with one float32 accumulator.
#
# mlx and mlx-cpu 0.32.4, NumPy 2.3.5, Python 3.11, Linux x86-64. Seen 2026-11-29.
# `mx.mean` of equal numbers is off by 1.6e-5 (2,048 of them), 1e-3 (131,072) and 9 % (10 million); NumPy, which adds
# in pairs, and a sum in two levels in MLX itself are right to 1e-4 or better. One would expect pairwise or blocked sums, as
# NumPy and torch have them. Sums over the first axis of a matrix and gradients of broadcasts have the same error.
#
# Output seen:
#   2048 1.6e-05 1.6e-07 8.0e-07
#   131072 1.0e-03 1.6e-07 1.8e-06
#   10000000 8.8e-02 8.9e-08 5.3e-05
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.3.5
"$folder/env/bin/python" - <<'PYTHON'
import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
off = {}
for count in (2_048, 131_072, 10_000_000):
    width = 1 << (count.bit_length() // 2)
    numbers = np.full(count, 0.1, np.float32)
    whole = mx.array(numbers[: count - count % width])
    means = (mx.mean(mx.array(numbers)).item(), numbers.mean(), whole.reshape(-1, width).mean(axis=1).mean().item())
    off[count] = [abs(float(mean) / 0.1 - 1) for mean in means]
    print(count, *(f"{error:.1e}" for error in off[count]))
assert off[131_072][0] > 5e-4 and off[10_000_000][0] > 0.05, "MLX adds up more exactly now"
assert all(max(errors[1:]) < 1e-4 for errors in off.values()), "NumPy or the sum in two levels is off"
PYTHON
