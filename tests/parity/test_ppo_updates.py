"""One PPO update gives SB3's parameters and logged values."""

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.golden import (
    Case,
    SpacesOnlyEnv,
    assert_log_equal,
    assert_parameters_equal,
    check_who_computed,
    fill_rollout,
)

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
CONTINUOUS = spaces.Box(-2.0, 2.0, (2,), np.float32)
LR = {"learning_rate": 1e-3}

# name -> observation space, action space, n_steps, arguments (tests/data/MANIFEST.json)
CASES = {
    "ppo_discrete": (VECTOR, spaces.Discrete(3), 32, {"batch_size": 64, "ent_coef": 0.01, **LR}),
    "ppo_continuous": (
        VECTOR,
        CONTINUOUS,
        32,
        {"batch_size": 64, "ent_coef": 0.01, "clip_range_vf": 0.2, "gae_lambda": 0.9, **LR},
    ),
    "ppo_multidiscrete": (VECTOR, spaces.MultiDiscrete([3, 2]), 16, {"batch_size": 32, **LR}),
    "ppo_multibinary": (VECTOR, spaces.MultiBinary(4), 16, {"batch_size": 32, **LR}),
    "ppo_sde": (VECTOR, CONTINUOUS, 32, {"batch_size": 64, "use_sde": True, **LR}),
    "ppo_cnn": (
        IMAGE,
        spaces.Discrete(3),
        8,
        {"batch_size": 16, "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 24}}, **LR},
    ),
    "ppo_multiinput": (
        spaces.Dict({"img": IMAGE, "vec": spaces.Box(-np.inf, np.inf, (4,), np.float32)}),
        spaces.Discrete(3),
        8,
        {
            "batch_size": 16,
            "policy_kwargs": {
                "features_extractor_kwargs": {"cnn_output_dim": 16},
                "net_arch": {"pi": [32], "vf": [24, 16]},
                "share_features_extractor": False,
            },
            **LR,
        },
    ),
}
POLICIES = {"ppo_cnn": "CnnPolicy", "ppo_multiinput": "MultiInputPolicy"}


def make_model(name: str, **changes) -> PPO:
    observation_space, action_space, n_steps, kwargs = CASES[name]
    env = DummyVecEnv([lambda: SpacesOnlyEnv(observation_space, action_space)] * 2)
    policy = POLICIES.get(name, "MlpPolicy")
    model = PPO(policy, env, n_steps=n_steps, n_epochs=3, **{**kwargs, **changes})
    model.set_logger(Logger(None, []))
    return model


@pytest.mark.parametrize("name", CASES)
def test_update_equals_sb3s(name, golden_updates, updates):
    case = Case(golden_updates / f"{name}.npz")
    model = make_model(name)
    model.policy.load_state_dict(case.group("before"))
    fill_rollout(model, case)
    expected = case.group("expect")
    np.testing.assert_allclose(model.rollout_buffer.advantages, expected["advantages"], atol=1e-5)
    np.testing.assert_allclose(model.rollout_buffer.returns, expected["returns"], atol=1e-5)

    model.train()

    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
