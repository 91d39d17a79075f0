"""Consecutive DQN updates give SB3's parameters and logged values."""

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.type_aliases import ReplayBufferSamples
from mlx_baselines3.common.vec_env import DummyVecEnv
from mlx_baselines3.dqn import DQN
from support.golden import Case, SpacesOnlyEnv, assert_log_equal, assert_parameters_equal, check_who_computed
from support.offpolicy import RecordedBuffer

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)

# name -> policy, observation space, gradient steps, batch size, arguments (tests/data/MANIFEST.json)
CASES = {
    "dqn": ("MlpPolicy", VECTOR, 3, 32, {}),
    "dqn_cnn": (
        "CnnPolicy",
        IMAGE,
        2,
        16,
        {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 24}}},
    ),
}


class RecordedRingBuffer(RecordedBuffer):
    """The same with all batches in one call."""

    def sample_many(self, n_batches: int, batch_size: int, env: object = None) -> ReplayBufferSamples:
        samples = [self.sample(batch_size, env) for _ in range(n_batches)]
        return ReplayBufferSamples(*(mx.stack(f) for f in list(zip(*samples, strict=True))[:5]))


@pytest.mark.parametrize("buffer_class", [RecordedBuffer, RecordedRingBuffer])
@pytest.mark.parametrize("name", CASES)
def test_updates_equal_sb3s(name, buffer_class, golden_updates, updates):
    case = Case(golden_updates / f"{name}.npz")
    policy, observation_space, gradient_steps, batch_size, kwargs = CASES[name]
    env = DummyVecEnv([lambda: SpacesOnlyEnv(observation_space, spaces.Discrete(3))])
    model = DQN(policy, env, buffer_size=100, **kwargs)
    model.set_logger(Logger(None, []))
    model.policy.load_state_dict(case.group("before"))
    model.replay_buffer = buffer_class(case, observation_space)

    model.train(gradient_steps=gradient_steps, batch_size=batch_size)

    assert model.replay_buffer.drawn == gradient_steps
    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
