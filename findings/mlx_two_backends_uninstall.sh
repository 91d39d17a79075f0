#!/usr/bin/env bash
# MLX's Linux backends own one file in common: uninstalling one breaks the other, and pip does not notice.
#
# mlx, mlx-cpu and mlx-cuda-12 0.32.4, pip 23.2.1, Python 3.11.7, Linux x86-64. Seen 2026-11-29.
# `mlx-cpu` and `mlx-cuda-12` both install mlx/lib/libmlx.so, and the later one overwrites the earlier one's without a
# word. `pip uninstall mlx-cuda-12` then removes the file, `import mlx.core` fails, `pip check` finds nothing broken, and
# `pip install 'mlx[cpu]'` does nothing, since mlx-cpu counts as installed. `--force-reinstall mlx-cpu` fixes it. One
# would expect a conflict at the second install, or that asking for `mlx[cpu]` again restores what it needs.
#
# Output seen:
#   after installing both: libmlx.so replaced, owned by mlx_cpu mlx_cuda_12
#   after uninstalling mlx-cuda-12: libmlx.so missing
#   No broken requirements found.
#   after pip install 'mlx[cpu]': libmlx.so missing
#   ImportError: libmlx.so
#   after --force-reinstall mlx-cpu: libmlx.so there, sum of three ones 3.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip="$folder/env/bin/pip"
"$pip" install --quiet 'mlx[cpu]==0.32.4'
packages=$("$folder/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
library="$packages/mlx/lib/libmlx.so"
cp "$library" "$folder/first.so"
# Without its dependencies: NVIDIA's libraries are gigabytes, and who owns the file does not depend on them.
"$pip" install --quiet --no-deps mlx-cuda-12==0.32.4
cmp --silent "$library" "$folder/first.so" && exit 1
owners=$(cd "$packages" && grep -l '^mlx/lib/libmlx.so,' ./*.dist-info/RECORD | sed -E 's#^./(.*)-[0-9.]+dist-info.*#\1#' | xargs)
echo "after installing both: libmlx.so replaced, owned by $owners"
test "$owners" = 'mlx_cpu mlx_cuda_12'

there() { if [ -e "$library" ]; then echo there; else echo missing; fi; }
"$pip" uninstall --quiet --yes mlx-cuda-12
echo "after uninstalling mlx-cuda-12: libmlx.so $(there)"
"$pip" check
"$pip" install --quiet 'mlx[cpu]==0.32.4'
echo "after pip install 'mlx[cpu]': libmlx.so $(there)"
test "$(there)" = missing
if "$folder/env/bin/python" -c 'import mlx.core' 2>"$folder/error"; then exit 1; fi
tail -n 1 "$folder/error" | cut -d : -f 1,2
"$pip" install --quiet --force-reinstall --no-deps mlx-cpu==0.32.4
total=$("$folder/env/bin/python" -c 'import mlx.core as mx; print(mx.ones(3).sum().item())')
echo "after --force-reinstall mlx-cpu: libmlx.so $(there), sum of three ones $total"
test "$total" = 3.0
