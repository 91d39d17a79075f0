"""Policies run in Rust agree with MLX's forward pass, or say why they are not run there."""

import copy
import pickle
import threading
from typing import Any

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DDPG, DQN, PPO, SAC, TD3, _native
from mlx_baselines3.common.native.actor import NativeActor, mlp_layers, native_actor
from mlx_baselines3.common.native.eligibility import NotNative, mlx_infers
from mlx_baselines3.common.native.rollouts import choose_actor
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policies import base as base_policy
from mlx_baselines3.common.torch_layers import FlattenExtractor
from mlx_baselines3.common.utils import set_random_seed

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
ACTIVATIONS = [nn.Identity, nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU]
SPACES = [spaces.Discrete(5), BOX, spaces.MultiDiscrete([2, 4, 3]), spaces.MultiBinary(4)]


def policy(
    action_space: Any = BOX, obs_shape: tuple[int, ...] = (4,), cls: Any = ActorCriticPolicy, **kwargs: Any
) -> Any:
    observation_space = spaces.Box(-np.inf, np.inf, obs_shape, np.float32)
    made = cls(observation_space, action_space, lambda _: 1e-3, **kwargs)
    # Initial action weights are a hundredth: everything would agree with anything.
    made.action_net.weight = mx.random.normal(made.action_net.weight.shape)
    made.action_net.bias = mx.random.normal(made.action_net.bias.shape)
    return made


def raw_outputs(made: Any, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = made.features_extractor(mx.array(obs))
    latent_pi, latent_vf = made.mlp_extractor(features)
    return to_numpy(made.action_net(latent_pi)), to_numpy(made.value_net(latent_vf))


@pytest.mark.parametrize("activation_fn", ACTIVATIONS)
@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_outputs_and_modes_agree_with_mlx(space: Any, activation_fn: Any, rng: np.random.Generator) -> None:
    mx.random.seed(1)
    for batch in (1, 3, 4, 9, 130):
        net_arch = {"pi": rng.integers(1, 70, rng.integers(0, 4)).tolist(), "vf": [int(rng.integers(1, 70))]}
        shape = tuple(rng.integers(1, 6, rng.integers(1, 3)).tolist())
        made = policy(space, shape, net_arch=net_arch, activation_fn=activation_fn)
        actor = native_actor(made)
        obs = rng.normal(size=(batch, *shape)).astype(np.float32)
        outputs, values = raw_outputs(made, obs)
        tolerance = 1e-5 * max(1.0, float(np.abs(outputs).max()))
        assert np.abs(actor.outputs(obs) - outputs).max() <= tolerance
        assert np.abs(actor.critic().outputs(obs) - values).max() <= 1e-5 * max(1.0, np.abs(values).max())
        expected = to_numpy(made._predict(mx.array(obs), deterministic=True)).reshape(batch, -1)
        got = actor.act(obs, deterministic=True)
        assert got.dtype == expected.dtype
        assert np.abs(got - expected).max() <= (0 if got.dtype == np.int64 else tolerance)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_likelihoods_agree_with_mlx(space: Any, rng: np.random.Generator) -> None:
    made = policy(space, log_std_init=-0.7) if space is BOX else policy(space)
    actor = native_actor(made)
    obs = rng.normal(size=(50, 4)).astype(np.float32)
    actions = actor.act(obs)
    taken = actions[:, 0] if isinstance(space, spaces.Discrete) else actions
    _, expected, _ = made.evaluate_actions(mx.array(obs), mx.array(taken))
    got = actor.log_probs(obs, actions)
    assert got is not None
    np.testing.assert_allclose(got, to_numpy(expected), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="expected 50 log-likelihoods"):
        actor.log_probs(obs, actions[1:])
    if isinstance(space, spaces.Discrete):
        with pytest.raises(ValueError, match="an action is 5, expected a choice from 0 to 4"):
            actor.log_probs(obs, np.full(50, 5))


def test_a_policy_without_likelihoods_has_none() -> None:
    model = TD3("MlpPolicy", "Pendulum-v1", buffer_size=10)
    assert native_actor(model.policy).log_probs(np.zeros((2, 3), np.float32), np.zeros((2, 1))) is None


def test_samples_follow_the_policy() -> None:
    obs = np.full((20_000, 4), 0.3, np.float32)
    made = policy(BOX, log_std_init=-0.7)
    mean = raw_outputs(made, obs[:1])[0][0]
    drawn = native_actor(made).act(obs)
    assert np.abs(drawn.mean(axis=0) - mean).max() < 5 * np.exp(-0.7) / np.sqrt(20_000)
    assert np.abs(drawn.std(axis=0) - np.exp(-0.7)).max() < 0.0125
    made = policy(spaces.Discrete(3))
    logits = raw_outputs(made, obs[:1])[0][0].astype(float)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    shares = np.bincount(native_actor(made).act(obs)[:, 0], minlength=3) / 20_000
    assert np.abs(shares - probabilities).max() < 0.018


def test_mlx_decides_about_the_draws() -> None:
    made = policy()
    obs = np.zeros((5, 4), np.float32)

    def draw() -> list[np.ndarray]:
        return [made.predict(obs)[0] for _ in range(3)]

    set_random_seed(3)
    first = draw()
    assert not np.array_equal(first[0], first[1])
    set_random_seed(3)
    assert np.array_equal(draw(), first)
    mx.random.seed(4)
    assert not np.array_equal(draw(), first)


def test_every_seeding_gives_other_numbers() -> None:
    """Rollouts begin with one; an environment with the same seed draws others, too."""
    actor = native_actor(policy())
    mx.random.seed(3)
    own = np.random.PCG64(3).state["state"]
    states = {(own["state"], own["inc"])}
    for _ in range(50):
        actor.reseed()
        states.add(actor.rng_state)
    assert len(states) == 51
    # MLX's own numbers are others afterwards, and the same ones for the same seed.
    drawn = mx.random.uniform(shape=(3,))
    mx.random.seed(3)
    assert not mx.array_equal(drawn, mx.random.uniform(shape=(3,)))
    mx.random.seed(3)
    for _ in range(50):
        actor.reseed()
    assert mx.array_equal(drawn, mx.random.uniform(shape=(3,)))


def test_the_generator_goes_on_from_a_state() -> None:
    actor = native_actor(policy())
    obs = np.zeros((5, 4), np.float32)
    actor.act(obs)
    state = actor.rng_state
    expected = actor.act(obs)
    actor.reseed()
    actor.rng_state = state
    assert np.array_equal(actor.act(obs), expected)
    with pytest.raises(ValueError, match="expected an odd number"):
        actor.rng_state = (1, 2)


def test_the_generator_is_numpys() -> None:
    core = _native.Actor(
        [{"inputs": 1, "outputs": 1, "activation": "identity", "parameter": 0.0}], "bernoulli", [], []
    )
    core.seed(123)
    state = np.random.PCG64(123).state["state"]
    assert core.rng_state == {"state": state["state"], "inc": state["inc"]}


@pytest.mark.parametrize("how", ["replaced", "in place", "loaded", "log_std"])
def test_weights_are_taken_over(how: str) -> None:
    made, other = policy(), policy()
    # Small enough that no action is clipped: one that is at its bound does not show a change.
    made.action_net.weight, made.action_net.bias = made.action_net.weight * 0.02, mx.zeros(3)
    obs = np.ones((2, 4), np.float32)
    assert np.abs(raw_outputs(made, obs)[0]).max() < 0.6
    before = made.predict(obs, deterministic=True)[0]
    if how == "replaced":
        made.action_net.bias = mx.array([0.1, 0.2, 0.3])
    elif how == "in place":
        made.mlp_extractor.policy_net[0].weight[0] = 2.0
    elif how == "loaded":
        made.load_state_dict(other.state_dict())
        assert np.array_equal(
            made.predict(obs, deterministic=True)[0], other.predict(obs, deterministic=True)[0]
        )
    else:
        made.log_std = mx.full((3,), -30.0)
        assert np.allclose(made.predict(obs)[0], before, atol=1e-5)
        return
    assert not np.array_equal(made.predict(obs, deterministic=True)[0], before)
    expected = np.clip(raw_outputs(made, obs)[0], -1, 1)
    assert np.abs(made.predict(obs, deterministic=True)[0] - expected).max() < 1e-5


def test_other_layers_are_noticed() -> None:
    made = policy()
    actor = native_actor(made)
    assert native_actor(made) is actor
    made.mlp_extractor.policy_net = policy(net_arch=[16]).mlp_extractor.policy_net
    made.action_net = nn.Linear(16, 3)
    obs = np.ones((2, 4), np.float32)
    assert np.abs(native_actor(made).outputs(obs) - raw_outputs(made, obs)[0]).max() < 1e-5


class OwnForward(ActorCriticPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> mx.array:
        return mx.full((observation.shape[0], 3), 0.25)


class OwnExtractor(FlattenExtractor):
    def forward(self, observations: mx.array) -> mx.array:
        return super().forward(observations) * 2


class Custom(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return x


def test_it_says_why_a_policy_stays_in_mlx() -> None:
    cases = {
        "OwnForward has its own _predict": policy(cls=OwnForward),
        "the policy has a OwnExtractor": policy(features_extractor_class=OwnExtractor),
        "there is no native Custom layer": policy(activation_fn=Custom),
    }
    for message, made in cases.items():
        with pytest.raises(NotNative, match=message):
            native_actor(made)
    patched = policy()
    patched.extract_features = lambda obs, _=None: obs
    with pytest.raises(NotNative, match="its own extract_features"):
        native_actor(patched)
    with pytest.raises(NotNative, match="int has no native form"):
        native_actor(3)


@pytest.mark.parametrize("kind", [DQN, SAC, TD3, DDPG])
def test_off_policy_policies_agree_with_mlx(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs: dict[str, Any] = {"seed": 1, "buffer_size": 10, "policy_kwargs": {"net_arch": [37, 20]}}
    model = kind("MlpPolicy", "CartPole-v1" if kind is DQN else "Pendulum-v1", **kwargs)
    assert native_actor(model.policy) is native_actor(model.policy)
    obs = np.random.default_rng(0).normal(size=(50, *model.observation_space.shape)).astype(np.float32)
    got = model.policy.predict(obs, deterministic=True)[0]
    drawn = model.policy.predict(obs)[0]
    with monkeypatch.context() as patch:
        patch.setattr(base_policy, "predict_natively", lambda *_: None)
        expected = model.policy.predict(obs, deterministic=True)[0]
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert np.abs(got - expected).max() < 1e-5
    assert np.array_equal(drawn, got) == (kind is not SAC)


def test_sac_draws_from_its_distribution() -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", seed=1, buffer_size=10, policy_kwargs={"net_arch": [8]})
    obs = np.full((20_000, 3), 0.5, np.float32)
    mean, log_std, _ = model.actor.get_action_dist_params(mx.array(obs[:1]))
    drawn = np.arctanh(native_actor(model.policy).act(obs)[:, 0].clip(-0.99999, 0.99999).astype(float))
    std = float(np.exp(log_std.item()))
    assert abs(drawn.mean() - mean.item()) < 5 * std / np.sqrt(20_000)
    assert abs(drawn.std() / std - 1) < 0.025


def test_what_is_not_mirrored_is_inferred_by_mlx() -> None:
    actions, _ = policy(cls=OwnForward).predict(np.zeros((2, 4), np.float32))
    assert np.array_equal(actions, np.full((2, 3), 0.25, np.float32))


def test_layers_are_read_in_order() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    layers = mlp_layers(Sequential(first, nn.Identity(), nn.ELU(0.5), second, nn.LeakyReLU(0.2)))
    assert [layer[1:] for layer in layers] == [("elu", 0.5), ("leaky_relu", 0.2)]
    with pytest.raises(NotNative, match="a ReLU does not follow a linear layer"):
        mlp_layers(Sequential(nn.ReLU(), first))
    with pytest.raises(NotNative, match="a ReLU does not follow"):
        mlp_layers(Sequential(first, nn.Tanh(), nn.ReLU()))
    with pytest.raises(NotNative, match="no native GELU"):
        mlp_layers(Sequential(first, nn.GELU("fast")))


def test_bad_input_is_named() -> None:
    made = policy(spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"shape \[2, 3\], expected \(2, 4\)"):
        native_actor(made).act(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        made.predict(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="row 1 is not a finite number"):
        native_actor(made).act(np.array([[0.0] * 4, [np.nan] * 4], np.float32))
    assert made.predict(np.zeros(4, np.float32))[0].shape == ()


def test_a_policy_with_a_twin_is_copied_and_pickled() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, seed=0)
    obs = np.ones((2, 3), np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    for clone in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        assert np.array_equal(clone.predict(obs, deterministic=True)[0], expected)
        assert native_actor(clone) is not native_actor(model.policy)


def test_threads_take_turns() -> None:
    actor: NativeActor = native_actor(policy(net_arch=[256, 256]))
    obs = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    expected, wrong = actor.act(obs, deterministic=True), []

    def work() -> None:
        wrong.extend(i for i in range(10) if not np.array_equal(actor.act(obs, True), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_float64_and_single_observations() -> None:
    model = PPO("MlpPolicy", gym.make("CartPole-v1"), n_steps=8, batch_size=8, seed=0)
    obs = np.array([0.1, 0.2, -0.1, 0.0])
    single = model.predict(obs, deterministic=True)[0]
    assert single.shape == ()
    assert single == model.predict(obs[None].astype(np.float32), deterministic=True)[0][0]


def test_a_critic_that_is_not_float32_is_mlx_s():
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    value_net = model.policy.value_net
    value_net.weight = value_net.weight.astype(mx.float16)
    assert choose_actor(model.policy, model.rollout_buffer) == mlx_infers("its weights are not float32")
    _, callback = model._setup_learn(8)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)
    assert model.rollout_buffer.full
