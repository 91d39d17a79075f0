"""Torch's classes, and MLX's layers where this package's belong, give sentences whose advice works."""

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3 import A2C, DQN, PPO, SAC
from mlx_baselines3.common.nn import layers
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor


def of_torch(module, name):
    """A class that looks like torch's, without torch."""

    def init(self, *args, **kwargs):
        pass

    return type(name, (), {"__module__": module, "__init__": init, "__call__": lambda self, x: x})


RELU = of_torch("torch.nn.modules.activation", "ReLU")
ADAM = of_torch("torch.optim.adam", "Adam")
MODULE = of_torch("torch.nn.modules.module", "Module")


class OwnExtractor(MODULE):
    """As programs for SB3 derive theirs."""


class OwnActivation(MODULE):
    pass


@pytest.mark.parametrize("kind", [PPO, A2C, DQN, SAC])
@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"activation_fn": RELU}, r"activation_fn is torch\.nn\.ReLU.* Use mlx\.nn\.ReLU\.$"),
        ({"activation_fn": RELU()}, r"activation_fn is torch\.nn\.ReLU.* Use mlx\.nn\.ReLU\.$"),
        ({"activation_fn": OwnActivation}, r"OwnActivation, which is derived from torch\.nn\.Module"),
        ({"optimizer_class": ADAM}, r"optimizer_class is torch\.optim\.Adam.* Use mlx\.optimizers\.Adam\.$"),
        (
            {"optimizer_class": of_torch("torch.optim.nadam", "NAdam")},
            r"optimizer_class is torch\.optim\.NAdam.* one of mlx\.optimizers.* MLX has no NAdam",
        ),
        (
            {"features_extractor_class": OwnExtractor},
            r"OwnExtractor, which is derived from torch\.nn\.Module.* from "
            r"mlx_baselines3\.common\.torch_layers\.BaseFeaturesExtractor",
        ),
    ],
)
def test_torchs_classes_are_named_with_mlxs(kind, kwargs, sentence):
    env = "Pendulum-v1" if kind is SAC else "CartPole-v1"
    with pytest.raises(TypeError, match=sentence):
        kind("MlpPolicy", env, device="cpu", policy_kwargs=kwargs)


def test_a_policy_of_torchs_is_named():
    with pytest.raises(TypeError, match=r"policy is Policy, which is derived from torch\.nn\.Module"):
        PPO(type("Policy", (MODULE,), {}), "CartPole-v1")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Linear", "mlx.nn.Linear"),
        ("Conv2d", "mlx_baselines3.common.layers.Conv2d"),
        ("Sequential", "mlx_baselines3.common.layers.Sequential"),
        ("ModuleDict", "mlx_baselines3.common.layers.ModuleDict"),
        ("ModuleList", "a Python list of layers"),
        ("BatchNorm2d", "mlx_baselines3.common.layers.ChannelsLast(mlx.nn.BatchNorm(...))"),
        ("Hardtanh", "derived from mlx_baselines3.common.layers.Module: mlx.nn has no Hardtanh"),
    ],
)
def test_torchs_layers_in_a_module_are_named(name, advice):
    layer = of_torch("torch.nn.modules.some", name)()
    for place in (
        lambda: setattr(layers.Module(), "net", layer),
        lambda: layers.Sequential(nn.Linear(2, 2), layer),
        lambda: layers.ModuleDict({"net": layer}),
    ):
        with pytest.raises(TypeError, match=f"is torch.nn.{name}") as caught:
            place()
        assert advice in str(caught.value)


def test_other_objects_of_torchs_may_be_attributes():
    module = layers.Module()
    module.kind = of_torch("torch", "device")()
    assert type(module.kind).__name__ == "device"


def test_predict_takes_tensors_as_in_sb3():
    """Whatever NumPy can read."""

    class Tensor:
        __module__ = "torch"

        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return self.array

    for kwargs in ({}, {"features_extractor_class": Vectors}):
        model = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", policy_kwargs=kwargs)
        for observation in (np.ones(4, np.float32), np.ones((3, 4), np.float32)):
            expected, _ = model.predict(observation, deterministic=True)
            np.testing.assert_array_equal(model.predict(Tensor(observation), deterministic=True)[0], expected)


class Vectors(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)

    def forward(self, observations):
        return observations


class Frames(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (3, 36, 32), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}


def extractor(layer_classes, measured):
    """SB3's usual extractor; it finds its size by a call, or knows it."""
    conv, flatten, sequential = layer_classes

    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, 8)
            self.cnn = sequential(conv(space.shape[0], 4, kernel_size=4, stride=4), nn.ReLU(), flatten())
            size = self.cnn(mx.zeros((1, *space.shape))).shape[1] if measured else 288
            self.linear = nn.Linear(size, 8)

        def forward(self, observations):
            return self.linear(self.cnn(observations))

    return Extractor


def learn(kind):
    kwargs = {"features_extractor_class": kind}
    return PPO(
        "CnnPolicy", Frames(), n_steps=4, batch_size=4, n_epochs=1, device="cpu", policy_kwargs=kwargs
    ).learn(4)


@pytest.mark.parametrize("measured", [True, False])
def test_mlxs_convolution_names_the_one_that_fits_and_that_one_works(measured, uncompiled):
    by_hand = nn.Sequential, lambda: lambda x: x.reshape(len(x), -1)
    with pytest.raises(ValueError, match=r"\[conv\].* channels last") as caught:
        learn(extractor((nn.Conv2d, by_hand[1], by_hand[0]), measured))
    names = "mlx_baselines3.common.layers.Conv2d", "mlx_baselines3.common.layers.Flatten"
    assert all(name in str(caught.value) for name in names)
    conv, flatten = (getattr(layers, name.rpartition(".")[2]) for name in names)
    learn(extractor((conv, flatten, nn.Sequential), measured))
    model = learn(extractor((conv, flatten, layers.Sequential), measured))
    assert "features_extractor.cnn.0.weight" in model.get_parameters()["policy"]


@pytest.mark.parametrize("name", ["Flatten", "ModuleDict"])
def test_what_mlx_lacks_is_named(name):
    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, 4)
            self.net = getattr(nn, name)()

    with pytest.raises(AttributeError, match=rf"no attribute '{name}'.*common\.layers\.{name}\.$"):
        PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": Extractor})


def test_other_errors_of_an_extractor_stay_as_they_are():
    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, 4)
            self.typo  # noqa: B018

    with pytest.raises(AttributeError) as caught:
        PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": Extractor})
    assert "mlx_baselines3.common.layers" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        (nn.MaxPool2d(2), r"ChannelsLast\(mlx.nn.MaxPool2d\(...\)\)"),
        (nn.BatchNorm(3), r"ChannelsLast\(mlx.nn.BatchNorm\(...\)\)"),
        (nn.Conv2d(3, 4, 2), r"layers\.Conv2d"),
    ],
)
def test_layers_that_would_take_the_width_for_channels_are_refused(layer, advice):
    with pytest.raises(ValueError, match=rf"channels last.* use mlx_baselines3\.common\.\S*{advice}"):
        layers.Sequential(layers.Conv2d(3, 3, 2), nn.ReLU(), layer)
    # After Flatten there are no channels any more.
    layers.Sequential(layers.Conv2d(3, 3, 2), layers.Flatten(), nn.BatchNorm(27))


def test_channels_last_pools_each_channel():
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    pooled = layers.ChannelsLast(nn.MaxPool2d(2))(mx.array(images))
    expected = images.reshape(2, 3, 2, 2, 3, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(np.array(pooled), expected)
