"""
This package's programs for GPUs on a CPU: the kernel itself, compiled by g++ with a small emulation of CUDA
(``cuda_emulator.hpp``). It shows what the kernel computes, not how fast; races would not be seen.
"""

import ctypes
import functools
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.cuda import program_launch
from mlx_baselines3.common.cuda.program_layout import kernel_source
from mlx_baselines3.common.cuda.upload import Together
from mlx_baselines3.common.training import program_actor_critic, program_on_policy

# Few, so that they take turns, and tasks have more portions than there are blocks.
_BLOCKS = 3
_ENTRY = """
extern "C" void emulate(const int* program, const float* before, const float* control, const float* data,
    const float* extra, float* state, float* scratch, const int* n) {
  unsigned long long counter = 0;
  emulator::run(%d, THREADS, [&] {
    run_program(program, &counter, before, control, data, extra, state, scratch, n[0], n[1], n[2], n[3], n[4],
                n[5], n[6], n[7]);
  });
}
"""


@functools.cache
def _library() -> Any:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folder = pathlib.Path(tempfile.mkdtemp())
    head = (pathlib.Path(__file__).parent / "cuda_emulator.hpp").read_text(encoding="utf-8")
    # What is not in the head is CUDA C++ as NVRTC sees it.
    source = kernel_source(head) + _ENTRY % _BLOCKS
    (folder / "kernel.cpp").write_text(source, encoding="utf-8")
    options = ["-O2", "-fno-strict-aliasing", "-std=c++17", "-w", "-shared", "-fPIC", "-pthread"]
    command = ["g++", *options, "-o", str(folder / "kernel.so"), str(folder / "kernel.cpp")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "kernel.so"))


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _start(inputs: list[mx.array], shapes: Sequence[Any], scalars: tuple[int, ...], wanted: int) -> mx.array:
    tasks, _, *given = [np.ascontiguousarray(np.array(array)) for array in inputs]
    state, scratch = (np.full(shape, np.nan, np.float32) for shape in shapes)
    # All launches have a counter of their own, and one number of blocks.
    numbers = np.array([*scalars[:5], 0, *scalars[6:]], np.int32)
    _library().emulate(*map(_address, (tasks, *given, state, scratch, numbers)))
    return mx.array(state)


class _Page:
    """Stands for page-locked memory."""

    def __init__(self) -> None:
        self.bytes = np.empty(0, np.uint8)

    @property
    def place(self) -> int:
        return self.bytes.ctypes.data

    def reserve(self, needed: int) -> None:
        if needed > self.bytes.size:
            self.bytes = np.empty(max(needed, 1 << 12), np.uint8)


class _Staging:
    """Stands for uploads."""

    @staticmethod
    def upload_together(arrays: Sequence[np.ndarray]) -> Together:
        places, parts, end = [], [], 0
        for array in arrays:
            part = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
            places.append(end)
            parts.append(np.pad(part, (0, -part.size % 16)))
            end += parts[-1].size
        return Together(mx.array(np.concatenate(parts)), places)


def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    :param monkeypatch: pytest's; until it undoes it, programs run on the CPU
    """
    monkeypatch.setattr(program_launch.Launcher, "_start", staticmethod(_start))
    monkeypatch.setattr(program_launch.Launcher, "_new_page", staticmethod(_Page))
    for module in (program_on_policy, program_actor_critic):
        monkeypatch.setattr(module, "staging", _Staging)
