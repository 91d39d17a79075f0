"""Modules: names, aliases, attributes that are no parameters, orthogonal weights, copies."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C
from mlx_baselines3.common.envs import FakeImageEnv
from mlx_baselines3.common.nn.layers import (
    Conv2d,
    Flatten,
    Linear,
    Module,
    ModuleDict,
    Sequential,
    named_parameters,
    orthogonal,
    set_named_parameters,
)
from mlx_baselines3.common.policies import ActorCriticPolicy
from support.convolutions import numpy_convolution

OBSERVATIONS = spaces.Box(-1, 1, (4,), np.float32)


def make_policy(action_space=None, **kwargs):
    space = action_space or spaces.Box(-1, 1, (2,), np.float32)
    return ActorCriticPolicy(OBSERVATIONS, space, lambda _: 1e-3, net_arch=[8, 8], **kwargs)


NAMES = [
    f"{net}.{i}.{kind}"
    for net in ("mlp_extractor.policy_net", "mlp_extractor.value_net")
    for i in (0, 2)
    for kind in ("weight", "bias")
] + ["action_net.weight", "action_net.bias", "value_net.weight", "value_net.bias"]


def test_policy_names_and_order_are_sb3s():
    """torch lists a module's own parameters before its children's, hence log_std first."""
    assert list(make_policy(spaces.Discrete(2)).state_dict()) == NAMES
    assert list(make_policy().state_dict()) == ["log_std", *NAMES]


class Scaled(Module):
    """An extractor with a parameter, as a user writes it."""

    def __init__(self, observation_space):
        super().__init__()
        self.features_dim = 4
        self.scale = mx.ones(4)
        self.sizes = [1, 2]
        self.options = {"a": 1}

    def forward(self, observations):
        return observations * self.scale


def test_shared_extractor_has_three_names_but_one_array():
    policy = make_policy(spaces.Discrete(2), features_extractor_class=Scaled)
    extractor_names = [f"{prefix}features_extractor.scale" for prefix in ("", "pi_", "vf_")]
    assert set(policy.state_dict()) == {*NAMES, *extractor_names}
    assert sum(name.endswith("scale") for name in named_parameters(policy)) == 1
    assert policy.optimizer.names.count("features_extractor.scale") == 1
    # Loading under any of the names reaches the one array.
    state = policy.state_dict() | dict.fromkeys(extractor_names, mx.full((4,), 3.0))
    policy.load_state_dict(state)
    assert (
        policy.pi_features_extractor.scale.tolist()
        == policy.vf_features_extractor.scale.tolist()
        == [3.0] * 4
    )


def test_a_deleted_name_is_gone_and_the_file_is_read_as_an_old_one(tmp_path):
    """SB3 before 1.7 had one name for the extractor; without the second one a model is as of then."""
    kwargs = {"features_extractor_kwargs": {"features_dim": 4}}
    model = A2C("CnnPolicy", FakeImageEnv(screen_height=36, screen_width=36), policy_kwargs=kwargs)
    names = list(model.policy.state_dict())
    del model.policy.pi_features_extractor
    kept = [name for name in names if not name.startswith("pi_features_extractor.")]
    assert list(model.policy.state_dict()) == kept
    assert len(kept) == len(names) - 8
    model.save(tmp_path / "old")
    with pytest.warns(UserWarning, match="before 1.7.0"):
        loaded = A2C.load(tmp_path / "old")
    assert list(loaded.policy.state_dict()) == names
    for name, array in model.policy.state_dict().items():
        np.testing.assert_array_equal(loaded.policy.state_dict()[name], array)


def test_unshared_extractors_are_two():
    policy = make_policy(spaces.Discrete(2), features_extractor_class=Scaled, share_features_extractor=False)
    assert policy.pi_features_extractor is policy.features_extractor
    assert policy.vf_features_extractor is not policy.features_extractor
    assert sum(name.endswith("scale") for name in named_parameters(policy)) == 2
    assert sum(name.endswith("scale") for name in policy.state_dict()) == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
@pytest.mark.parametrize("share", [True, False])
def test_copies_keep_who_is_who(copied, share):
    policy = make_policy(features_extractor_class=Scaled, share_features_extractor=share)
    clone = copied(policy)
    assert clone.pi_features_extractor is clone.features_extractor
    assert (clone.vf_features_extractor is clone.features_extractor) is share
    assert clone.features_extractor is not policy.features_extractor
    before = {name: np.array(array) for name, array in policy.state_dict().items()}
    clone.load_state_dict({name: array + 1 for name, array in clone.state_dict().items()})
    for name, array in policy.state_dict().items():
        np.testing.assert_array_equal(np.array(array), before[name])
        np.testing.assert_allclose(np.array(clone.state_dict()[name]), before[name] + 1, rtol=1e-6)
    obs = np.zeros((3, 4), np.float32)
    assert clone.predict(obs)[0].shape == (3, 2)


def test_lists_and_dicts_of_plain_values_are_attributes():
    module = Scaled(None)
    assert list(named_parameters(module)) == ["scale"]
    assert module.sizes == [1, 2]
    assert module.options == {"a": 1}
    # An attribute may turn from a parameter into a plain value and back.
    module.sizes = [mx.ones(2)]
    assert list(named_parameters(module)) == ["scale", "sizes.0"]
    module.sizes = [3]
    assert (module.sizes, list(named_parameters(module))) == ([3], ["scale"])


def test_own_arrays_come_before_childrens():
    module = Module()
    module.child = nn.Linear(1, 1)
    module.late = mx.ones(1)
    assert list(named_parameters(module)) == ["late", "child.weight", "child.bias"]


def test_modules_are_objects():
    """MLX's modules are dictionaries: an empty one would be false, and none could be a key."""
    first, second = Flatten(), Flatten()
    assert first
    assert first != second
    assert len({first, second}) == 2
    with pytest.raises(NotImplementedError, match="Module defines neither `forward` nor `__call__`"):
        Module()(mx.ones(1))


def test_sequential_names_and_indices():
    net = Sequential(nn.Linear(2, 3), mx.tanh, nn.Linear(3, 1))
    assert list(named_parameters(net)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(net) == 3
    assert net[0].weight.shape == (3, 2)
    assert net[-1].weight.shape == (1, 3)
    x = mx.array([[1.0, -1.0]])
    expected = np.tanh(np.array(x) @ np.array(net[0].weight).T + np.array(net[0].bias))
    expected = expected @ np.array(net[2].weight).T + np.array(net[2].bias)
    np.testing.assert_allclose(np.array(net(x)), expected, rtol=1e-5)
    assert Sequential()(x) is x


class Double(nn.Module):
    """A module of MLX that defines what torch's do, `forward`, and no `__call__`."""

    def forward(self, x):
        return 2 * x


class Halves(nn.Module):
    """A network between features and heads, written so, too."""

    latent_dim_pi = latent_dim_vf = 2

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return features[:, :2]

    def forward_critic(self, features):
        return features[:, 2:]


class HalvesPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Halves()


def test_modules_of_mlx_may_define_forward_alone():
    net = Sequential(nn.Linear(4, 3), Double(), nn.ReLU())
    x = mx.random.normal((5, 4))
    np.testing.assert_array_equal(net(x), nn.relu(2 * net[0](x)))
    policy = HalvesPolicy(OBSERVATIONS, spaces.Discrete(2), lambda _: 1e-3)
    _, values, _ = policy(x)
    np.testing.assert_allclose(values, policy.value_net(x[:, 2:]), rtol=1e-6)
    np.testing.assert_allclose(values, policy.predict_values(x), rtol=1e-6)


def test_module_dict_keeps_the_order():
    modules = ModuleDict({"b": nn.Linear(1, 1), "a": nn.Linear(1, 2)})
    assert [name for name, _ in modules.named_items()] == ["b", "a"]
    assert list(named_parameters(modules)) == ["b.weight", "b.bias", "a.weight", "a.bias"]


def test_set_named_parameters_in_lists():
    module = Module()
    module.layers_list = [nn.Linear(2, 2), nn.Linear(2, 1)]
    module.free = [mx.ones(2), mx.ones(3)]
    set_named_parameters(module, {"layers_list.1.weight": mx.full((1, 2), 5.0), "free.0": mx.zeros(2)})
    assert module.layers_list[1].weight.tolist() == [[5.0, 5.0]]
    assert module.free[0].tolist() == [0.0, 0.0]
    with pytest.raises(KeyError, match="missing"):
        set_named_parameters(module, {"missing": mx.ones(1)})


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5), (4, 2, 3, 3), (40, 2, 3, 3)])
@pytest.mark.parametrize("gain", [1.0, 2**0.5, 0.01])
def test_orthogonal(shape, gain):
    q = np.array(orthogonal(shape, gain), np.float64).reshape(shape[0], -1)
    gram = q @ q.T if q.shape[0] < q.shape[1] else q.T @ q
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-6 * max(gain**2, 0.01))


def test_orthogonal_has_no_preferred_sign():
    """QR alone would leave the diagonal's signs fixed; the uniform distribution has mean 0."""
    mx.random.seed(0)
    corners = [np.array(orthogonal((2, 2)))[0, 0] for _ in range(400)]
    assert abs(np.mean(corners)) < 0.15
    assert np.mean(np.square(corners)) == pytest.approx(0.5, abs=0.06)


def test_initial_weights_of_a_policy():
    """Gains sqrt(2), 0.01 and 1; zero biases; only with ortho_init."""
    policy = make_policy()
    for layer, gain in [
        (policy.mlp_extractor.policy_net[2], 2**0.5),
        (policy.mlp_extractor.value_net[2], 2**0.5),
        (policy.action_net, 0.01),
        (policy.value_net, 1.0),
    ]:
        norms = np.linalg.norm(np.array(layer.weight), axis=1)
        np.testing.assert_allclose(norms, gain, rtol=1e-5)
        assert not np.array(layer.bias).any()
    assert np.array(make_policy(ortho_init=False).action_net.bias).any()


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 0)])
def test_convolution(rng, stride, padding):
    x = rng.normal(size=(2, 3, 7, 6)).astype(np.float32)
    layer = Conv2d(3, 4, kernel_size=3, stride=stride, padding=padding)
    expected = numpy_convolution(x, np.array(layer.weight), np.array(layer.bias), stride, padding)
    np.testing.assert_allclose(np.array(layer(mx.array(x))), expected, atol=1e-5)
    bound = 1 / np.sqrt(3 * 3 * 3)
    assert np.abs(np.array(layer.weight)).max() <= bound
    assert np.abs(np.array(layer.bias)).max() <= bound


def test_flatten():
    assert Flatten()(mx.zeros((2, 3, 4))).shape == (2, 12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(5,), (2, 5), ()])
def test_linear_is_mlxs_with_its_gradient(rows, bias):
    ours, mlxs = Linear(3, 4, bias=bias), nn.Linear(3, 4, bias=bias)
    mlxs.update(ours.parameters())
    x = mx.random.normal((*rows, 3))
    answers = []
    for layer in (ours, mlxs):
        loss_and_grad = mx.value_and_grad(
            lambda arrays, x, layer=layer: mx.square(layer.update(arrays)(x)).sum(), argnums=(0, 1)
        )
        value, (gradients, by_x) = loss_and_grad(layer.parameters(), x)
        answers.append([value, by_x, *(gradients[name] for name in sorted(gradients))])
    for mine, theirs in zip(*answers, strict=True):
        np.testing.assert_allclose(np.array(mine), np.array(theirs), rtol=1e-5, atol=1e-6)


def test_training_mode_reaches_every_module():
    class Holder(Module):
        def __init__(self):
            super().__init__()
            layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm(2))
            self.named = ModuleDict({"a": nn.Dropout(0.5), "b": layers})
            self.listed = [nn.Dropout(0.5), [nn.Dropout(0.5)]]

    holder = Holder()
    for mode in (False, True):
        assert holder.train(mode) is holder
        modes = {module.training for _, module in holder.named_modules()}
        assert modes == {mode}
    assert len(holder.named_modules()) >= 8
