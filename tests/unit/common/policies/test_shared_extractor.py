"""SAC and TD3 whose critics use the actor's extractor: parameters line up with the slow copies'."""

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_baselines3 import SAC, TD3
from mlx_baselines3.common.envs import FakeImageEnv
from mlx_baselines3.common.utils import polyak_update

# SB3 2.9.2's order of `critic.named_parameters()`, of critics that share their extractor and of all others.
NAMES = [
    *(f"features_extractor.cnn.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")),
    "features_extractor.linear.0.weight",
    "features_extractor.linear.0.bias",
    *(f"qf{i}.{layer}.{kind}" for i in (0, 1) for layer in (0, 2) for kind in ("weight", "bias")),
]


@pytest.fixture(params=[SAC, TD3])
def model(request):
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)
    return request.param(
        "CnnPolicy",
        env,
        policy_kwargs={
            "share_features_extractor": True,
            "features_extractor_kwargs": {"features_dim": 8},
            "net_arch": [8],
        },
        learning_starts=4,
        batch_size=4,
        buffer_size=20,
        seed=0,
        device="cpu",
    )


def arrays(network):
    return dict(tree_flatten(network.parameters()))


def test_critics_and_their_slow_copies_have_the_same_parameters(model):
    assert list(model.critic.parameters()) == list(model.critic_target.parameters())
    assert list(model.critic.state_dict()) == list(model.critic_target.state_dict()) == NAMES
    own, slow = arrays(model.critic), arrays(model.critic_target)
    assert list(own) == list(slow)
    for name, array in own.items():
        np.testing.assert_array_equal(array, slow[name])
    assert model.critic.features_extractor is model.actor.features_extractor
    assert len(model.critic.parameters_to_vector()) == len(model.critic_target.parameters_to_vector())


def test_the_idiom_of_slow_copies_works_on_parameters(model):
    model.critic.load_from_vector(model.critic.parameters_to_vector() + 1)
    expected = {name: np.array(array) for name, array in arrays(model.critic).items()}
    polyak_update(model.critic.parameters(), model.critic_target.parameters(), 1.0)
    for name, array in arrays(model.critic_target).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    model.critic.load_from_vector(model.critic.parameters_to_vector() + 1)
    polyak_update(model.critic, model.critic_target, 1.0)
    np.testing.assert_array_equal(
        model.critic_target.parameters_to_vector(), model.critic.parameters_to_vector()
    )


def test_what_is_loaded_into_the_critics_is_the_actors_too(model):
    state = {name: mx.zeros_like(array) for name, array in model.critic_target.state_dict().items()}
    model.critic.load_state_dict(state)
    for array in arrays(model.actor.features_extractor).values():
        assert not np.array(array).any()
    with pytest.raises(RuntimeError, match=r"Missing key.*features_extractor\.cnn\.0\.bias"):
        model.critic.load_state_dict({k: v for k, v in state.items() if k.startswith("qf")})


def test_the_extractor_is_trained_once_and_listed_once(model):
    names = list(model.policy.critic.optimizer.names)
    assert names
    assert not any("features_extractor" in name for name in names)
    policy = model.get_parameters()["policy"]
    assert "actor.features_extractor.cnn.0.weight" in policy
    assert "critic.features_extractor.cnn.0.weight" in policy
    assert "critic" in model.policy.parameters()
    assert "features_extractor" not in model.policy.parameters()["critic"]
    model.tau = 1.0
    if isinstance(model, TD3):
        model.policy_delay = 1
    before = np.array(arrays(model.actor.features_extractor)["cnn.0.weight"])
    model.learn(8)
    name = "features_extractor.cnn.0.weight"
    after, slow = arrays(model.critic)[name], arrays(model.critic_target)[name]
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, slow)


def test_a_copy_and_a_file_keep_the_sharing(model, tmp_path):
    twin = copy.deepcopy(model.policy)
    assert twin.critic.features_extractor is twin.actor.features_extractor
    assert list(twin.critic.state_dict()) == NAMES
    model.save(tmp_path / "m")
    loaded = type(model).load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.critic.parameters_to_vector(), model.critic.parameters_to_vector())
