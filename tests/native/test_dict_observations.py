"""A Dict of vectors gives the same run as the vectors in a row, seed for seed, and acts in Rust, too."""

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common.native.actor import native_actor
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.native_models import assert_close, state_of

PARTS = {"one": ["vec"], "several": ["left", "mid", "right"], "integers": ["bits", "choices", "mode", "vec"]}
SPACES = {
    # A matrix among several, to be flattened.
    "mid": spaces.Box(-1, 1, (2, 2), np.float32),
    "bits": spaces.MultiBinary(3),
    "choices": spaces.MultiDiscrete([3, 1, 4]),
    "mode": spaces.Discrete(5, start=-2),
}
OFF_POLICY = {"learning_starts": 8, "train_freq": 4, "batch_size": 8, "buffer_size": 64}
SETTINGS = {
    A2C: {"n_steps": 8},
    PPO: {"n_steps": 8, "batch_size": 8, "n_epochs": 2},
    DQN: OFF_POLICY,
    DDPG: OFF_POLICY,
    SAC: OFF_POLICY,
    TD3: OFF_POLICY,
}


class Walk(gym.Env):
    """Random vectors, whose reward is that of the action; short episodes, every other one cut."""

    def __init__(self, names, discrete):
        vector = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = spaces.Dict({name: SPACES.get(name, vector) for name in names})
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        self.episode = 0

    def _observe(self):
        parts = self.observation_space.spaces.items()
        return {name: part.sample() for name, part in parts}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t, self.episode = 0, self.episode + 1
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        end = self.t == 5
        return (
            self._observe(),
            float(np.sum(action)),
            end and self.episode % 2 == 0,
            end and self.episode % 2,
            {},
        )


def run(kind, names, flatten, normalize=False):
    """What a model has learned, and what it would do."""

    def env():
        walk = Walk(names, discrete=kind is DQN)
        return gym.wrappers.FlattenObservation(walk) if flatten else walk

    envs = DummyVecEnv([env, env])
    if normalize:
        envs = VecNormalize(envs, norm_reward=False, norm_obs_keys=None if flatten else names)
    policy = "MlpPolicy" if flatten else "MultiInputPolicy"
    model = kind(policy, envs, seed=3, device="cpu", **SETTINGS[kind]).learn(48)
    observation = Walk(names, False).reset(seed=9)[0]
    seen = spaces.flatten(Walk(names, False).observation_space, observation) if flatten else observation
    weights = {name: np.array(array) for name, array in model.get_parameters()["policy"].items()}
    actions = [model.predict(seen, deterministic=d)[0] for d in (True, False)]
    return weights, actions


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_dict_of_vectors_is_run_as_the_vectors_in_a_row(kind, parts, updates):
    """The keys are sorted, so that both networks see the numbers in the same order."""
    (weights, actions), (flat_weights, flat_actions) = (run(kind, PARTS[parts], flat) for flat in (0, 1))
    assert weights.keys() == flat_weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(array, flat_weights[name], err_msg=name)
    np.testing.assert_array_equal(actions, flat_actions)


def test_normalised_observations_too():
    (weights, _), (flat_weights, _) = (run(PPO, ["vec"], flat, normalize=True) for flat in (False, True))
    for name, array in weights.items():
        np.testing.assert_array_equal(array, flat_weights[name], err_msg=name)


def test_mlx_and_rust_act_alike_on_a_dict():
    model = PPO("MultiInputPolicy", Walk(PARTS["several"], discrete=False), seed=0, device="cpu")
    batch = [Walk(PARTS["several"], False).reset(seed=seed)[0] for seed in range(4)]
    stacked = {key: np.stack([one[key] for one in batch]) for key in batch[0]}
    actor = native_actor(model.policy)
    with mx.stream(model.device):
        tensors, _ = model.policy.obs_to_tensor(stacked)
        expected = np.array(model.policy._predict(tensors, deterministic=True))
        values = np.array(model.policy.predict_values(tensors))
    np.testing.assert_allclose(actor.act(stacked, deterministic=True), expected, atol=1e-6)
    np.testing.assert_allclose(actor.critic().outputs(stacked), values, atol=1e-6)
    # Keys in another order, and one observation in place of a batch.
    turned = dict(reversed(stacked.items()))
    np.testing.assert_allclose(model.predict(turned, deterministic=True)[0], expected, atol=1e-6)
    np.testing.assert_allclose(model.predict(batch[1], deterministic=True)[0], expected[1], atol=1e-6)


def test_a_key_too_few_is_an_error():
    model = PPO("MultiInputPolicy", Walk(PARTS["several"], discrete=False), device="cpu")
    with pytest.raises((KeyError, ValueError), match="right"):
        model.predict({"left": np.zeros(3, np.float32), "mid": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict({**Walk(PARTS["several"], False).reset(seed=0)[0], "left": np.zeros(4, np.float32)})


class Part(gym.ObservationWrapper):
    """One of the parts of an observation."""

    def __init__(self, name, discrete):
        super().__init__(Walk([name], discrete))
        self.observation_space = self.env.observation_space[name]
        self._name = name

    def observation(self, observation):
        return observation[self._name]


def run_part(kind, name, flatten):
    """What a model has learned from one array, and what it would do."""

    def env():
        part = Part(name, discrete=kind is DQN)
        return gym.wrappers.FlattenObservation(part) if flatten else part

    model = kind("MlpPolicy", DummyVecEnv([env, env]), seed=3, device="cpu", **SETTINGS[kind]).learn(48)
    native_actor(model.policy)
    observation = SPACES[name].sample()
    seen = spaces.flatten(SPACES[name], observation) if flatten else observation
    weights = {key: np.array(array) for key, array in model.get_parameters()["policy"].items()}
    return weights, [model.predict(seen)[0] for seen in (seen, np.stack([seen, seen]))], model


@pytest.mark.parametrize("name", ["bits", "choices", "mode"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_integers_are_run_as_their_codes(kind, name, updates):
    SPACES[name].seed(1)
    weights, actions, model = run_part(kind, name, False)
    assert (model._updater.compiled is None) == (updates == "native")
    SPACES[name].seed(1)
    flat_weights, flat_actions, _ = run_part(kind, name, True)
    assert weights.keys() == flat_weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(array, flat_weights[key], err_msg=key)
    for got, expected in zip(actions, flat_actions, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("mode", 3, "the observation of row 0 is 3, outside of Discrete"),
        ("mode", np.nan, "the observation of row 0 is nan"),
        ("choices", np.array([0, 1, 0]), "entry 1 of the observation of row 0 is 1"),
    ],
)
def test_an_integer_outside_of_its_space_is_an_error(name, wrong, message):
    model = PPO("MlpPolicy", Part(name, discrete=False), device="cpu")
    with pytest.raises(RuntimeError, match=message):
        model.predict(wrong)
    both = PPO("MultiInputPolicy", Walk(["vec", name], discrete=False), device="cpu")
    with pytest.raises(RuntimeError, match=message):
        both.predict({"vec": np.zeros(3, np.float32), name: np.asarray(wrong)})


def test_images_and_integers_learn_in_rust(monkeypatch):
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (1, 36, 36), np.uint8),
            "mode": SPACES["mode"],
            "choices": SPACES["choices"],
        }
    )

    class Mixed(Walk):
        def __init__(self):
            super().__init__([], discrete=False)
            self.observation_space = space

    states = []
    for who in ("native", "mlx"):
        monkeypatch.setenv("MLX_BASELINES3_UPDATES", who)
        model = SAC(
            "MultiInputPolicy",
            Mixed(),
            seed=1,
            device="cpu",
            policy_kwargs={
                "features_extractor_kwargs": {"cnn_output_dim": 4},
                "optimizer_kwargs": {"eps": 1e-5},
            },
            **OFF_POLICY,
        ).learn(16)
        assert (model._updater.compiled is None) == (who == "native")
        states.append(state_of(model))
    assert_close(*states, tolerance=5e-5)
