"""
What must happen before MLX is imported: lend it a fast BLAS on Linux, ask it for full float32 products on
GPUs, keep its kernels apart from other users', and say in one sentence why it cannot be imported where it
cannot.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from mlx_baselines3 import _kernel_cache, _tf32

__all__ = ["BlasState", "blas_state", "prepare", "threads_count"]

_ON_LINUX = sys.platform.startswith("linux")
# The distributions that bring libmlx.so, and the extra of `mlx` that asks for each in its own version.
_BACKENDS = {"mlx-cpu": "cpu", "mlx-cuda-12": "cuda12", "mlx-cuda-13": "cuda13"}
_INSTALL = "pip install 'mlx[cpu]' (or 'mlx[cuda12]', 'mlx[cuda13]')"


@dataclass(frozen=True)
class BlasState:
    """
    Who multiplies MLX's matrices on the CPU.

    :param active: whether NumPy's OpenBLAS does it, through the package's bridge
    :param library: path of that OpenBLAS, ``None`` where MLX's own BLAS is used
    :param reason: why it is so
    :param calls: products that the bridge has passed on in this process
    """

    active: bool
    library: str | None
    reason: str
    calls: int = 0

    def __str__(self) -> str:
        """
        :return: one line for people
        """
        return f"{self.library} ({self.calls} calls)" if self.active else f"MLX's own ({self.reason})"


@dataclass(frozen=True)
class _OpenBlas:
    path: str
    sgemm: int
    dgemm: int
    wide: bool
    threads: tuple[int, int]


_state: BlasState | None = None


def prepare() -> None:
    """
    Bridge the BLAS, switch TF32 off, choose the folder for kernels and import MLX. Only the first call of a
    process does anything.

    :raises ImportError: MLX, or its backend, is missing or broken; the message has the command that mends it
    """
    global _state
    if _state is not None:
        return
    _kernel_cache.keep_to_own_kernels()
    asked = _tf32.switch_off()
    if sys.modules.get("mlx.core") is not None:
        _state = _too_late()
        if asked:
            _tf32.say_whether_it_took_effect()
        return
    _check_library()
    state = _bridge()
    _import_mlx()
    _state = state
    _warn_of_two_backends()


def blas_state() -> BlasState:
    """
    :return: who multiplies MLX's matrices on the CPU, with the number of calls so far
    """
    if _state is None:
        return BlasState(False, None, "mlx_baselines3 has not been imported yet")
    if not _state.active:
        return _state
    native = importlib.import_module("mlx_baselines3._native")
    return BlasState(True, _state.library, _state.reason, native.blas_calls())


def threads_count() -> int:
    """
    :return: how many threads may work at most: ``MLX_BASELINES3_THREADS``, else one for each core
    :raises ValueError: the variable holds no such number
    """
    count: int = importlib.import_module("mlx_baselines3._native").threads_count()
    return count


# The BLAS bridge


def _refusal() -> str | None:
    """Why no bridge is wanted here, whatever NumPy carries."""
    if not _ON_LINUX:
        return f"the bridge is for Linux, this is {platform.system()}"
    if os.environ.get("MLX_BASELINES3_BLAS") == "0":
        return "switched off by MLX_BASELINES3_BLAS=0"
    return None


def _bridge() -> BlasState:
    reason = _refusal()
    if reason is not None:
        _load_native(shared=False)
        return BlasState(False, None, reason)
    found = _numpy_openblas()
    if isinstance(found, str):
        _load_native(shared=False)
        return BlasState(False, None, found)
    native = _load_native(shared=False)
    try:
        native.blas_install(found.sgemm, found.dgemm, found.wide, *found.threads)
    except ValueError as error:
        return BlasState(False, None, f"{found.path} was not taken: {error}")
    # Only now may others find `cblas_sgemm` here.
    _load_native(shared=True)
    return BlasState(True, found.path, "OpenBLAS of NumPy")


def _load_native(shared: bool) -> ModuleType:
    """Import the extension, with its symbols seen by libraries loaded later only where ``shared``."""
    flags = sys.getdlopenflags() if hasattr(sys, "getdlopenflags") else None
    if flags is not None:
        # A program that opens its extensions globally must not open this one before its time.
        sys.setdlopenflags(flags & ~os.RTLD_GLOBAL)
    try:
        native = importlib.import_module("mlx_baselines3._native")
    finally:
        if flags is not None:
            sys.setdlopenflags(flags)
    if shared:
        ctypes.CDLL(native.__file__, ctypes.RTLD_GLOBAL)
    return native


def _numpy_openblas() -> _OpenBlas | str:
    """The OpenBLAS that importing NumPy has loaded, or why there is none."""
    importlib.import_module("numpy")
    paths = _mapped_libraries("openblas")
    if not paths:
        return "NumPy has loaded no OpenBLAS"
    # SciPy may have brought one too; NumPy's wheel keeps its own in numpy.libs.
    for path in sorted(paths, key=lambda path: "numpy.libs" not in path):
        found = _gemm_functions(path)
        if found is not None:
            return found
    return f"no cblas_sgemm under a known name in {', '.join(sorted(paths))}"


def _mapped_libraries(part: str) -> set[str]:
    # Six columns: addresses, rights, offset, device, inode, path.
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    paths = {columns[5] for line in lines if len(columns := line.split(maxsplit=5)) == 6}
    return {path for path in paths if part in path and ".so" in Path(path).name}


def _gemm_functions(path: str) -> _OpenBlas | None:
    """Look under the names that OpenBLAS is built with: NumPy's wheels add a prefix and a suffix."""
    try:
        library = ctypes.CDLL(path)
    except OSError:  # deleted since it was loaded
        return None
    for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
        sgemm, dgemm, config = (
            getattr(library, f"{prefix}{name}{suffix}", None)
            for name in ("cblas_sgemm", "cblas_dgemm", "openblas_get_config")
        )
        if sgemm is None or dgemm is None or config is None:
            continue
        config.restype = ctypes.c_char_p
        wide = suffix == "64_" or b"USE64BITINT" in config()
        threads = [
            _address(getattr(library, f"{prefix}openblas_{verb}_num_threads{suffix}", None))
            for verb in ("get", "set")
        ]
        return _OpenBlas(path, _address(sgemm), _address(dgemm), wide, (threads[0], threads[1]))
    return None


def _address(function: Any) -> int:
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def _too_late() -> BlasState:
    _load_native(shared=False)
    reason = _refusal()
    if reason is None and isinstance(found := _numpy_openblas(), str):
        reason = found
    if reason is not None:
        return BlasState(False, None, reason)
    warnings.warn(
        "mlx.core was imported before mlx_baselines3, so MLX multiplies matrices on the CPU with its own "
        "slow BLAS. Import mlx_baselines3 first, or set MLX_BASELINES3_BLAS=0 to silence this.",
        UserWarning,
        stacklevel=4,
    )
    return BlasState(False, None, "mlx.core was imported before mlx_baselines3")


# The backend guard


def _installed_backends() -> list[str]:
    """By their folders: `importlib.metadata` would be a twentieth of the time to import this package."""
    beside: list[str] = []
    for folder in sys.path:
        # Entries need not be folders, or exist.
        with suppress(OSError):
            beside += os.listdir(folder or ".")
    infos = {name.partition("-")[0] for name in beside if name.endswith(".dist-info")}
    return [name for name in _BACKENDS if name.replace("-", "_") in infos]


def _installed_version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _remedy() -> str:
    if not _ON_LINUX:
        return "pip install --force-reinstall mlx mlx-metal"
    backends = _installed_backends()
    if len(backends) > 1:
        return _keep_one(backends)
    version = _installed_version("mlx")
    if backends and version is not None:
        # Another version than MLX's own would not fit it.
        return f"pip install --force-reinstall {backends[0]}=={version}"
    return _INSTALL


def _keep_one(backends: list[str]) -> str:
    """Uninstalling one removes the other's libmlx.so, too, and pip reinstalls none that it has on record."""
    choices = " or ".join(f"pip install 'mlx[{_BACKENDS[name]}]'" for name in backends)
    return f"pip uninstall -y {' '.join(backends)}, then {choices}"


def _import_mlx() -> None:
    try:
        importlib.import_module("mlx.core")
    except ImportError as error:
        problem = str(error).splitlines()[0]
    else:
        return
    # Outside the handler, so that MLX's traceback is not shown above the sentence.
    raise ImportError(
        f"mlx_baselines3 needs MLX, which cannot be imported ({problem}); mend it with: {_remedy()}"
    )


def _check_library() -> None:
    """A download cut short kills the process when MLX opens it; Python can only look before."""
    try:
        spec = find_spec("mlx.core")
    except (ImportError, ValueError):  # no parent package, or a None in its place
        spec = None
    # Where there is none, the import that follows says so.
    if spec is None or spec.origin is None or not _ON_LINUX:
        return
    library = Path(spec.origin).parent / "lib" / "libmlx.so"
    if library.is_file() and library.stat().st_size < _elf_size(library):
        raise ImportError(f"mlx_baselines3 needs MLX, but {library} is cut short; mend it with: {_remedy()}")


def _elf_size(library: Path) -> int:
    """The least length of a 64-bit ELF file that holds all its segments, going by its own header."""
    with library.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return 64
        offset = int.from_bytes(header[32:40], "little")
        width, count = (int.from_bytes(header[at : at + 2], "little") for at in (54, 56))
        file.seek(offset)
        table = file.read(width * count)
    if len(table) < width * count or width < 56:
        return offset + width * count
    ends = [64]
    for start in range(0, len(table), width):
        # Where the segment starts in the file and how long it is there.
        begin, length = (int.from_bytes(table[start + at : start + at + 8], "little") for at in (8, 32))
        ends.append(begin + length)
    return max(ends)


def _warn_of_two_backends() -> None:
    backends = _installed_backends() if _ON_LINUX else []
    if len(backends) > 1:
        warnings.warn(
            f"{' and '.join(backends)} are installed together, and each overwrote the other's libmlx.so. "
            f"Keep one: {_keep_one(backends)}.",
            UserWarning,
            stacklevel=4,
        )
