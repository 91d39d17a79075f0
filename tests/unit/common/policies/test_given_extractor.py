"""Files of single networks, which get their features extractor from the policy around them."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3 import DQN, SAC, TD3
from mlx_baselines3.common.envs import FakeImageEnv
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor


class Doubled(BaseFeaturesExtractor):
    """A user's extractor with an argument and weights."""

    def __init__(self, observation_space, features_dim=3):
        super().__init__(observation_space, features_dim)
        self.layer = nn.Linear(observation_space.shape[0], features_dim)

    def forward(self, observations):
        return 2 * self.layer(observations)


OWN = {
    "features_extractor_class": Doubled,
    "features_extractor_kwargs": {"features_dim": 5},
    "activation_fn": nn.Tanh,
}
IMAGES = {"features_extractor_kwargs": {"features_dim": 8}}


@pytest.mark.parametrize(
    ("cls", "network", "env_id"),
    [(DQN, "q_net", "CartPole-v1"), (SAC, "actor", "Pendulum-v1"), (TD3, "actor", "Pendulum-v1")],
)
def test_a_network_alone_comes_back_from_its_file(tmp_path, cls, network, env_id):
    policy = cls("MlpPolicy", env_id, policy_kwargs={"net_arch": [6], **OWN}, seed=0).policy
    ours = getattr(policy, network)
    # No pickle, and nothing left out: either would warn.
    ours.save(tmp_path / "network")
    loaded = type(ours).load(tmp_path / "network")
    assert type(loaded.features_extractor) is Doubled
    assert loaded.features_dim == 5
    assert loaded.activation_fn is nn.Tanh
    parameters = ours.state_dict()
    assert parameters["features_extractor.layer.weight"].shape[0] == 5
    assert parameters.keys() == loaded.state_dict().keys()
    assert all(mx.array_equal(array, parameters[name]) for name, array in loaded.state_dict().items())
    obs = policy.observation_space.sample()[None]
    np.testing.assert_allclose(
        loaded.predict(obs, deterministic=True)[0], ours.predict(obs, deterministic=True)[0], rtol=1e-5
    )
    # A file of the loaded one is as good.
    loaded.save(tmp_path / "again")
    assert type(ours).load(tmp_path / "again").state_dict().keys() == parameters.keys()


@pytest.mark.parametrize("normalize_images", [True, False])
def test_a_q_network_of_images(tmp_path, normalize_images):
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True)
    kwargs = {"policy_kwargs": {"normalize_images": normalize_images, **IMAGES}, "buffer_size": 10, "seed": 0}
    ours = DQN("CnnPolicy", env, **kwargs).q_net
    ours.save(tmp_path / "q_net")
    loaded = type(ours).load(tmp_path / "q_net")
    assert loaded.normalize_images is normalize_images
    obs = mx.array(np.random.default_rng(0).integers(0, 255, (4, 1, 40, 40), np.uint8))
    np.testing.assert_allclose(np.array(loaded(obs)), np.array(ours(obs)), rtol=1e-4, atol=1e-6)
