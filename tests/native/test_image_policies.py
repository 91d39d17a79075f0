"""Policies with features extractors act and learn in Rust as in MLX, if these have a native form."""

from typing import Any

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common.layers import ChannelsLast, Conv2d, Flatten, Linear, Sequential
from mlx_baselines3.common.native.actor import blueprint, native_actor, native_actor_or_none
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policies import base as base_policy
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.native_models import assert_close, state_of, train

IMAGE = spaces.Box(0, 255, (1, 36, 40), np.uint8)
LAST = spaces.Box(0, 255, (36, 40, 2), np.uint8)
BOX = spaces.Box(-1, 1, (2,), np.float32)
SMALL: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": 8}}
# With Adam's 1e-8 the last bit of a gradient near 0 decides about a step as long as the learning rate.
STEADY: dict[str, Any] = {"optimizer_kwargs": {"eps": 1e-5}}
OF_DICT: dict[str, Any] = {"features_extractor_kwargs": {"cnn_output_dim": 8}, **STEADY}
DICT = spaces.Dict(
    {
        "front": IMAGE,
        "wide": spaces.Box(-1, 1, (2, 3), np.float32),
        "back": spaces.Box(0, 255, (2, 36, 36), np.uint8),
        "bytes": spaces.Box(0, 9, (4,), np.uint8),
    }
)


class Frames(gym.Env[Any, Any]):
    """Random observations; an episode has five steps, and the time limit ends every other one."""

    def __init__(self, space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space = space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ends = self.steps % 5 == 0
        return self.observation_space.sample(), float(self.steps % 3), ends and self.steps % 2 == 0, ends, {}


class Chain(BaseFeaturesExtractor):
    """Layers of this package, called in a row."""

    def __init__(self, space: spaces.Box, features_dim: int = 6):
        super().__init__(space, features_dim)
        self.body = Sequential(
            Conv2d(1, 3, 5, stride=3, padding=2), nn.GELU(), Sequential(Conv2d(3, 4, 3, stride=2), nn.Tanh())
        )
        self.head = Linear(4 * 5 * 6, 7)
        self.end = nn.ELU(0.5)
        self.last = Linear(7, features_dim)
        self.flat = Flatten()

    def forward(self, observations: mx.array) -> mx.array:
        """Documented."""
        maps = self.body(observations)
        return self.last(self.end(self.head(self.flat(maps))))


class Called(Chain):
    def __call__(self, x: mx.array) -> mx.array:
        return self.last(self.end(self.head(self.flat(self.body(x)))))


def model_of(cls: Any, space: spaces.Space[Any] = IMAGE, n_envs: int = 1, **kwargs: Any) -> Any:
    action_space = spaces.Discrete(3) if cls in (DQN, A2C) else BOX
    env = DummyVecEnv([lambda: Frames(space, action_space)] * n_envs)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy"
    if cls in (PPO, A2C):
        kwargs = {"n_steps": 12, **kwargs}
    else:
        kwargs = {"buffer_size": 60, "learning_starts": 0, **kwargs}
    if cls is PPO:
        kwargs = {"batch_size": 12, "n_epochs": 2, **kwargs}
    # Algorithms add to what they are given.
    kwargs["policy_kwargs"] = {
        **kwargs.get("policy_kwargs", {"features_extractor_kwargs": {"cnn_output_dim": 8}})
    }
    return cls(policy, env, seed=1, device="cpu", **kwargs)


MODELS = {
    "PPO": lambda: model_of(PPO, policy_kwargs=SMALL),
    "A2C, separate": lambda: model_of(A2C, policy_kwargs={**SMALL, "share_features_extractor": False}),
    "PPO, channels last": lambda: model_of(PPO, LAST, policy_kwargs=SMALL),
    "PPO, own extractor": lambda: model_of(PPO, policy_kwargs={"features_extractor_class": Chain}),
    "A2C, own call": lambda: model_of(A2C, policy_kwargs={"features_extractor_class": Called}),
    "PPO, gSDE": lambda: model_of(PPO, policy_kwargs=SMALL, use_sde=True),
    "PPO, flattened": lambda: PPO(
        "MlpPolicy", Frames(IMAGE, BOX), n_steps=12, batch_size=12, seed=1, device="cpu"
    ),
    "PPO, floats": lambda: model_of(
        PPO,
        spaces.Box(0, 1, (1, 36, 36), np.float32),
        policy_kwargs={**SMALL, "normalize_images": False},
    ),
    "PPO, dict": lambda: model_of(PPO, DICT),
    "PPO, dict, separate": lambda: model_of(
        PPO,
        DICT,
        policy_kwargs={"features_extractor_kwargs": {"cnn_output_dim": 8}, "share_features_extractor": False},
    ),
    "DQN": lambda: model_of(DQN, policy_kwargs=SMALL),
    "DQN, dict": lambda: model_of(DQN, DICT),
    "SAC": lambda: model_of(SAC, policy_kwargs=SMALL),
    "SAC, shared": lambda: model_of(SAC, policy_kwargs={**SMALL, **STEADY, "share_features_extractor": True}),
    "SAC, dict": lambda: model_of(SAC, DICT, policy_kwargs=OF_DICT),
    "TD3": lambda: model_of(TD3, policy_kwargs={**SMALL, **STEADY}),
    "TD3, dict": lambda: model_of(TD3, DICT),
    "TD3, own extractor, shared": lambda: model_of(
        TD3,
        policy_kwargs={"features_extractor_class": Chain, "share_features_extractor": True, **STEADY},
    ),
    "DDPG, dict, shared": lambda: model_of(
        DDPG, DICT, policy_kwargs={**OF_DICT, "share_features_extractor": True}
    ),
}


def batch_for(model: Any, rows: int = 5) -> Any:
    space = model.observation_space
    space.seed(3)
    samples = [space.sample() for _ in range(rows)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


def of_mlx(model: Any, obs: Any, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(base_policy, "predict_natively", lambda *_: None)
        return model.predict(obs, deterministic=True)[0]


@pytest.mark.parametrize("name", MODELS)
def test_actions_agree_with_mlx(name, monkeypatch):
    model = MODELS[name]()
    if hasattr(model.policy, "action_net"):
        # Initial weights are a hundredth: everything would agree with anything.
        model.policy.action_net.weight = mx.random.normal(model.policy.action_net.weight.shape)
    batch = batch_for(model)
    expected = of_mlx(model, batch, monkeypatch)
    actor = native_actor(model.policy)
    got = model.predict(batch, deterministic=True)[0]
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, atol=2e-5)
    first = {key: rows[0] for key, rows in batch.items()} if isinstance(batch, dict) else batch[0]
    np.testing.assert_array_equal(model.predict(first, deterministic=True)[0], got[0])
    if isinstance(model, (PPO, A2C)):
        tensors = model.policy.obs_to_tensor(batch)[0]
        values = np.array(model.policy.predict_values(tensors))
        np.testing.assert_allclose(actor.values(batch), values, atol=2e-5)


def test_an_image_may_have_its_channels_last(monkeypatch):
    model = MODELS["PPO, channels last"]()
    image = LAST.sample()
    first = model.predict(image.transpose(2, 0, 1), deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(image, deterministic=True)[0], first)
    both = np.stack([image, LAST.sample()])
    np.testing.assert_array_equal(model.predict(both, deterministic=True)[0][0], first)
    with pytest.raises(ValueError, match="shape"):
        model.predict(image[:-1])


def test_other_weights_are_noticed():
    model = MODELS["PPO"]()
    batch = batch_for(model)
    before = model.predict(batch, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(batch, deterministic=True)[0], before)
    convolution = model.policy.features_extractor.cnn[0]
    convolution.weight[0] = 3.0
    changed = model.predict(batch, deterministic=True)[0]
    assert not np.array_equal(changed, before)
    model.policy.features_extractor.cnn[2].bias = model.policy.features_extractor.cnn[2].bias + 1.0
    assert not np.array_equal(model.predict(batch, deterministic=True)[0], changed)
    convolution.stride = 3
    with pytest.raises(NotNative, match="linear layer takes observations of the shape"):
        native_actor(model.policy)


@pytest.fixture
def mlx_calls(monkeypatch):
    """Every evaluation of MLX, whoever asks for it."""
    seen: list[str] = []
    for kind in (NatureCNN, Conv2d, Linear, Sequential, CombinedExtractor):
        name = "__call__" if kind is Linear else "forward"
        method = getattr(kind, name)

        def spied(self, *args, method=method, name=kind.__name__):
            seen.append(name)
            return method(self, *args)

        # The same code, so that the chain of calls is still known.
        if kind in (Conv2d, Linear):
            monkeypatch.setattr(kind, name, spied)
    convolve = mx.conv2d
    monkeypatch.setattr(
        mx, "conv2d", lambda *args, **kwargs: (seen.append("conv2d"), convolve(*args, **kwargs))[1]
    )
    return seen


@pytest.mark.parametrize(
    "name",
    [
        "PPO",
        "A2C, separate",
        "PPO, channels last",
        "PPO, own extractor",
        "PPO, dict",
        "DQN",
        "DQN, dict",
        "SAC",
        "SAC, shared",
        "TD3, dict",
        "TD3, own extractor, shared",
    ],
)
def test_learning_from_images_makes_no_call_of_mlx(name, mlx_calls, capsys):
    model = MODELS[name]()
    model.verbose = 1
    del mlx_calls[:]
    model.learn(40)
    model.predict(batch_for(model))
    assert mlx_calls == []
    assert "MLX" not in capsys.readouterr().out
    assert model._updater.native is not None


@pytest.mark.parametrize(
    "name", ["PPO", "A2C, separate", "PPO, dict, separate", "PPO, channels last", "PPO, gSDE"]
)
def test_rollouts_hold_what_mlx_says_of_them(name):
    model = MODELS[name]()
    _, callback = model._setup_learn(24)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 12)
    buffer, policy = model.rollout_buffer, model.policy
    flat = buffer.flattened()
    obs = flat["observations"]
    obs = {key: mx.array(rows) for key, rows in obs.items()} if isinstance(obs, dict) else mx.array(obs)
    actions = mx.array(flat["actions"])
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.flatten().astype(mx.int32)
    values, log_probs, _ = policy.evaluate_actions(obs, actions)
    np.testing.assert_allclose(flat["values"].ravel(), np.array(values).ravel(), atol=2e-5)
    np.testing.assert_allclose(flat["log_probs"].ravel(), np.array(log_probs), atol=5e-5)


def test_images_of_floats_are_scaled_too():
    model = MODELS["PPO"]()
    batch = batch_for(model)
    expected = model.predict(batch, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(batch.astype(np.float32), deterministic=True)[0], expected)
    np.testing.assert_array_equal(model.predict(batch.astype(np.float64), deterministic=True)[0], expected)


@pytest.mark.parametrize(
    "name",
    [
        "PPO, own extractor",
        "PPO, dict",
        "PPO, dict, separate",
        "DQN, dict",
        "PPO, flattened",
        "SAC, dict",
        "SAC, shared",
        "TD3",
        "TD3, own extractor, shared",
        "DDPG, dict, shared",
    ],
)
def test_updates_agree_with_mlx(name, monkeypatch):
    states = []
    for who in ("native", "mlx"):
        monkeypatch.setenv("MLX_BASELINES3_UPDATES", who)
        model = MODELS[name]()
        fill(model)
        train(model, 2)
        assert (model._updater.native is not None) == (who == "native")
        states.append(state_of(model))
    assert_close(*states, tolerance=5e-5)


def batch_of_one(sample: Any) -> Any:
    return {key: part[None] for key, part in sample.items()} if isinstance(sample, dict) else sample[None]


def fill(model: Any) -> None:
    """Random data in the model's buffer."""
    model._setup_learn(1)
    rng, space = np.random.default_rng(3), model.observation_space
    space.seed(4)
    model.action_space.seed(5)
    if isinstance(model, (DQN, SAC, TD3)):
        model.batch_size = 16
        for _ in range(40):
            one, other = (batch_of_one(space.sample()) for _ in range(2))
            action = np.array([model.action_space.sample()]).reshape(1, -1)
            model.replay_buffer.add(one, other, action, rng.normal(size=1), rng.random(1) < 0.2, [{}])
        return
    for _ in range(model.n_steps):
        one = batch_of_one(space.sample())
        values, log_probs = mx.array(rng.normal(size=(1, 1))), mx.array(rng.normal(size=1) - 2)
        action = np.array(model.action_space.sample())[None]
        model.rollout_buffer.add(one, action, rng.normal(size=1), np.zeros(1), values, log_probs)
    model.rollout_buffer.compute_returns_and_advantage(mx.zeros((1, 1)), np.zeros(1))


# Extractors that do more than call their layers one after the other.


class Doubles(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        return self.last(self.end(self.head(self.flat(self.body(observations))))) * 2


class Inherits(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        return super().forward(observations)


class Catches(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        try:
            return observations.mean(axis=(1, 2))
        except Exception:
            return self.last(self.end(self.head(self.flat(self.body(observations)))))


class Looks(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        if isinstance(observations, mx.array):
            observations = observations / 2
        return self.last(self.end(self.head(self.flat(self.body(observations)))))


class Branches(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        maps = self.body(observations)
        self.flat(maps)
        return self.last(self.end(self.head(self.flat(maps))))


class Asks(Chain):
    """An attribute decides, which only the instance knows."""

    doubles = False

    def forward(self, observations: mx.array) -> mx.array:
        maps = self.body(observations)
        if self.doubles:
            maps = self.body(maps)
        return self.last(self.end(self.head(self.flat(maps))))


class Chooses(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        features = self.head(self.flat(self.body(observations)))
        return self.last(features if self.training else self.end(features))


class Keeps(Chain):
    def forward(self, observations: mx.array) -> mx.array:
        self.maps = self.body(observations)
        return self.last(self.end(self.head(self.flat(self.maps))))


class Shadows(Chain):
    @property
    def flat(self) -> Any:
        return lambda x: x.reshape(x.shape[0], -1) * 2

    @flat.setter
    def flat(self, value: Any) -> None:
        pass

    @flat.deleter
    def flat(self) -> None:
        pass


class Pools(Chain):
    def __init__(self, space: spaces.Box, features_dim: int = 6):
        super().__init__(space, features_dim)
        self.flat = Sequential(ChannelsLast(nn.MaxPool2d(1)), Flatten())


class Unflattened(Chain):
    def __init__(self, space: spaces.Box, features_dim: int = 6):
        super().__init__(space, features_dim)
        self.head = Sequential(Linear(6, 7), nn.Tanh(), Flatten(), Linear(4 * 5 * 7, 7))
        self.flat = Sequential()


@pytest.mark.parametrize(
    ("extractor", "reason"),
    [
        (Doubles, "the policy has a Doubles"),
        (Inherits, "the policy has a Inherits"),
        (Catches, "the policy has a Catches"),
        (Looks, "the policy has a Looks"),
        (Branches, "the policy has a Branches"),
        (Asks, "the policy has a Asks"),
        (Chooses, "the policy has a Chooses"),
        (Keeps, "the policy has a Keeps"),
        (Shadows, "the policy has a Shadows"),
        (Pools, "the policy has a ChannelsLast"),
        (Unflattened, "a linear layer takes observations of the shape"),
    ],
)
def test_an_extractor_of_another_kind_stays_with_mlx(extractor, reason):
    policy = ActorCriticPolicy(IMAGE, BOX, lambda _: 1e-3, features_extractor_class=extractor)
    with pytest.raises(NotNative, match=reason):
        native_actor(policy)


def test_a_changed_layer_stays_with_mlx():
    policy = ActorCriticPolicy(IMAGE, BOX, lambda _: 1e-3, features_extractor_class=Chain)
    native_actor(policy)
    object.__setattr__(policy.features_extractor, "forward", lambda x: x)
    with pytest.raises(NotNative, match="the policy has a Chain"):
        native_actor(policy)
    policy = ActorCriticPolicy(IMAGE, BOX, lambda _: 1e-3, features_extractor_class=Chain)
    object.__setattr__(policy.features_extractor.body[0], "forward", lambda x: x)
    with pytest.raises(NotNative, match="Conv2d has its own forward"):
        native_actor(policy)


def test_a_convolution_with_a_method_of_its_own_stays_with_mlx():
    policy = ActorCriticPolicy(IMAGE, BOX, lambda _: 1e-3, features_extractor_class=Chain)
    object.__setattr__(policy.features_extractor.body[0], "convolve", lambda x: x)
    with pytest.raises(NotNative, match="Conv2d has its own convolve"):
        native_actor(policy)


@pytest.mark.parametrize(
    ("stride", "is_native"), [(np.int64(3), True), ((3, 3), True), ([3, 3], False), (np.array([3, 3]), False)]
)
def test_strides_of_all_types_that_mlx_takes(stride, is_native):
    model = MODELS["PPO, own extractor"]()
    obs = batch_for(model)
    before = model.predict(obs, deterministic=True)[0]
    model.policy.features_extractor.body[0].stride = stride
    # What can change in place could change unnoticed.
    assert (native_actor_or_none(model.policy) is not None) == is_native
    np.testing.assert_allclose(model.predict(obs, deterministic=True)[0], before, atol=1e-5)


def test_a_target_network_of_another_shape_is_mlx_s():
    model = MODELS["DQN"]()
    dict.__setitem__(model.policy.q_net_target.features_extractor.cnn, "1", nn.Tanh())
    with pytest.raises(NotNative, match="the target network has another features extractor"):
        model._native_update(DQN)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda policy: dict.__setitem__(policy.critic_target.features_extractor.cnn, "1", nn.Tanh()),
            "another",
        ),
        (
            lambda policy: dict.__setitem__(policy.actor_target.features_extractor.cnn, "1", nn.Tanh()),
            "another",
        ),
        (lambda policy: setattr(policy.critic, "share_features_extractor", True), "not shared"),
    ],
)
def test_critics_of_another_kind_are_mlx_s(change, reason):
    model = MODELS["TD3"]()
    change(model.policy)
    with pytest.raises(NotNative, match=reason):
        model._native_update(TD3)


@pytest.mark.parametrize("name", ["SAC, shared", "TD3, own extractor, shared"])
def test_only_the_actor_trains_a_shared_extractor(name):
    model = MODELS[name]()
    fill(model)
    # The critics' own rate is 0 for the actor: whatever moves the extractor is the critics' loss.
    extractor = model.actor.features_extractor
    before = {key: np.array(value) for key, value in extractor.state_dict().items()}
    model.actor.optimizer.learning_rate = 0.0
    model._update_learning_rate = lambda optimizers: None
    train(model, 2)
    assert model._updater.native is not None
    for key, value in extractor.state_dict().items():
        np.testing.assert_array_equal(np.array(value), before[key])


def test_an_extractor_that_both_share_is_seen_once():
    shared, separate = blueprint(MODELS["PPO"]().policy), blueprint(MODELS["A2C, separate"]().policy)
    assert shared.shares_features()
    assert not separate.shares_features()
    assert separate.features
