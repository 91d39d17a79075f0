"""DQN as a user meets it: exploration, targets, policies, files, and that it learns."""

import gymnasium as gym
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.nn.layers import Sequential, named_parameters
from mlx_baselines3.common.torch_layers import FlattenExtractor
from mlx_baselines3.common.vec_env import DummyVecEnv
from mlx_baselines3.dqn import DQN, losses
from mlx_baselines3.dqn.policies import CnnPolicy, DQNPolicy

SMALL = {"buffer_size": 500, "learning_starts": 10, "policy_kwargs": {"net_arch": [16]}}


class Noise(gym.Env):
    """Random observations of any space, episodes of five steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 5
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)


def test_target_by_hand():
    rewards, dones = mx.array([[1.0], [2.0]]), mx.array([[0.0], [1.0]])
    target = losses.td_target(rewards, dones, mx.array(0.5), mx.array([[3.0, 4.0], [7.0, 8.0]]))
    np.testing.assert_allclose(np.array(target), [[3.0], [2.0]])


def test_target_after_several_steps_by_hand():
    discounts = mx.array([[0.25], [0.5]])
    target = losses.td_target(mx.ones((2, 1)), mx.zeros((2, 1)), discounts, mx.array([[4.0], [8.0]]))
    np.testing.assert_allclose(np.array(target), [[2.0], [5.0]])


def test_huber_loss_by_hand():
    loss = losses.huber_loss(mx.array([[0.5], [3.0], [-1.0]]), mx.array([[0.0], [0.0], [1.0]]))
    np.testing.assert_allclose(loss.item(), (0.125 + 2.5 + 1.5) / 3, rtol=1e-6)


def test_value_of_the_action_taken():
    q_values = mx.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(
        np.array(losses.q_of_actions(q_values, mx.array([[2], [0]]))), [[3.0], [4.0]]
    )


def test_learns_to_balance():
    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=20000,
        learning_starts=500,
        target_update_interval=10,
        train_freq=64,
        gradient_steps=64,
        exploration_fraction=0.3,
        exploration_final_eps=0.04,
        seed=2,
    )
    env = make_vec_env("CartPole-v1", 8, seed=7)
    before = evaluate_policy(model, env, n_eval_episodes=8)[0]
    model.learn(4500)
    after = evaluate_policy(model, env, n_eval_episodes=8)[0]
    assert before < 20
    assert after > 60


def test_exploration_rate_falls_and_stays():
    class Rates(BaseCallback):
        rates: list

        def _on_step(self) -> bool:
            self.rates.append(self.model.exploration_rate)
            return True

    callback = Rates()
    callback.rates = []
    model = DQN("MlpPolicy", "CartPole-v1", exploration_fraction=0.5, exploration_final_eps=0.2, **SMALL)
    model.learn(20, callback=callback)
    # The callback of a step sees the rate that the step before has set.
    np.testing.assert_allclose(callback.rates[1:11], 1 - 0.08 * np.arange(1, 11))
    np.testing.assert_allclose(callback.rates[11:], 0.2)
    assert model.logger.name_to_value["rollout/exploration_rate"] == pytest.approx(0.2)


@pytest.mark.parametrize(("n_envs", "updates"), [(1, 5), (2, 5)])
def test_target_is_updated_every_four_steps_of_all_environments(monkeypatch, n_envs, updates):
    calls = []
    monkeypatch.setattr("mlx_baselines3.dqn.dqn.follow", lambda *args: calls.append(args))
    env = make_vec_env("CartPole-v1", n_envs)
    model = DQN("MlpPolicy", env, target_update_interval=4, tau=0.3, train_freq=1, **SMALL)
    model.learn(20)
    assert calls == [(model.q_net, model.q_net_target, 0.3)] * updates


def test_target_stays_between_updates_and_is_then_a_copy():
    model = DQN("MlpPolicy", "CartPole-v1", target_update_interval=40, train_freq=1, **SMALL)
    start = {name: np.array(value) for name, value in named_parameters(model.q_net_target).items()}
    model.learn(39)
    for name, value in named_parameters(model.q_net_target).items():
        np.testing.assert_array_equal(np.array(value), start[name])
    assert not np.array_equal(model.q_net.q_net[0].weight, model.q_net_target.q_net[0].weight)
    trained = {name: np.array(value) for name, value in named_parameters(model.q_net).items()}
    model.gradient_steps = 0
    model.learn(1, reset_num_timesteps=False)
    for name, value in named_parameters(model.q_net_target).items():
        np.testing.assert_array_equal(np.array(value), trained[name])


def test_many_environments_for_the_interval():
    with pytest.warns(UserWarning, match=r"\(3 > 2\)"):
        DQN("MlpPolicy", make_vec_env("CartPole-v1", 3), target_update_interval=2, **SMALL)


def test_predict_explores_with_the_exploration_rate():
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, **SMALL)
    obs = np.zeros((1000, 4), np.float32)
    greedy, state = model.predict(obs, deterministic=True)
    assert state is None
    assert set(greedy) == {greedy[0]}
    model.exploration_rate = 1.0
    explored, _ = model.predict(obs)
    assert 400 < explored.sum() < 600
    single, _ = model.predict(obs[0])
    assert single.shape == ()
    assert single.dtype == np.int64
    model.exploration_rate = 0.0
    np.testing.assert_array_equal(model.predict(obs)[0], greedy)


@pytest.mark.parametrize(
    ("policy", "observation_space"),
    [("CnnPolicy", IMAGE), ("MultiInputPolicy", spaces.Dict({"vec": VECTOR, "n": spaces.Discrete(3)}))],
)
def test_other_observations(policy, observation_space, tmp_path):
    env = DummyVecEnv([lambda: Noise(observation_space, spaces.Discrete(3))] * 2)
    kwargs = {"features_extractor_kwargs": {"features_dim": 8}} if policy == "CnnPolicy" else {}
    model = DQN(policy, env, buffer_size=50, learning_starts=4, train_freq=4, policy_kwargs=kwargs)
    model.learn(16)
    assert model._n_updates == 2
    obs = env.observation_space.sample()
    action, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(DQN.load(tmp_path / "model").predict(obs, deterministic=True)[0], action)


def test_n_step_returns_are_learnt_from():
    model = DQN("MlpPolicy", "CartPole-v1", n_steps=3, seed=0, **SMALL).learn(40)
    assert model._n_updates == 8
    assert np.isfinite(model.logger.name_to_value["train/loss"])


@pytest.mark.parametrize("handled", [True, False])
def test_compact_buffer(handled):
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": handled}}
    assert DQN("MlpPolicy", "CartPole-v1", **SMALL, **kwargs).learn(40)._n_updates == 8


def test_default_networks():
    assert DQN("MlpPolicy", "CartPole-v1", buffer_size=10).policy.net_arch == [64, 64]
    env = Noise(IMAGE, spaces.Discrete(2))
    assert DQN("CnnPolicy", env, buffer_size=10).policy.net_arch == []


def test_networks_share_nothing():
    policy = DQNPolicy(VECTOR, spaces.Discrete(2), lambda _: 1e-3)
    own, target = named_parameters(policy.q_net), named_parameters(policy.q_net_target)
    assert own.keys() == target.keys()
    for name in own:
        assert own[name] is not target[name]
        np.testing.assert_array_equal(np.array(own[name]), np.array(target[name]))


def test_training_mode_leaves_the_target_alone():
    policy = CnnPolicy(
        spaces.Box(0, 255, (1, 36, 36), np.uint8), spaces.Discrete(2), lambda _: 1e-3, net_arch=[4]
    )
    policy.set_training_mode(True)
    assert policy.q_net.training
    assert not policy.q_net_target.training
    policy.set_training_mode(False)
    assert not policy.training
    assert not policy.q_net.training
    assert isinstance(policy.q_net.q_net, Sequential)


class Normalised(FlattenExtractor):
    """Observations through a batch normalisation."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space)
        self.bn = nn.BatchNorm(self.features_dim)

    def forward(self, observations: mx.array) -> mx.array:
        return self.bn(super().forward(observations))


def test_batch_normalisation_learns_in_training_only():
    kwargs = {**SMALL, "policy_kwargs": {"features_extractor_class": Normalised, "net_arch": [8]}}
    model = DQN("MlpPolicy", "CartPole-v1", target_update_interval=30, tau=0.5, seed=0, **kwargs)
    model.learn(28)
    stats, target = model.batch_norm_stats, model.batch_norm_stats_target
    assert len(stats) == len(target) == 2
    np.testing.assert_array_equal(np.array(target[0]), np.zeros(4))
    assert not np.array_equal(np.array(stats[0]), np.zeros(4))
    obs = np.ones((3, 4), np.float32)
    first = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], first)
    for before, after in zip(stats, model.batch_norm_stats, strict=True):
        np.testing.assert_array_equal(np.array(before), np.array(after))
    model.gradient_steps = 0
    model.learn(4, reset_num_timesteps=False)
    for own, copied in zip(stats, model.batch_norm_stats_target, strict=True):
        np.testing.assert_array_equal(np.array(own), np.array(copied))


def test_file_holds_everything_to_go_on(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, train_freq=(1, "episode"), gradient_steps=-1, **SMALL)
    model.learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DQN.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    for name, values in model.get_parameters().items():
        for key, value in values.items():
            np.testing.assert_array_equal(np.array(loaded.get_parameters()[name][key]), np.array(value))
    assert loaded.train_freq == model.train_freq
    assert (loaded._n_calls, loaded._n_updates) == (model._n_calls, model._n_updates)
    assert loaded.replay_buffer.size() == model.replay_buffer.size()
    steps = loaded.num_timesteps
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps >= steps + 20
    assert loaded._n_updates > model._n_updates


def test_one_seed_one_run():
    def parameters():
        model = DQN("MlpPolicy", "CartPole-v1", seed=3, train_freq=2, **SMALL).learn(100)
        return model.policy.parameters_to_vector()

    np.testing.assert_array_equal(parameters(), parameters())


def test_new_parameters_are_trained_on():
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, **SMALL).learn(20)
    zeros = {name: mx.zeros_like(value) for name, value in model.policy.state_dict().items()}
    model.set_parameters({"policy": zeros}, exact_match=False)
    assert model.policy.parameters_to_vector().sum() == 0
    model.learn(20, reset_num_timesteps=False)
    assert np.abs(np.array(model.q_net.q_net[2].bias)).max() > 0


def test_the_host_waits_once_per_update(monkeypatch, mlx_updates):
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, **SMALL).learn(20)
    calls, draws = [], []
    evaluate, sample_many = mx.eval, model.replay_buffer.sample_many
    monkeypatch.setattr(mx, "eval", lambda *args: (calls.append(1), evaluate(*args)))
    monkeypatch.setattr(
        model.replay_buffer,
        "sample_many",
        lambda *args, **kw: (draws.append(args), sample_many(*args, **kw))[1],
    )
    model.train(gradient_steps=12, batch_size=8)
    # And once when the call ends, of what another thread could not compute.
    assert calls == [1, 1]
    assert draws == [(12, 8)]


@pytest.mark.parametrize("action_space", [spaces.Box(-1, 1, (1,)), spaces.MultiDiscrete([2, 2])])
def test_other_actions_are_refused(action_space):
    with pytest.raises(AssertionError, match="only supports Discrete as action spaces"):
        DQN("MlpPolicy", Noise(VECTOR, action_space))


def test_unknown_policy():
    with pytest.raises(ValueError, match="Policy NoPolicy unknown"):
        DQN("NoPolicy", "CartPole-v1")


def test_mlp_policy_for_a_dict():
    with pytest.raises(ValueError, match="You must use `MultiInputPolicy`"):
        DQN("MlpPolicy", Noise(spaces.Dict({"a": VECTOR}), spaces.Discrete(2)))
