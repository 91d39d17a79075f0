"""Say it when MLX compiles kernels: an update then takes seconds instead of milliseconds."""

import os
import shutil
import sys
import threading
from types import TracebackType

from mlx_baselines3._kernel_cache import kernel_folder

__all__ = ["CompileNotice", "kernel_folder"]

# From this many seconds on a user wonders whether the program hangs.
_PATIENCE = 1.0
# A kind of gradient step may come late: TD3's actor moves in every second one.
_UPDATES = 3


def _kernels() -> int:
    return sum(len(files) for _, _, files in os.walk(kernel_folder()))


class CompileNotice:
    """
    Used in a ``with`` block around an update, tells the user if MLX is compiling in it. The first few
    blocks are watched, later ones cost nothing.

    A machine that never compiled anything is known at once: :meth:`announce` has a line for it. One that
    lacks some kernels shows when a second has passed and new files have appeared: a line on stderr.

    :param verbose: 1 for the line on the console
    """

    def __init__(self, verbose: int):
        self.verbose = verbose
        self._left = _UPDATES
        self._before: int | None = None
        self._timer: threading.Timer | None = None

    def announce(self) -> None:
        """Say, with ``verbose``, that MLX is about to compile, if the machine has no kernel yet."""
        if self._before == 0 and self.verbose >= 1 and shutil.which("g++") is not None:
            print(
                "MLX is compiling the kernels of the update. This happens once: they are kept in "
                f"{kernel_folder()}."
            )
        self._before = None

    def announce_program(self) -> None:
        """Say, with ``verbose``, that the one CUDA kernel of all gradient steps is about to be compiled."""
        if self.verbose >= 1:
            print(
                "Compiling the CUDA kernel of the gradient steps: about 3 seconds, once on a machine. It is "
                f"kept in {kernel_folder()}."
            )

    def __enter__(self) -> "CompileNotice":
        if self._left == 0:
            return self
        self._left -= 1
        self._before = _kernels()
        self._timer = threading.Timer(_PATIENCE, self._look, (self._before,))
        self._timer.daemon = True
        self._timer.start()
        return self

    def _look(self, before: int) -> None:
        if _kernels() > before:
            self._left = 0
            print(
                f"The update has taken {_PATIENCE:.0f} s so far: MLX is compiling kernels, which happens "
                f"once on a machine. They are kept in {kernel_folder()}.",
                file=sys.stderr,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._before = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
