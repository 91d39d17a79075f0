"""Models and batches for the recorded updates of SAC, TD3 and DDPG."""

from typing import Any

import mlx.core as mx
import numpy as np
from golden import Case, SpacesOnlyEnv
from gymnasium import spaces

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.vec_env import DummyVecEnv

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
CONTINUOUS = spaces.Box(-2.0, 2.0, (2,), np.float32)


def make_model(
    algorithm: type, policy: str = "MlpPolicy", space: spaces.Space = VECTOR, **kwargs: Any
) -> Any:
    """A model over the recorded spaces, ready for ``train``."""
    env = DummyVecEnv([lambda: SpacesOnlyEnv(space, CONTINUOUS)])
    model = algorithm(policy, env, buffer_size=100, **kwargs)
    model.set_logger(Logger(None, []))
    return model


def recorded_batches(case: Case) -> list[dict[str, mx.array]]:
    """The batches of the gradient steps in order."""
    batches = []
    while group := case.group(f"batch{len(batches)}"):
        batches.append({name: mx.array(value) for name, value in group.items()})
    return batches
