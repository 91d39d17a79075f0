"""
Location of MLX's compiled kernels: ``mlx`` in the temporary folder, which belongs to its first user. Other
users cannot write kernels there, and would load the first user's files as code.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["keep_to_own_kernels", "kernel_folder"]

# C++'s std::filesystem::temp_directory_path reads these, in this order, each time MLX compiles.
_VARIABLES = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")


def kernel_folder() -> Path:
    """:return: folder of MLX's compiled CPU kernels; it may not exist yet"""
    if os.name == "nt":
        return Path(tempfile.gettempdir(), "mlx")
    return Path(next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "/tmp"), "mlx")


def keep_to_own_kernels() -> None:
    """
    Use a folder owned by this user if the default one belongs to another user. MLX has no setting for it, so
    ``TMPDIR`` is changed for this process and its children. Python's own temporary folder stays the same. If
    the default folder does not exist yet, it is created for this user.
    """
    if not hasattr(os, "geteuid"):
        return
    if _is_own(kernel_folder(), 0o755):
        return
    try:
        # Python caches it from here on.
        usual = tempfile.gettempdir()
        own = Path(usual, f"mlx-{os.geteuid()}")
        os.environ["TMPDIR"] = str(own if _is_own(own, 0o700) else tempfile.mkdtemp(prefix=f"{own.name}-"))
    except OSError:
        # Nothing is writable: MLX will report it when it compiles.
        return


def _is_own(folder: Path, mode: int) -> bool:
    """Create the folder if missing; return whether it is this user's and nobody else can write to it."""
    try:
        folder.mkdir(mode)
    except FileExistsError:
        pass
    except OSError:
        return False
    # Do not follow symbolic links: another user could retarget them later.
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWOTH
