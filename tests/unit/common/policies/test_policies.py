"""Policies: predict's shapes, dtypes and errors, parameters as vectors, files, evaluation."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 40), np.uint8)
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-0.5, 0.5, (2,), np.float32),
    "matrix": spaces.Box(-0.5, 0.5, (2, 2), np.float32),
}


def make(action_space=ACTIONS["discrete"], observation_space=VECTOR, cls=ActorCriticPolicy, **kwargs):
    mx.random.seed(0)
    return cls(observation_space, action_space, lambda _: 1e-3, **{"net_arch": [4], **kwargs})


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ACTIONS)
def test_one_observation_gives_one_action_and_a_batch_a_batch(name, deterministic):
    space = ACTIONS[name]
    policy = make(space)
    action, state = policy.predict(np.zeros(3, np.float32), deterministic=deterministic)
    assert isinstance(action, np.ndarray)
    assert action.shape == space.shape
    assert state is None
    assert space.contains(action.astype(space.dtype))
    batch, _ = policy.predict(np.zeros((5, 3), np.float32), deterministic=deterministic)
    assert batch.shape == (5, *space.shape)
    assert policy.predict(np.zeros((1, 3), np.float32))[0].shape == (1, *space.shape)
    assert action.dtype == batch.dtype == policy.predict(np.zeros((1, 3), np.float32))[0].dtype
    if name in ("discrete", "multi_discrete"):
        assert action.dtype == np.int64
    if name in ("box", "matrix"):
        assert action.dtype == np.float32


def test_state_is_handed_through():
    marker = (np.ones(2),)
    assert make().predict(np.zeros(3, np.float32), state=marker, episode_start=np.ones(1))[1] is marker


def test_continuous_actions_are_clipped():
    policy = make(ACTIONS["box"])
    policy.action_net.bias = mx.array([9.0, -9.0])
    np.testing.assert_array_equal(policy.predict(np.zeros(3, np.float32), deterministic=True)[0], [0.5, -0.5])


def test_squashed_actions_are_unscaled():
    space = spaces.Box(np.array([0, -2], np.float32), np.array([10, 4], np.float32))
    policy = make(space, use_sde=True, squash_output=True)
    policy.action_net.bias = mx.array([0.5, -20.0])
    action = policy.predict(np.zeros(3, np.float32), deterministic=True)[0]
    expected = [5 + 5 * np.tanh(0.5 + np.array(policy.action_net.weight)[0] @ np.zeros(4)), -2]
    np.testing.assert_allclose(action, expected, rtol=1e-4)
    np.testing.assert_allclose(policy.scale_action(np.array([2.5, 1.0])), [-0.5, 0.0])
    np.testing.assert_allclose(policy.unscale_action(np.array([-0.5, 0.0])), [2.5, 1.0])


def test_scaling_needs_a_box():
    with pytest.raises(AssertionError, match="not those of Discrete"):
        make().scale_action(np.zeros(1))


def test_squashing_needs_sde():
    with pytest.raises(AssertionError, match="use_sde"):
        make(ACTIONS["box"], squash_output=True)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_images_in_both_layouts(layout, batch, rng):
    policy = make(
        observation_space=IMAGE, cls=ActorCriticCnnPolicy, features_extractor_kwargs={"features_dim": 8}
    )
    image = rng.integers(0, 255, (*batch, 3, 36, 40), np.uint8)
    given = image if layout == "CHW" else np.moveaxis(image, -3, -1)
    expected = policy.predict(image, deterministic=True)[0]
    assert expected.shape == batch
    np.testing.assert_array_equal(policy.predict(given, deterministic=True)[0], expected)


def test_images_are_scaled_to_one_unless_normalised_already():
    image = np.full((1, 3, 36, 40), 255, np.uint8)
    space = spaces.Box(0, 1, (3, 36, 40), np.float32)
    kwargs = {"cls": ActorCriticCnnPolicy, "features_extractor_kwargs": {"features_dim": 8}}
    scaled = make(observation_space=IMAGE, **kwargs)
    as_is = make(observation_space=space, normalize_images=False, **kwargs)
    as_is.load_state_dict(scaled.state_dict())
    assert scaled.predict_values(mx.array(image)).item() == pytest.approx(
        as_is.predict_values(mx.ones((1, 3, 36, 40))).item(), rel=1e-5
    )


def test_default_architectures():
    policy = make(net_arch=None)
    assert policy.net_arch == {"pi": [64, 64], "vf": [64, 64]}
    cnn = make(observation_space=IMAGE, cls=ActorCriticCnnPolicy, net_arch=None)
    assert (cnn.net_arch, cnn.features_dim) == ([], 512)
    assert policy.optimizer.optimizer.eps == 1e-5
    assert make(optimizer_kwargs={"eps": 1e-8}).optimizer.optimizer.eps == 1e-8
    assert isinstance(make(optimizer_class=optim.SGD).optimizer.optimizer, optim.SGD)


DICT = spaces.Dict({"vec": VECTOR, "kind": spaces.Discrete(3)})


def test_dict_observations():
    policy = make(observation_space=DICT, cls=MultiInputActorCriticPolicy)
    one = {"vec": np.zeros(3, np.float32), "kind": np.array(2)}
    batch = {"vec": np.zeros((4, 3), np.float32), "kind": np.array([0, 1, 2, 0])}
    assert policy.predict(one)[0].shape == ()
    assert policy.predict(batch)[0].shape == (4,)
    assert not policy.is_vectorized_observation(one)
    assert policy.is_vectorized_observation(batch)


def test_what_reset_returns_is_refused():
    with pytest.raises(ValueError, match=r"tuple instead of.*obs, info = env\.reset\(\)"):
        make().predict((np.zeros(3, np.float32), {}))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 2, 3), ()])
def test_wrong_shapes_name_both(shape):
    with pytest.raises(
        ValueError, match=rf"Unexpected observation shape \({', '.join(map(str, shape))}.*\(3,\)"
    ):
        make().predict(np.zeros(shape, np.float32))


def test_deterministic_actions_are_the_distributions_mode():
    policy = make()
    obs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    probs = np.array(policy.get_distribution(mx.array(obs)).distribution.probs)
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], probs.argmax(axis=1))


def test_forward_and_evaluation_agree():
    policy = make(ACTIONS["box"])
    obs = mx.random.normal((6, 3))
    actions, values, log_prob = policy(obs)
    assert (actions.shape, values.shape, log_prob.shape) == ((6, 2), (6, 1), (6,))
    again_values, again_log_prob, entropy = policy.evaluate_actions(obs, actions)
    np.testing.assert_allclose(np.array(again_values), np.array(values), rtol=1e-6)
    np.testing.assert_allclose(np.array(again_log_prob), np.array(log_prob), rtol=1e-5)
    np.testing.assert_allclose(np.array(policy.predict_values(obs)), np.array(values), rtol=1e-6)
    # log_std is 0: the entropy of two standard normals.
    np.testing.assert_allclose(np.array(entropy), np.log(2 * np.pi * np.e), rtol=1e-6)


def test_network_by_hand():
    policy = make()
    w = {name: np.array(array, np.float64) for name, array in policy.state_dict().items()}
    obs = np.array([[0.2, -1.0, 0.7]])

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    value = dense(np.tanh(dense(obs, "mlp_extractor.value_net.0")), "value_net")
    logits = dense(np.tanh(dense(obs, "mlp_extractor.policy_net.0")), "action_net")
    assert policy.predict_values(mx.array(obs, mx.float32)).item() == pytest.approx(value.item(), rel=1e-5)
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(
        np.array(policy.get_distribution(mx.array(obs, mx.float32)).distribution.probs), p, rtol=1e-5
    )


def test_activation_function_is_used():
    policy = make(activation_fn=nn.ReLU)
    assert isinstance(policy.mlp_extractor.policy_net[1], nn.ReLU)


def test_sde_noise_per_environment():
    policy = make(ACTIONS["box"], use_sde=True, log_std_init=-1.0)
    assert policy.log_std.shape == (4, 2)
    policy.reset_noise(3)
    obs = mx.ones((3, 3))
    assert np.unique(np.array(policy(obs)[0])[:, 0]).size == 3
    with pytest.raises(AssertionError, match="use_sde=True"):
        make(ACTIONS["box"]).reset_noise()


def test_vectors():
    policy, other = make(), make()
    vector = policy.parameters_to_vector()
    assert vector.dtype == np.float32
    assert vector.shape == (2 * (3 * 4 + 4) + (4 * 4 + 4) + (4 + 1),)
    other.load_from_vector(vector + 1)
    np.testing.assert_array_equal(other.parameters_to_vector(), vector + 1)
    np.testing.assert_array_equal(other.state_dict()["value_net.bias"], [1.0])
    with pytest.raises(ValueError, match="has 56 numbers, the network has 57"):
        other.load_from_vector(vector[1:])
    np.testing.assert_array_equal(other.parameters_to_vector(), vector + 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("value_net.bias"), r"Missing key\(s\) in state_dict: value_net\.bias"),
        (lambda state: state.update(extra=np.ones(1)), r"Unexpected key\(s\) in state_dict: extra"),
        (
            lambda state: state.update({"value_net.bias": np.ones(2)}),
            r"size mismatch for value_net\.bias.*\(2,\).*\(1,\)",
        ),
    ],
)
def test_wrong_state_changes_nothing(spoil, message):
    policy = make()
    before = policy.parameters_to_vector()
    state = {name: np.array(array) + 1 for name, array in policy.state_dict().items()}
    spoil(state)
    with pytest.raises(RuntimeError, match=message):
        policy.load_state_dict(state)
    np.testing.assert_array_equal(policy.parameters_to_vector(), before)


def test_part_of_a_state():
    policy = make()
    policy.load_state_dict({"value_net.bias": np.array([3.0]), "unknown": np.ones(1)}, strict=False)
    assert policy.value_net.bias.item() == 3.0


@pytest.mark.parametrize("kwargs", [{}, {"use_sde": True, "squash_output": True, "full_std": False}])
def test_file(tmp_path, kwargs):
    policy = make(ACTIONS["box"], activation_fn=nn.ReLU, **kwargs)
    policy.save(tmp_path / "policy.zip")
    loaded = ActorCriticPolicy.load(tmp_path / "policy.zip")
    obs = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0]
    )
    assert loaded._get_constructor_parameters().keys() == policy._get_constructor_parameters().keys()
    assert loaded.net_arch == [4]
    assert loaded.activation_fn is nn.ReLU


def test_training_mode():
    policy = make()
    policy.set_training_mode(True)
    assert policy.training
    policy.predict(np.zeros(3, np.float32))
    assert not policy.training
    assert not policy.mlp_extractor.training


def test_ignored_extractor_warns():
    policy = make(share_features_extractor=False)
    with pytest.warns(UserWarning, match="ignored"):
        first, second = policy.extract_features(mx.ones((1, 3)), policy.features_extractor)
    assert first.tolist() == second.tolist() == [[1.0, 1.0, 1.0]]
    assert make().extract_features(mx.ones((1, 3))).tolist() == [[1.0, 1.0, 1.0]]


def test_devices():
    policy = make().to("cpu")
    assert policy.device.type == mx.cpu
    with pytest.raises(ValueError, match="Unknown device 'tpu'"):
        policy.to("tpu")


def test_a_policy_is_pickled_and_copied_after_a_compiled_update(mlx_updates):
    """The update traces the policy, and its distribution keeps arrays that were only traced."""
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, n_epochs=1, seed=0).learn(8)
    obs = np.ones((2, 3), np.float32)
    expected = model.policy.predict(obs, deterministic=True)[0]
    for policy in (pickle.loads(pickle.dumps(model.policy)), copy.deepcopy(model.policy)):
        np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], expected)
        policy.get_distribution(policy.obs_to_tensor(obs)[0])
