"""Updates from images and dictionaries give SB3's parameters and logged values."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.layers import Conv2d, Flatten, Linear, Sequential
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.golden import (
    PARAMETER_TOLERANCE,
    Case,
    SpacesOnlyEnv,
    assert_log_equal,
    assert_parameters_equal,
    check_who_computed,
    fill_rollout,
)
from support.offpolicy import RecordedBuffer

CONTINUOUS = spaces.Box(-2.0, 2.0, (2,), np.float32)
POSE, SPEED, VECTOR = (spaces.Box(-np.inf, np.inf, (size,), np.float32) for size in (3, 2, 4))
ALIASES = ("pi_features_extractor", "vf_features_extractor")


def images(height: int = 36, width: int = 36) -> spaces.Box:
    return spaces.Box(0, 255, (1, height, width), np.uint8)


class SmallCNN(BaseFeaturesExtractor):
    """An extractor of a user's own."""

    def __init__(self, observation_space: spaces.Box, features_dim: int):
        super().__init__(observation_space, features_dim)
        self.net = Sequential(
            Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            Conv2d(8, 16, 3),
            nn.ReLU(),
            Flatten(),
            Linear(16 * 6 * 4, features_dim),
        )

    def forward(self, observations: mx.array) -> mx.array:
        return self.net(observations)


def features(size: int, **others: object) -> dict:
    return {"features_extractor_kwargs": {"features_dim": size}, **others}


# name -> algorithm, observation space, action space, arguments (tests/data/MANIFEST.json)
ON_POLICY = {
    "a2c_cnn": (A2C, images(), spaces.Discrete(3), 4, {"ent_coef": 0.01, "policy_kwargs": features(32)}),
    "a2c_cnn_oblong": (A2C, images(44, 52), spaces.Discrete(3), 3, {"policy_kwargs": features(8)}),
    "ppo_cnn_separate": (
        PPO,
        images(),
        CONTINUOUS,
        8,
        {
            "ent_coef": 0.01,
            "policy_kwargs": features(32, share_features_extractor=False, net_arch={"pi": [16], "vf": [24]}),
        },
    ),
    "ppo_cnn_custom": (
        PPO,
        images(16, 12),
        spaces.Discrete(3),
        8,
        {"policy_kwargs": features(32, features_extractor_class=SmallCNN, net_arch={"pi": [16], "vf": [16]})},
    ),
    "ppo_dict_vectors": (
        PPO,
        spaces.Dict({"pose": POSE, "speed": SPEED}),
        spaces.Discrete(3),
        8,
        {"policy_kwargs": {"net_arch": {"pi": [16], "vf": [24, 16]}}},
    ),
}
OFF_POLICY = {
    "sac_cnn": (SAC, images(), {"policy_kwargs": features(32, net_arch=[24, 16])}),
    "sac_cnn_shared": (
        SAC,
        images(),
        {"policy_kwargs": features(32, net_arch=[24, 16], share_features_extractor=True)},
    ),
    "td3_cnn": (
        TD3,
        images(),
        {
            "target_policy_noise": 0.4,
            "target_noise_clip": 0.4,
            "policy_kwargs": features(32, net_arch=[24, 16]),
        },
    ),
    "sac_multiinput": (
        SAC,
        spaces.Dict({"mode": spaces.Discrete(4), "pose": POSE, "speed": SPEED}),
        {"policy_kwargs": {"net_arch": [24, 16]}},
    ),
    "dqn_multiinput_img": (
        DQN,
        spaces.Dict({"img": images(), "vec": VECTOR}),
        {
            "learning_rate": 1e-3,
            "max_grad_norm": 0.3,
            "policy_kwargs": {"net_arch": [24], "features_extractor_kwargs": {"cnn_output_dim": 16}},
        },
    ),
}


def make_model(algorithm: type, space: spaces.Space, action_space: spaces.Space, n_envs: int, **kwargs):
    env = DummyVecEnv([lambda: SpacesOnlyEnv(space, action_space)] * n_envs)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy"
    model = algorithm(policy, env, **kwargs)
    model.set_logger(Logger(None, []))
    return model


def recorded(case: Case) -> dict[str, np.ndarray]:
    """The parameters after the update; a module that is listed twice is recorded once."""
    after = case.group("after")
    names = {
        **dict.fromkeys(ALIASES, "features_extractor"),
        "critic.features_extractor": "actor.features_extractor",
    }
    for name in case.group("before").keys() - after.keys():
        alias = next(alias for alias in names if name.startswith(f"{alias}."))
        after[name] = after[names[alias] + name.removeprefix(alias)]
    return after


@pytest.mark.parametrize("name", ON_POLICY)
def test_an_update_equals_sb3s(name, golden_updates, updates):
    case = Case(golden_updates / f"{name}.npz")
    algorithm, space, action_space, n_steps, kwargs = ON_POLICY[name]
    if algorithm is PPO:
        kwargs = {"batch_size": 16, "n_epochs": 3, "learning_rate": 1e-3, **kwargs}
    n_envs = case.arrays["rollout/rewards"].shape[1]
    model = make_model(algorithm, space, action_space, n_envs, n_steps=n_steps, **kwargs)
    model.policy.load_state_dict(case.group("before"))
    fill_rollout(model, case)

    model.train()

    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), recorded(case))
    assert_log_equal(model.logger.name_to_value, case.group("log"))


def recorded_noise(case: Case, algorithm: type) -> mx.array | None:
    """The normals of each gradient step, SAC's for the current and for the next action."""
    noise = case.group_of("noise")
    if algorithm is SAC:
        return mx.array(np.stack(noise).reshape(-1, 2, *noise[0].shape))
    return mx.array(np.stack(noise)) if noise else None


@pytest.mark.parametrize("name", OFF_POLICY)
def test_consecutive_updates_equal_sb3s(name, golden_updates, updates, monkeypatch):
    case = Case(golden_updates / f"{name}.npz")
    algorithm, space, kwargs = OFF_POLICY[name]
    if name != "sac_multiinput":
        kwargs = {**kwargs, "policy_kwargs": {**kwargs["policy_kwargs"], "optimizer_kwargs": {"eps": 1e-5}}}
    action_space = spaces.Discrete(3) if algorithm is DQN else CONTINUOUS
    model = make_model(algorithm, space, action_space, 1, buffer_size=100, **kwargs)
    model.policy.load_state_dict(case.group("before"))
    if "before_log_ent_coef" in case.arrays:
        model.log_ent_coef = mx.array(case.arrays["before_log_ent_coef"])
    batches, noise = RecordedBuffer(case, space), recorded_noise(case, algorithm)
    monkeypatch.setattr(model, "replay_buffer", batches)
    if noise is not None:
        monkeypatch.setattr(model, "_noise", lambda gradient_steps, batch_size: noise)

    rows = len(case.arrays["batch0/rewards"])
    model.train(gradient_steps=len(batches), batch_size=rows)

    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), recorded(case))
    assert_log_equal(model.logger.name_to_value, case.group("log"))
    if "after_log_ent_coef" in case.arrays:
        difference = np.abs(np.array(model.log_ent_coef) - case.arrays["after_log_ent_coef"]).max()
        assert difference <= PARAMETER_TOLERANCE
