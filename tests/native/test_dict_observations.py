"""A Dict of vectors gives the same run as the vectors in a row, seed for seed, and acts in Rust, too."""

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common.native.actor import native_actor
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize

PARTS = {"one": ["vec"], "several": ["left", "mid", "right"]}
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
        # A matrix among several, to be flattened.
        shapes = {name: (2, 2) if name == "mid" else (3,) for name in names}
        self.observation_space = spaces.Dict({n: spaces.Box(-1, 1, s, np.float32) for n, s in shapes.items()})
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        self.episode = 0

    def _observe(self):
        parts = self.observation_space.spaces.items()
        return {name: self.random.uniform(-1, 1, part.shape).astype(np.float32) for name, part in parts}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.random = np.random.default_rng(seed)
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


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (spaces.Discrete(3), "the observation 'other' is a Discrete and not a Box"),
        (spaces.Box(0, 255, (3, 36, 36), np.uint8), "the observations are images"),
    ],
)
def test_what_is_no_vector_stays_with_mlx(part, reason):
    class Other(Walk):
        def __init__(self):
            super().__init__(["vec"], discrete=False)
            self.observation_space = spaces.Dict({**self.observation_space.spaces, "other": part})

    model = PPO("MultiInputPolicy", Other(), device="cpu")
    with pytest.raises(NotNative, match=reason):
        native_actor(model.policy)
