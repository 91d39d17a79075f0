"""RecurrentPPO: memory over steps, minibatches of one row, few shapes, bad input, both backends alike."""

import copy
import pickle

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.vec_env import DummyVecEnv
from mlx_baselines3.contrib import RecurrentPPO
from mlx_baselines3.contrib.common.recurrent.buffers import RecurrentRolloutBuffer, Sequences
from mlx_baselines3.contrib.common.recurrent.lstm import LSTM
from mlx_baselines3.contrib.common.recurrent.type_aliases import RNNStates
from mlx_baselines3.contrib.ppo_recurrent.losses import masked_mean, normalize
from support.random_env import RandomEnv

SMALL = {"lstm_hidden_size": 8, "net_arch": [8]}
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
VARIANTS = {
    "own": {},
    "two layers": {"n_lstm_layers": 2},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "none": {"enable_critic_lstm": False},
    "no bias": {"lstm_kwargs": {"bias": False}},
    "odd size": {"lstm_hidden_size": 5},
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "continuous": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}


def make(action_space=ACTIONS["discrete"], n_envs=2, observation_space=BOX, **kwargs):
    env = DummyVecEnv([lambda: RandomEnv(observation_space, action_space)] * n_envs)
    policy_kwargs = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    settings = {"n_steps": 16, "batch_size": 12, "n_epochs": 2, "seed": 0, **kwargs}
    policy = settings.pop("policy", "MlpLstmPolicy")
    return RecurrentPPO(policy, env, policy_kwargs=policy_kwargs, **settings)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_both_backends_learn_the_same(actions, variant, monkeypatch):
    after = {}
    for updates in ("native", "mlx"):
        monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
        model = make(ACTIONS[actions], policy_kwargs=VARIANTS[variant], ent_coef=0.01, clip_range_vf=0.2)
        with_compile = updates == "native"
        if not with_compile:
            mx.disable_compile()
        model.learn(32)
        mx.enable_compile()
        assert (model._updater.compiled is None) == with_compile
        assert model._native is not None
        after[updates] = model.get_parameters()["policy"]
    for name, value in after["native"].items():
        np.testing.assert_allclose(np.array(value), np.array(after["mlx"][name]), atol=2e-6, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_native_predictions_are_mlxs(variant, rng):
    model = make(policy_kwargs=VARIANTS[variant])
    twin = copy.deepcopy(model.policy)
    # A method of its own, which Rust does not know.
    twin.forward = twin.forward
    state = other = None
    for step in range(5):
        obs, starts = (
            rng.standard_normal((4, 3)).astype(np.float32),
            np.array([step == 3, False, False, True]),
        )
        actions, state = model.predict(obs, state, starts, deterministic=True)
        expected, other = twin.predict(obs, other, starts, deterministic=True)
        np.testing.assert_array_equal(actions, expected)
        for ours, theirs in zip(state, other, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert state[0].shape == (*model.policy.lstm_hidden_state_shape[:1], 4, state[0].shape[2])


def test_an_episode_start_forgets():
    model = make()
    obs = np.ones((1, 3), np.float32)
    _, state = model.predict(obs, deterministic=True)
    _, fresh = model.predict(obs, state, np.array([True]), deterministic=True)
    np.testing.assert_array_equal(state[0], fresh[0])
    _, later = model.predict(obs, state, np.array([False]), deterministic=True)
    assert np.abs(later[0] - state[0]).max() > 1e-3
    single, of_single = model.predict(obs[0], deterministic=True)
    assert single.shape == ()
    np.testing.assert_array_equal(of_single[0], state[0])


@pytest.mark.parametrize(
    ("state", "starts", "says"),
    [
        ((np.zeros((1, 3, 8)), np.zeros((1, 3, 8))), None, r"expected two of \(1, 2, 8\)"),
        ((np.zeros((1, 2, 8)),), None, r"expected two of \(1, 2, 8\)"),
        (None, np.zeros(3), r"episode_start has shape \(3,\), expected \(2,\)"),
    ],
)
def test_states_that_do_not_fit_are_refused(state, starts, says):
    with pytest.raises(ValueError, match=says):
        make().predict(np.zeros((2, 3), np.float32), state, starts)


@pytest.mark.parametrize("updates", ["native", "mlx"])
def test_a_minibatch_of_one_row_gives_no_nan(updates, monkeypatch, uncompiled):
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
    model = make(n_envs=1, n_steps=13, batch_size=12).learn(13)
    for name, value in model.get_parameters()["policy"].items():
        assert np.isfinite(np.array(value)).all(), name


def test_the_losses_see_steps_alone():
    values, mask = mx.array([1.0, 5.0, 100.0, 3.0]), mx.array([True, True, False, True])
    assert masked_mean(values, mask).item() == 3.0
    # Mean 3, unbiased deviation 2.
    np.testing.assert_allclose(normalize(values, mask)[mx.array([0, 1, 3])], [-1, 1, 0], atol=1e-6)
    one = mx.array([False, True, False, False])
    assert normalize(values, one)[1].item() == 5.0


def test_sequences_are_padded_to_few_shapes():
    starts = np.zeros(10)
    starts[[0, 3, 8]] = 1
    parts = Sequences.of(starts, np.zeros(10), few_shapes=True)
    assert parts.starts.tolist() == [0, 3, 8]
    assert parts.rows.shape == (4, 8)
    assert [parts.rows[i, parts.is_real[i]].tolist() for i in range(4)] == [
        [0, 1, 2],
        [3, 4, 5, 6, 7],
        [8, 9],
        [],
    ]
    assert Sequences.of(starts, np.zeros(10)).rows.shape == (3, 5)


def test_wrong_states_are_not_stored():
    buffer = RecurrentRolloutBuffer(2, BOX, spaces.Discrete(2), (2, 1, 1, 4))
    row = [np.zeros((1, 3)), np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1)]
    states = (np.zeros((1, 1, 3)), np.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match=r"expected four times \(1, 1, 4\)"):
        buffer.add(*row, lstm_states=RNNStates(states, states))
    assert buffer.pos == 0


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"shared_lstm": True}, AssertionError, "enable_critic_lstm=False"),
        (
            {"shared_lstm": True, "enable_critic_lstm": False, "share_features_extractor": False},
            AssertionError,
            "cannot be shared",
        ),
        ({"lstm_kwargs": {"proj_size": 3}}, ValueError, "proj_size"),
        ({"lstm_kwargs": {"dropout": 1.0}}, ValueError, "dropout is 1.0"),
        ({"n_lstm_layers": 0}, ValueError, "n_lstm_layers is 0"),
    ],
)
def test_wrong_arguments_of_the_policy(kwargs, error, says):
    with pytest.raises(error, match=says):
        make(policy_kwargs=kwargs)


def test_a_policy_without_memory_is_refused():
    model = PPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="needs a policy with a memory"):
        RecurrentPPO(type(model.policy), "CartPole-v1")


def test_dropout_is_for_training_alone():
    lstm = LSTM(2, 4, num_layers=2, dropout=0.5)
    x, zeros = mx.ones((3, 1, 2)), mx.zeros((2, 1, 4))
    lstm.train(True)
    first, second = (np.array(lstm(x, (zeros, zeros))[0]) for _ in range(2))
    assert np.abs(first - second).max() > 0
    lstm.train(False)
    np.testing.assert_array_equal(*(np.array(lstm(x, (zeros, zeros))[0]) for _ in range(2)))


def test_callbacks_see_what_contribs_see():
    seen = []

    def look(names, _):
        seen.append(
            {name: names[name] for name in ("values", "log_probs", "lstm_states", "infos", "n_steps")}
        )
        return True

    make().learn(32, callback=look)
    assert len(seen) == 16
    assert isinstance(seen[0]["values"], mx.array)
    assert seen[0]["values"].shape == (2, 1)
    assert seen[3]["lstm_states"].pi[0].shape == (1, 2, 8)


@pytest.mark.parametrize("policy", ["CnnLstmPolicy", "MultiInputLstmPolicy"])
def test_images_and_dicts(policy, uncompiled, tmp_path):
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    space = image if policy == "CnnLstmPolicy" else spaces.Dict({"image": image, "mode": spaces.Discrete(3)})
    size = "features_dim" if policy == "CnnLstmPolicy" else "cnn_output_dim"
    kwargs = {"features_extractor_kwargs": {size: 8}}
    model = make(observation_space=space, policy=policy, policy_kwargs=kwargs, n_steps=6, batch_size=6).learn(
        12
    )
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    obs = model.env.observation_space.sample()
    action, state = model.predict(obs, deterministic=True)
    again, other = loaded.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, again)
    np.testing.assert_allclose(state[0], other[0], atol=1e-6)


def test_policies_are_copied_and_pickled():
    model = make().learn(32)
    obs = np.ones((1, 3), np.float32)
    expected = model.predict(obs, deterministic=True)[1][0]
    for twin in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        np.testing.assert_array_equal(twin.predict(obs, deterministic=True)[1][0], expected)


class Recall(gym.Env):
    """Shows a bit at the start of an episode, and asks for it three steps later."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bit, self.count = int(self.np_random.integers(2)), 0
        return np.array([2 * self.bit - 1, 0], np.float32), {}

    def step(self, action):
        self.count += 1
        done = self.count == 4
        reward = float(done and action == self.bit)
        return np.array([0, self.count == 3], np.float32), reward, done, False, {}


@pytest.mark.learning
def test_it_remembers_what_ppo_cannot():
    env = DummyVecEnv([Recall] * 8)
    kwargs = {"lstm_hidden_size": 32, "net_arch": [32]}
    settings = {"n_steps": 32, "batch_size": 64, "learning_rate": 3e-3, "gamma": 0.9, "seed": 1}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=kwargs, **settings).learn(30_000)
    assert evaluate_policy(model, DummyVecEnv([Recall] * 4), 100, warn=False)[0] > 0.95
    forgetful = PPO("MlpPolicy", env, **settings).learn(30_000)
    assert evaluate_policy(forgetful, DummyVecEnv([Recall] * 4), 100, warn=False)[0] < 0.75
