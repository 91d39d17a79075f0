"""Stable-Baselines3 without torch: training on Apple's MLX, environments and rollouts in Rust."""

from typing import Any, NoReturn

from mlx_baselines3 import _backend

# Before anything imports mlx.core: a missing backend is explained in one sentence, and on Linux the
# fast matrix product must be in place first.
_backend.prepare()

from mlx_baselines3._version import __version__ as __version__  # noqa: E402
from mlx_baselines3.a2c import A2C  # noqa: E402
from mlx_baselines3.common.utils import get_system_info  # noqa: E402
from mlx_baselines3.ddpg import DDPG  # noqa: E402
from mlx_baselines3.dqn import DQN  # noqa: E402
from mlx_baselines3.her import HerReplayBuffer  # noqa: E402
from mlx_baselines3.ppo import PPO  # noqa: E402
from mlx_baselines3.sac import SAC  # noqa: E402
from mlx_baselines3.td3 import TD3  # noqa: E402

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


def HER(*args: Any, **kwargs: Any) -> NoReturn:
    """
    Formerly an algorithm in SB3, now a replay buffer.

    :raises ImportError: always
    """
    raise ImportError(
        "`HER` is a replay buffer class, `HerReplayBuffer`, to be used with an off-policy algorithm: "
        "DQN(..., replay_buffer_class=HerReplayBuffer). Its documentation is help(HerReplayBuffer)."
    )
