"""Models and batches for the recorded updates of SAC, TD3 and DDPG."""

import re
from typing import Any

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.type_aliases import ReplayBufferSamples
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.golden import Case, SpacesOnlyEnv

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


class RecordedBuffer:
    """Hands out the batches that SB3 drew."""

    def __init__(self, case: Case, observation_space: spaces.Space = VECTOR):
        self.case = case
        self.observation_space = observation_space
        self.drawn = 0

    def __len__(self) -> int:
        return sum(1 for name in self.case.arrays if re.fullmatch("batch[0-9]+/rewards", name))

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        fields = {key: mx.array(value) for key, value in self.case.group(f"batch{self.drawn}").items()}
        assert fields["rewards"].shape == (batch_size, 1)
        self.drawn += 1
        return ReplayBufferSamples(**fields)
