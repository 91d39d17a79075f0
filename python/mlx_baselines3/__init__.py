"""Stable-Baselines3 without torch: training on Apple's MLX, environments and rollouts in Rust."""

from typing import TYPE_CHECKING, Any, NoReturn

from mlx_baselines3 import _backend

# Before anything imports mlx.core: a missing backend is explained in one sentence, and on Linux the
# fast matrix product must be in place first.
_backend.prepare()

from mlx_baselines3._lazy_names import lazy_names  # noqa: E402
from mlx_baselines3._version import __version__ as __version__  # noqa: E402

# SB3's own list: `__version__` in it would overwrite that of a module that imports everything by "*".
__all__ = [
    "A2C",
    "DDPG",
    "DQN",
    "PPO",
    "SAC",
    "TD3",
    "HerReplayBuffer",
    "get_system_info",
]
# SB3's packages, which are attributes of SB3 once it is imported.
_PACKAGES = ("a2c", "common", "ddpg", "dqn", "her", "ppo", "sac", "td3")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})


if TYPE_CHECKING:
    from mlx_baselines3.a2c import A2C
    from mlx_baselines3.common.utils import get_system_info
    from mlx_baselines3.ddpg import DDPG
    from mlx_baselines3.dqn import DQN
    from mlx_baselines3.her import HerReplayBuffer
    from mlx_baselines3.ppo import PPO
    from mlx_baselines3.sac import SAC
    from mlx_baselines3.td3 import TD3
else:
    # Each is imported when it is asked for: a program that uses PPO does not wait for the others.
    __getattr__ = lazy_names(
        globals(),
        names={
            "A2C": "mlx_baselines3.a2c:A2C",
            "DDPG": "mlx_baselines3.ddpg:DDPG",
            "DQN": "mlx_baselines3.dqn:DQN",
            "HerReplayBuffer": "mlx_baselines3.her:HerReplayBuffer",
            "PPO": "mlx_baselines3.ppo:PPO",
            "SAC": "mlx_baselines3.sac:SAC",
            "TD3": "mlx_baselines3.td3:TD3",
            "get_system_info": "mlx_baselines3.common.utils:get_system_info",
        }
        | {name: f"mlx_baselines3.{name}" for name in _PACKAGES},
    )


def HER(*args: Any, **kwargs: Any) -> NoReturn:
    """
    Formerly an algorithm in SB3, now a replay buffer.

    :raises ImportError: always
    """
    raise ImportError(
        "`HER` is a replay buffer class, `HerReplayBuffer`, to be used with an off-policy algorithm: "
        "DQN(..., replay_buffer_class=HerReplayBuffer). Its documentation is help(HerReplayBuffer)."
    )
