"""check_policy: what it says about policies that are wrong or slow, and that it leaves no trace."""

import re
import warnings

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policy_checker import check_policy
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor

OBS = spaces.Box(-1, 1, (6,), np.float32)
MOVE = spaces.Box(-1, 1, (2,), np.float32)


def policy_of(policy_class=ActorCriticPolicy, action_space=MOVE, **kwargs):
    return policy_class(OBS, action_space, lambda _: 1e-3, net_arch=[8], **kwargs)


class Extractor(BaseFeaturesExtractor):
    """Features 0 to 5 of the observation, through one layer."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.layer = nn.Linear(6, 4)


def with_extractor(forward):
    kind = type("Own", (Extractor,), {"forward": forward})
    return policy_of(features_extractor_class=kind)


def image_env():
    return FakeImageEnv(screen_height=36, screen_width=36, n_channels=1)


@pytest.mark.parametrize(
    ("algorithm", "policy", "env", "kwargs"),
    [
        (PPO, "MlpPolicy", "CartPole-v1", {}),
        (PPO, "MlpPolicy", "Pendulum-v1", {}),
        (PPO, "MlpPolicy", "Pendulum-v1", {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        (A2C, "MlpPolicy", IdentityEnvMultiBinary(3), {}),
        (A2C, "MlpPolicy", IdentityEnvMultiDiscrete(3), {}),
        (
            A2C,
            "CnnPolicy",
            image_env(),
            {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}},
        ),
        (
            PPO,
            "MultiInputPolicy",
            SimpleMultiObsEnv(),
            {"policy_kwargs": {"share_features_extractor": False}},
        ),
        (SAC, "MlpPolicy", "Pendulum-v1", {"buffer_size": 10}),
        (TD3, "MlpPolicy", "Pendulum-v1", {"buffer_size": 10}),
        (DQN, "MlpPolicy", "CartPole-v1", {"buffer_size": 10}),
    ],
)
def test_the_policies_of_the_package_are_fine(algorithm, policy, env, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_policy(algorithm(policy, env, **kwargs)) == []


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x * x.max().item(),
        lambda x: x * float(x.max()),
        lambda x: x if x.max() > 0 else -x,
        lambda x: mx.array(np.array(x)),
        lambda x: mx.array(x.tolist()),
    ],
    ids=["item", "float", "if", "numpy", "tolist"],
)
def test_host_reads_are_found_and_placed(read):
    def forward(self, observations):
        return read(self.layer(observations))

    with pytest.warns(UserWarning, match="on the host"):
        advice = check_policy(with_extractor(forward))
    assert all("on the host" in line for line in advice)
    assert [line.split("()")[0] for line in advice] == [
        "_predict",
        "forward",
        "evaluate_actions",
        "predict_values",
    ]
    assert "test_policy_checker.py" in advice[0]
    assert re.search(r"`lambda x: .*`|`def <lambda>", advice[0])


def test_reading_a_weight_is_a_host_read_too():
    def forward(self, observations):
        return self.layer(observations) / (1 + abs(self.layer.bias[0].item()))

    assert "self.layer.bias[0].item()" in check_policy(with_extractor(forward), warn=False)[0]


def test_loops_over_rows_are_found_loops_over_features_are_not():
    def over_rows(self, observations):
        return mx.stack([self.layer(row) for row in observations])

    def over_features(self, observations):
        return self.layer(mx.stack([observations[:, i] * i for i in range(6)], axis=1))

    def mapped(self, observations):
        return mx.vmap(lambda row: self.layer(row))(observations)

    advice = check_policy(with_extractor(over_rows), warn=False)
    assert len(advice) == 4
    assert all("iterates over the rows of the batch" in line for line in advice)
    assert check_policy(with_extractor(over_features), warn=False) == []
    assert check_policy(with_extractor(mapped), warn=False) == []


def test_non_contiguous_inputs_are_found():
    class Strided(BaseFeaturesExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space, 4)
            self.layer = nn.Linear(3, 4)

        def forward(self, observations):
            return self.layer(observations[:, ::2])

    (line,) = check_policy(policy_of(features_extractor_class=Strided), warn=False)
    assert line.startswith("The input of features_extractor.layer is a non-contiguous view")
    assert nn.Linear.__call__.__module__.startswith("mlx.nn")


def test_an_answer_that_depends_on_the_memory_layout_is_found():
    class ByMemory(ActorCriticPolicy):
        def obs_to_tensor(self, observation):
            flat = np.asarray(observation).ravel(order="K").reshape(-1, 6)
            return super().obs_to_tensor(flat)

    advice = check_policy(policy_of(ByMemory), warn=False)
    assert len(advice) == 1
    assert "another memory layout" in advice[0]

    class ByBuffer(ActorCriticPolicy):
        def obs_to_tensor(self, observation):
            if not observation.flags.c_contiguous:
                raise ValueError("ndarray is not C-contiguous")
            return super().obs_to_tensor(observation)

    assert check_policy(policy_of(ByBuffer), warn=False) == [
        "predict() rejects an observation with non-contiguous memory: ndarray is not C-contiguous"
    ]


def test_an_ignored_deterministic_is_found_both_ways():
    class AlwaysRandom(ActorCriticPolicy):
        def _predict(self, observation, deterministic=False):
            return self.get_distribution(observation).sample()

    class NeverRandom(ActorCriticPolicy):
        def _predict(self, observation, deterministic=False):
            return self.get_distribution(observation).mode()

    (line,) = check_policy(policy_of(AlwaysRandom), warn=False)
    assert "_predict(deterministic=True) returns a different action each time" in line
    (line,) = check_policy(policy_of(NeverRandom, spaces.Discrete(3)), warn=False)
    assert "_predict(deterministic=False) returns the same action" in line


class Wrong(ActorCriticPolicy):
    """Returns from each pass what the test asks for."""

    change = staticmethod(lambda name, value: value)

    def forward(self, obs, deterministic=False):
        names = ("actions", "values", "log_prob")
        values = super().forward(obs, deterministic)
        return tuple(self.change(name, value) for name, value in zip(names, values, strict=True))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "values",
            lambda x: x[:, 0],
            r"values of forward\(\) for 1 rows must have the shape \(1, 1\), got \(1,\)",
        ),
        ("log_prob", lambda x: x[:, None], r"log_prob .* must have the shape \(1,\), got \(1, 1\)"),
        ("actions", lambda x: x[:, :1], r"actions .* must have the shape \(1, 2\), got \(1, 1\)"),
        ("values", lambda x: x.astype(mx.float16), r"values .* must be float32, got mlx.core.float16"),
        ("values", np.array, r"values .* must be an mx.array, got ndarray"),
    ],
)
def test_wrong_shapes_and_dtypes_are_errors(name, change, message):
    policy = policy_of(type("Own", (Wrong,), {}))
    type(policy).change = staticmethod(lambda got, value: change(value) if got == name else value)
    with pytest.raises(AssertionError, match=message):
        check_policy(policy, warn=False)


def test_a_forgotten_output_is_an_error():
    class Forgetful(ActorCriticPolicy):
        def forward(self, obs, deterministic=False):
            return super().forward(obs, deterministic)[:2]

    with pytest.raises(AssertionError, match="must return actions, values, log_prob, it returned 2 values"):
        check_policy(policy_of(Forgetful), warn=False)


def test_the_check_leaves_no_trace():
    model = PPO("MlpPolicy", gym.make("CartPole-v1"), seed=3)
    model.policy.set_training_mode(True)
    before = model.policy.parameters_to_vector()
    mx.random.seed(5)
    expected = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(5)
    check_policy(model)
    assert mx.random.uniform(shape=(3,)).tolist() == expected
    assert model.policy.training
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


def test_an_error_of_the_policys_own_is_handed_on():
    def forward(self, observations):
        raise RuntimeError("no such head")

    with pytest.raises(RuntimeError, match="no such head"):
        check_policy(with_extractor(forward))
    with pytest.raises(TypeError, match="Expected a policy or an algorithm, got int"):
        check_policy(3)
