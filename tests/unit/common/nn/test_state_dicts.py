"""State dictionaries and named parameters of every part of a policy, as torch has them."""

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN, PPO, SAC, TD3
from mlx_baselines3.common.nn.layers import Conv2d, Linear, Sequential
from mlx_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

PARTS = [
    (PPO, "mlp_extractor"),
    (PPO, "mlp_extractor.policy_net"),
    (PPO, "action_net"),
    (PPO, "value_net"),
    (PPO, "features_extractor"),
    (DQN, "q_net"),
    (DQN, "q_net.q_net"),
    (SAC, "actor"),
    (SAC, "actor.latent_pi"),
    (SAC, "actor.mu"),
    (SAC, "critic.qf0"),
    (TD3, "actor.mu"),
    (TD3, "critic"),
]
SMALL = {"net_arch": [8, 8]}


def make(cls, seed):
    env = "CartPole-v1" if cls in (PPO, DQN) else "Pendulum-v1"
    kwargs = {"n_steps": 16, "batch_size": 16} if cls is PPO else {"buffer_size": 10}
    return cls("MlpPolicy", env, seed=seed, policy_kwargs=dict(SMALL), **kwargs)


def part(model, path):
    owner = model.policy
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner


@pytest.mark.parametrize(("cls", "path"), PARTS, ids=[f"{cls.__name__}-{path}" for cls, path in PARTS])
def test_weights_are_copied(cls, path):
    one, other = part(make(cls, 0), path), part(make(cls, 1), path)
    state = one.state_dict()
    kept = {name: np.array(array) for name, array in state.items()}
    assert other.load_state_dict(state) == ([], [])
    assert list(other.state_dict()) == list(state)
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(np.array(array), kept[name])
        array[...] = 7.0
    # The two share no array.
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(np.array(array), kept[name])
    other.load_state_dict(kept)  # NumPy arrays
    assert [name for name, _ in other.named_parameters()] == list(state)


def test_loaded_weights_are_used():
    """By the policy in Rust, too, whose weights are copies."""
    one, other = make(PPO, 0), make(PPO, 1)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for path in ("mlp_extractor", "action_net"):
        part(other, path).load_state_dict(part(one, path).state_dict())
    expected = one.policy.get_distribution(mx.array(observations)).distribution.logits
    got = other.policy.get_distribution(mx.array(observations)).distribution.logits
    np.testing.assert_array_equal(np.array(got), np.array(expected))
    actions = [each.predict(observations, deterministic=True)[0] for each in (one, other)]
    np.testing.assert_array_equal(*actions)


def test_what_does_not_fit_changes_nothing():
    extractor = make(PPO, 0).policy.mlp_extractor
    before = {name: np.array(array) for name, array in extractor.state_dict().items()}
    wrong = [
        ({}, r"Missing key\(s\) in state_dict: policy_net\.0\.bias"),
        ({**before, "more": np.zeros(1)}, r"Unexpected key\(s\) in state_dict: more"),
        ({**before, "policy_net.0.bias": np.zeros(3)}, r"size mismatch for policy_net\.0\.bias"),
    ]
    for state, message in wrong:
        with pytest.raises(RuntimeError, match=f"Cannot load the state of MlpExtractor: .*{message}"):
            extractor.load_state_dict(state)
    passed = extractor.load_state_dict({"policy_net.0.bias": np.ones(8), "more": np.zeros(1)}, strict=False)
    assert passed.unexpected_keys == ["more"]
    assert passed.missing_keys == sorted(before.keys() - {"policy_net.0.bias"})
    for name, array in extractor.state_dict().items():
        expected = np.ones(8) if name == "policy_net.0.bias" else before[name]
        np.testing.assert_array_equal(np.array(array), expected)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Linear(2, 3),
        lambda: Conv2d(1, 2, 3),
        lambda: Sequential(Linear(2, 3), Linear(3, 1)),
        lambda: NatureCNN(spaces.Box(0, 255, (1, 36, 36), np.uint8)),
        lambda: CombinedExtractor(spaces.Dict(x=spaces.Box(0, 255, (1, 36, 36), np.uint8))),
    ],
)
def test_layers(made):
    one, other = made(), made()
    other.load_state_dict(one.state_dict())
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(np.array(other.state_dict()[name]), np.array(array))


def test_names_of_parameters():
    policy = make(PPO, 0).policy
    names = [name for name, _ in policy.named_parameters()]
    assert names[:2] == ["mlp_extractor.policy_net.0.weight", "mlp_extractor.policy_net.0.bias"]
    assert sum(array.size for _, array in policy.named_parameters()) == policy.parameters_to_vector().size
    assert next(policy.value_net.named_parameters(prefix="value_net"))[0] == "value_net.weight"
    gaussian = make(SAC, 0).actor
    assert [name for name, _ in gaussian.named_parameters(recurse=False)] == []
    assert [name for name, _ in gaussian.mu.named_parameters(recurse=False)] == ["weight", "bias"]
