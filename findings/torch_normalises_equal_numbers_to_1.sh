#!/usr/bin/env bash
# Normalising equal numbers with `(a - a.mean()) / (a.std() + 1e-8)` gives about 1 in torch, not 0.
#
# torch 2.15.0, Python 3.11, Linux x86-64. Seen 2026-11-29.
# The line is how PPO implementations on torch, Stable-Baselines3 among them, normalise the advantages of a
# minibatch. The rounding error of the mean is the same for all elements, so the deviation is that error too, and the
# quotient is about 1 (0.4 to 1, by the size of 1e-8 beside it), whatever the count. A batch whose advantages are all
# equal should not move the policy; it moves it towards (or away from) every action taken.
#
# Output seen:
#   64 0.916 123.456: 0.0
#   2048 0.979 123.456: 0.999
#   131072 0.983 123.456: 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 numpy==2.3.5
"$folder/env/bin/python" - <<'PYTHON'
import torch


def normalised(value, count):
    numbers = torch.full((count,), value)
    return ((numbers - numbers.mean()) / (numbers.std() + 1e-8)).abs().max().item()


for count in (64, 2_048, 131_072):
    print(count, round(normalised(1.7, count), 3), "123.456:", round(normalised(123.456, count), 3))
assert normalised(1.7, 2_048) > 0.9 and normalised(123.456, 131_072) > 0.9, "torch gives 0 now"
PYTHON
