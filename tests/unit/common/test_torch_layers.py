"""Extractors and MLPs: shapes, forms of net_arch, NatureCNN against NumPy, users' own modules."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.nn.activations import Tanh, rational_tanh
from mlx_baselines3.common.nn.layers import Linear, named_parameters
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
    create_mlp,
    get_actor_critic_arch,
)
from support.convolutions import numpy_convolution

IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)


def kinds(modules):
    return [type(module) for module in modules]


def test_create_mlp():
    modules = create_mlp(4, 2, [8, 6])
    assert kinds(modules) == [Linear, nn.ReLU, Linear, nn.ReLU, Linear]
    assert [m.weight.shape for m in modules[::2]] == [(8, 4), (6, 8), (2, 6)]
    assert kinds(create_mlp(4, 0, [8], nn.Tanh)) == [Linear, Tanh]
    assert kinds(create_mlp(4, 2, [], squash_output=True)) == [Linear, Tanh]
    assert create_mlp(4, 0, []) == []
    assert "bias" not in create_mlp(4, 2, [], with_bias=False)[0]


def test_create_mlp_with_modules_around():
    """Post-linear modules follow hidden layers only, pre-linear ones precede every layer."""
    modules = create_mlp(4, 2, [8], pre_linear_modules=[nn.RMSNorm], post_linear_modules=[nn.LayerNorm])
    assert kinds(modules) == [nn.RMSNorm, Linear, nn.LayerNorm, nn.ReLU, nn.RMSNorm, Linear]
    assert modules[0].weight.shape == (4,)
    assert modules[2].weight.shape == modules[4].weight.shape == (8,)


@pytest.mark.parametrize(
    ("net_arch", "pi", "vf"),
    [
        ([5, 6], 6, 6),
        ({"pi": [5], "vf": [6, 7]}, 5, 7),
        ({"pi": [5]}, 5, 3),
        ({"vf": [6]}, 3, 6),
        ([], 3, 3),
        ({}, 3, 3),
    ],
)
def test_mlp_extractor_forms(net_arch, pi, vf):
    extractor = MlpExtractor(3, net_arch, nn.Tanh)
    latent_pi, latent_vf = extractor(mx.ones((2, 3)))
    assert (latent_pi.shape, latent_vf.shape) == ((2, pi), (2, vf))
    assert (extractor.latent_dim_pi, extractor.latent_dim_vf) == (pi, vf)


def test_old_form_of_net_arch_warns():
    space = spaces.Box(-1, 1, (3,), np.float32)
    with pytest.warns(UserWarning, match=r"net_arch=\[dict\(pi=\.\.\., vf=\.\.\.\)\]"):
        policy = ActorCriticPolicy(
            space, spaces.Discrete(2), lambda _: 1e-3, net_arch=[{"pi": [5], "vf": [6]}]
        )
    assert policy.net_arch == {"pi": [5], "vf": [6]}
    assert policy.value_net.weight.shape == (1, 6)


def test_actor_critic_arch():
    assert get_actor_critic_arch([4, 5]) == ([4, 5], [4, 5])
    assert get_actor_critic_arch({"pi": [4], "qf": [5]}) == ([4], [5])
    with pytest.raises(AssertionError, match="qf"):
        get_actor_critic_arch({"pi": [4]})
    with pytest.raises(AssertionError, match="pi"):
        get_actor_critic_arch({"qf": [4]})


def test_flatten_extractor():
    extractor = FlattenExtractor(spaces.Box(-1, 1, (2, 3), np.float32))
    assert extractor.features_dim == 6
    assert extractor(mx.arange(12).reshape(2, 2, 3))[1].tolist() == [6, 7, 8, 9, 10, 11]


def test_features_dim_must_be_positive():
    with pytest.raises(AssertionError, match="positive, got 0"):
        BaseFeaturesExtractor(IMAGE)


def test_nature_cnn(rng):
    """Three convolutions, ReLU between, channels-first flattening, one linear layer."""
    extractor = NatureCNN(IMAGE, features_dim=5)
    assert extractor.features_dim == 5
    weights = {name: np.array(array, np.float64) for name, array in named_parameters(extractor).items()}
    assert {name: array.shape for name, array in weights.items() if name.endswith("weight")} == {
        "cnn.0.weight": (32, 1, 8, 8),
        "cnn.2.weight": (64, 32, 4, 4),
        "cnn.4.weight": (64, 64, 3, 3),
        "linear.0.weight": (5, 64),
    }
    image = rng.uniform(size=(2, 1, 36, 36)).astype(np.float32)
    x = image
    for i, stride in ((0, 4), (2, 2), (4, 1)):
        x = np.maximum(
            numpy_convolution(x, weights[f"cnn.{i}.weight"], weights[f"cnn.{i}.bias"], stride, 0), 0
        )
    expected = np.maximum(x.reshape(2, -1) @ weights["linear.0.weight"].T + weights["linear.0.bias"], 0)
    np.testing.assert_allclose(np.array(extractor(mx.array(image))), expected, atol=1e-5)


def test_nature_cnn_flattens_channels_first():
    extractor = NatureCNN(spaces.Box(0, 255, (1, 44, 36), np.uint8), features_dim=1)
    assert extractor.linear[0].weight.shape == (1, 64 * 2 * 1)
    image = mx.random.uniform(shape=(1, 1, 44, 36))
    flat = np.array(extractor.cnn(image))[0]
    maps = image
    for layer in list(extractor.cnn.layers())[:-1]:
        maps = layer(maps)
    np.testing.assert_array_equal(flat, np.array(maps)[0].ravel())


def test_nature_cnn_refuses_what_is_no_image():
    with pytest.raises(AssertionError, match="needs a Box"):
        NatureCNN(spaces.Discrete(3))
    with pytest.raises(AssertionError, match="normalize_images=False"):
        NatureCNN(spaces.Box(0, 1, (3, 40, 40), np.float32))
    NatureCNN(spaces.Box(0, 1, (3, 40, 40), np.float32), features_dim=2, normalized_image=True)
    with pytest.raises(AssertionError, match="36 x 36 pixels, got 20 x 40"):
        NatureCNN(spaces.Box(0, 255, (3, 20, 40), np.uint8))


def test_combined_extractor_follows_the_space():
    space = spaces.Dict({"vec": spaces.Box(-1, 1, (3,), np.float32), "img": IMAGE, "n": spaces.Discrete(4)})
    extractor = CombinedExtractor(space, cnn_output_dim=5)
    assert extractor.features_dim == 3 + 5 + 4
    observations = {
        "vec": mx.array([[1.0, 2.0, 3.0]]),
        "img": mx.zeros((1, 1, 36, 36)),
        "n": mx.zeros((1, 4)),
    }
    features = np.array(extractor(observations))[0]
    # Gymnasium sorts the keys of a Dict made from a plain dictionary in some versions: ask the space.
    start = 0
    for key in space.spaces:
        if key == "vec":
            np.testing.assert_array_equal(features[start : start + 3], [1, 2, 3])
        start += {"vec": 3, "img": 5, "n": 4}[key]
    assert {name.split(".")[1] for name in named_parameters(extractor)} == {"img"}


class ByForward(BaseFeaturesExtractor):
    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.net = nn.Linear(3, features_dim)

    def forward(self, observations):
        return mx.tanh(self.net(observations))


class ByCall(BaseFeaturesExtractor):
    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.net = nn.Linear(3, features_dim)

    def __call__(self, observations):
        return mx.tanh(self.net(observations))


class WithList(BaseFeaturesExtractor):
    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.stack = [nn.Linear(3, 4), nn.Linear(4, features_dim)]

    def forward(self, observations):
        for layer in self.stack:
            observations = mx.tanh(layer(observations))
        return observations


@pytest.mark.parametrize("extractor", [ByForward, ByCall, WithList])
def test_users_extractor(extractor):
    space = spaces.Box(-1, 1, (3,), np.float32)
    policy = ActorCriticPolicy(
        space,
        spaces.Discrete(2),
        lambda _: 1e-3,
        net_arch=[],
        features_extractor_class=extractor,
        features_extractor_kwargs={"features_dim": 6},
    )
    names = [name for name in policy.optimizer.names if name.startswith("features_extractor.")]
    expected = (
        ["stack.0.weight", "stack.0.bias", "stack.1.weight", "stack.1.bias"]
        if extractor is WithList
        else ["net.weight", "net.bias"]
    )
    assert names == [f"features_extractor.{name}" for name in expected]
    obs = mx.array([[0.1, -0.2, 0.3]])
    layers = [np.array(policy.state_dict()[name], np.float64) for name in names]
    features = np.array(obs, np.float64)
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        features = np.tanh(features @ weight.T + bias)
    value = features @ np.array(policy.value_net.weight).T
    assert policy.predict_values(obs).item() == pytest.approx(value.item(), rel=1e-4)
    # Orthogonal initial weights reach inside the user's module as well: tall matrices, gain sqrt(2).
    np.testing.assert_allclose(layers[0].T @ layers[0], 2 * np.eye(3), atol=1e-5)


def test_rational_tanh():
    """Within 3.7e-7 of tanh everywhere, its derivative that of tanh, nan and infinity as they should be."""
    x = np.concatenate([np.linspace(-12, 12, 4801), np.logspace(-30, -1, 200)]).astype(np.float32)
    y = np.array(rational_tanh(mx.array(x)), np.float64)
    expected = np.tanh(x.astype(np.float64))
    np.testing.assert_allclose(y, expected, rtol=3.8e-7, atol=0)
    slope = np.array(mx.grad(lambda v: rational_tanh(v).sum())(mx.array(x)), np.float64)
    np.testing.assert_allclose(slope, 1 - expected**2, atol=1e-6)
    ends = np.array(rational_tanh(mx.array([np.inf, -np.inf, np.nan])))
    np.testing.assert_allclose(ends, [1, -1, np.nan], rtol=1e-6)


def test_tanh_is_mlxs_for_other_dtypes():
    half = mx.array([0.5, -2.0], mx.float16)
    assert Tanh()(half).dtype == mx.float16
    np.testing.assert_array_equal(np.array(Tanh()(half)), np.array(mx.tanh(half)))
