"""
Kernels in CUDA C++, compiled by NVIDIA's NVRTC, which MLX brings along. MLX's own ``cuda_kernel`` compiles
with the headers of its whole library: two seconds a kernel, where NVRTC alone takes 0.03 to 0.3 s.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_baselines3._atomic import atomic_open
from mlx_baselines3._kernel_cache import kernel_folder

__all__ = ["Kernel", "blocks_at_once", "usable"]

# cuda.h's CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76
# ..._MULTIPROCESSOR_COUNT and ..._MAX_SHARED_MEMORY_PER_MULTIPROCESSOR.
_MULTIPROCESSORS, _SHARED_MEMORY = 16, 81
_LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


class _Compiler(NamedTuple):
    """NVRTC, the architecture to compile for, and the version of the compiler."""

    library: Any
    architecture: str
    version: str


def _load(*names: str) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reason = error
    raise reason


def _attribute(attribute: int) -> int:
    number = ctypes.c_int()
    if _load("libcuda.so.1").cuDeviceGetAttribute(ctypes.byref(number), attribute, 0) != 0:
        raise OSError(f"the driver does not tell attribute {attribute} of the GPU")
    return number.value


@functools.cache
def blocks_at_once(shared_memory: int, most: int) -> int:
    """
    :param shared_memory: bytes that a block takes
    :param most: blocks of each multiprocessor, as many as the kernel was compiled for
    :return: blocks that are on the GPU at the same time
    :raises OSError: the driver does not tell
    """
    room = _attribute(_SHARED_MEMORY) // (shared_memory + 1024)
    return _attribute(_MULTIPROCESSORS) * max(min(room, most), 1)


def _find_compiler() -> _Compiler:
    library = _load(*_LIBRARIES)
    numbers = [_attribute(attribute) for attribute in (_MAJOR, _MINOR)]
    version = [ctypes.c_int(), ctypes.c_int()]
    library.nvrtcVersion(*map(ctypes.byref, version))
    return _Compiler(library, "sm_{}{}".format(*numbers), ".".join(str(part.value) for part in version))


@functools.cache
def _compiler() -> _Compiler | None:
    """NVRTC where MLX computes on an NVIDIA GPU; else None, and a warning if only NVRTC is missing."""
    cuda = getattr(mx, "cuda", None)
    if cuda is None or not cuda.is_available() or not hasattr(mx.fast, "precompiled_cuda_kernel"):
        return None
    if os.environ.get("MLX_BASELINES3_CUDA_KERNELS") == "0":
        return None
    try:
        compiler = _find_compiler()
        _compile(compiler, 'extern "C" __global__ void nothing(float* out) { out[0] = 0.f; }')
    except (OSError, AttributeError, RuntimeError) as error:
        warnings.warn(
            f"This package's own CUDA kernels cannot be compiled ({error}): MLX's general ones compute "
            "instead, which takes longer.",
            stacklevel=2,
        )
        return None
    return compiler


def usable() -> bool:
    """:return: whether MLX's default device is an NVIDIA GPU that kernels can be compiled for"""
    return mx.default_device().type == mx.gpu and _compiler() is not None


def _compile(compiler: _Compiler, source: str) -> bytes:
    """
    :return: the machine code
    :raises RuntimeError: the source is wrong, with the compiler's words
    """
    library, program = compiler.library, ctypes.c_void_p()
    if library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) != 0:
        raise RuntimeError("NVRTC takes no program")
    try:
        options = [f"--gpu-architecture={compiler.architecture}".encode(), b"--std=c++17"]
        failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * 2)(*options))
        size = ctypes.c_size_t()
        if failed:
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
            raise RuntimeError(log.value.decode())
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        library.nvrtcGetCUBIN(program, code)
        return code.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _place(compiler: _Compiler, source: str) -> Path:
    key = hashlib.sha256("\n".join((source, compiler.architecture, compiler.version)).encode()).hexdigest()
    folder = os.environ.get("MLX_PTX_CACHE_DIR")
    return Path(folder or kernel_folder(), f"mlx_baselines3-{key[:32]}.cubin")


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> bytes:
    """The machine code, from the disk if this user has compiled the same before."""
    compiler = _compiler()
    assert compiler is not None, "asked only where `usable()`"
    path = _place(compiler, source)
    try:
        return path.read_bytes()
    except OSError:
        code = _compile(compiler, source)
    # A folder that cannot be written to costs the next process the time once more.
    with contextlib.suppress(OSError):
        _store(path, code)
    return code


def _store(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write(code)


class Kernel:
    """
    One kernel, compiled when it is first called.

    :param name: the function, ``extern "C"``; its parameters are the inputs, the outputs and then the scalars
    :param source: CUDA C++
    """

    def __init__(self, name: str, source: str):
        self.name = name
        self._source = source
        self._code: bytes | None = None

    def is_compiled(self) -> bool:
        """:return: whether the first call will find the machine code"""
        compiler = _compiler()
        return self._code is not None or (compiler is not None and _place(compiler, self._source).exists())

    def __call__(
        self,
        inputs: list[mx.array],
        outputs: list[tuple[int, ...]],
        blocks: tuple[int, int],
        threads: int,
        scalars: tuple[int, ...] = (),
        dtypes: Sequence[mx.Dtype] | None = None,
    ) -> list[mx.array]:
        """
        :param inputs: arrays of any layout; those with gaps are copied first
        :param outputs: shapes
        :param blocks: of the grid
        :param threads: of a block
        :param scalars: 32-bit integers
        :param dtypes: of the outputs; float32 by default
        :return: the outputs
        """
        if self._code is None:
            self._code = _compiled(self._source)
        return mx.fast.precompiled_cuda_kernel(
            name=self.name,
            compiled_source=self._code,
            inputs=inputs,
            output_shapes=outputs,
            output_dtypes=[*dtypes] if dtypes else [mx.float32] * len(outputs),
            scalars=list(scalars),
            grid=(blocks[0] * threads, blocks[1], 1),
            threadgroup=(threads, 1, 1),
            ensure_row_contiguous=True,
        )
