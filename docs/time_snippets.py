"""Time the snippets of efficient-policies.md: python docs/time_snippets.py"""

import pathlib
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

# Before MLX: on Linux CPUs it gives MLX a fast matrix product, which is possible only until MLX is loaded.
import mlx_baselines3  # noqa: F401

# isort: split
import gymnasium as gym
import mlx.core as mx
import numpy as np

PAGE = pathlib.Path(__file__).parent / "efficient-policies.md"
ROWS, COLUMNS, ROUNDS = 1024, 256, 51


def snippets(page: str) -> dict[str, list[str]]:
    """The code blocks of a page, by the heading above them."""
    blocks: dict[str, list[str]] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        title, _, text = section.partition("\n")
        blocks[title] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return blocks


def shared_imports(blocks: dict[str, list[str]]) -> str:
    """The block of imports that the others rely on."""
    (imports,) = [code for parts in blocks.values() for code in parts if code.startswith("import gymnasium")]
    return imports


def _extraction(code: str, imports: str) -> Callable[[], Any]:
    names: dict[str, Any] = {}
    exec(imports + code, names)
    columns = COLUMNS // 2 if "EverySecond" in names else COLUMNS
    space = gym.spaces.Box(-1, 1, (columns,), np.float32)
    extractor = names["Features"](space)
    observations = mx.random.uniform(-1, 1, (ROWS, columns))
    mx.eval(observations, extractor.parameters())
    return lambda: mx.eval(extractor(observations))


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(5):
        function()
    return (time.perf_counter() - start) / 5


def main() -> None:
    """Print the median of the ratios for each section that has features extractors."""
    blocks = snippets(PAGE.read_text())
    imports = shared_imports(blocks)
    for title, codes in blocks.items():
        if len(codes) != 2 or not all("class Features" in code for code in codes):
            continue
        before, after = (_extraction(code, imports) for code in codes)
        pairs = [(_seconds(before), _seconds(after)) for _ in range(ROUNDS)]
        ratio = statistics.median(first / second for first, second in pairs)
        times = [f"{statistics.median(column) * 1e6:.0f} us" for column in zip(*pairs, strict=True)]
        print(f"{title}: before {times[0]}, after {times[1]}, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
