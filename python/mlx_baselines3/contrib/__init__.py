"""sb3-contrib's algorithms: to ``sb3_contrib`` what the package around it is to ``stable_baselines3``."""

from typing import TYPE_CHECKING

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3._version import __version__ as __version__

__all__ = ["ARS", "QRDQN", "TQC", "TRPO", "CrossQ", "MaskablePPO", "RecurrentPPO"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from mlx_baselines3.contrib.ars import ARS
    from mlx_baselines3.contrib.crossq import CrossQ
    from mlx_baselines3.contrib.ppo_mask import MaskablePPO
    from mlx_baselines3.contrib.ppo_recurrent import RecurrentPPO
    from mlx_baselines3.contrib.qrdqn import QRDQN
    from mlx_baselines3.contrib.tqc import TQC
    from mlx_baselines3.contrib.trpo import TRPO
else:
    # Each is imported when it is asked for.
    __getattr__ = lazy_names(
        globals(),
        names={
            "ARS": "mlx_baselines3.contrib.ars:ARS",
            "CrossQ": "mlx_baselines3.contrib.crossq:CrossQ",
            "MaskablePPO": "mlx_baselines3.contrib.ppo_mask:MaskablePPO",
            "QRDQN": "mlx_baselines3.contrib.qrdqn:QRDQN",
            "RecurrentPPO": "mlx_baselines3.contrib.ppo_recurrent:RecurrentPPO",
            "TQC": "mlx_baselines3.contrib.tqc:TQC",
            "TRPO": "mlx_baselines3.contrib.trpo:TRPO",
        },
    )
