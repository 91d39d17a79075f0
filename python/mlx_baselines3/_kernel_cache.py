"""
Where MLX keeps the kernels that it compiles: ``mlx`` in the folder for temporary files, on every machine the
first user's. A second user can write no kernels there, and would load, as code, what the first has put there.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["keep_to_own_kernels", "kernel_folder"]

# C++'s std::filesystem::temp_directory_path looks here, in this order, each time that MLX compiles.
_VARIABLES = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")


def kernel_folder() -> Path:
    """:return: where MLX keeps the kernels that it compiled for the CPU; it may not exist yet"""
    if os.name == "nt":
        return Path(tempfile.gettempdir(), "mlx")
    return Path(next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "/tmp"), "mlx")


def keep_to_own_kernels() -> None:
    """
    Give MLX a folder of this user's, if the usual one is another's: MLX has no setting for its place, so
    ``TMPDIR`` changes, for this process and those that it starts. Python's own temporary files stay where
    they were. On a machine where nobody has used MLX yet, the usual folder becomes this user's.
    """
    if not hasattr(os, "geteuid"):
        return
    if _is_own(kernel_folder(), 0o755):
        return
    try:
        # From here on Python remembers it.
        usual = tempfile.gettempdir()
        own = Path(usual, f"mlx-{os.geteuid()}")
        os.environ["TMPDIR"] = str(own if _is_own(own, 0o700) else tempfile.mkdtemp(prefix=f"{own.name}-"))
    except OSError:
        # Nothing can be written anywhere: then MLX says so where it wants to compile.
        return


def _is_own(folder: Path, mode: int) -> bool:
    """Make a folder if there is none; say whether it is this user's, and no other can put files there."""
    try:
        folder.mkdir(mode)
    except FileExistsError:
        pass
    except OSError:
        return False
    # Not through a symbolic link, which another user may point elsewhere later.
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWOTH
