"""The names that type hints across the package share."""

from typing import TYPE_CHECKING

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common._types import (
    AtariResetReturn,
    AtariStepReturn,
    DictReplayBufferSamples,
    DictRolloutBufferSamples,
    GymObs,
    GymResetReturn,
    GymStepReturn,
    OptimizerStateDict,
    PolicyPredictor,
    PyTorchObs,
    ReplayBufferSamples,
    RolloutBufferSamples,
    RolloutReturn,
    Schedule,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from mlx_baselines3.common.callbacks.base import MaybeCallback
from mlx_baselines3.common.vec_env.abstract import GymEnv

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "gym np")

__all__ = [
    "AtariResetReturn",
    "AtariStepReturn",
    "DictReplayBufferSamples",
    "DictRolloutBufferSamples",
    "GymEnv",
    "GymObs",
    "GymResetReturn",
    "GymStepReturn",
    "MaybeCallback",
    "OptimizerStateDict",
    "PolicyPredictor",
    "PyTorchObs",
    "ReplayBufferSamples",
    "RolloutBufferSamples",
    "RolloutReturn",
    "Schedule",
    "TensorDict",
    "TrainFreq",
    "TrainFrequencyUnit",
]
