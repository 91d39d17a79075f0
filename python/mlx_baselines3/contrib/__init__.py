"""sb3-contrib's algorithms: to ``sb3_contrib`` what the package around it is to ``stable_baselines3``."""

from typing import TYPE_CHECKING

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3._version import __version__ as __version__

__all__ = ["ARS", "QRDQN", "TQC", "TRPO", "CrossQ"]

if not TYPE_CHECKING:
    # Each is imported when it is asked for. Type checkers read plain imports instead.
    __getattr__ = lazy_names(
        globals(),
        names={
            "ARS": f"{__name__}.ars.ars:ARS",
            "CrossQ": f"{__name__}.crossq.crossq:CrossQ",
            "QRDQN": f"{__name__}.qrdqn.qrdqn:QRDQN",
            "TRPO": f"{__name__}.trpo.trpo:TRPO",
            "TQC": f"{__name__}.tqc.tqc:TQC",
        },
    )
