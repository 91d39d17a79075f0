"""DQN, SAC, TD3 and DDPG learn from a HerReplayBuffer, and go on from a saved one."""

import warnings

import numpy as np
import pytest

from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.envs import BitFlippingEnv
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from mlx_baselines3.ddpg import DDPG
from mlx_baselines3.dqn import DQN
from mlx_baselines3.her import GoalSelectionStrategy, HerReplayBuffer
from mlx_baselines3.sac import SAC
from mlx_baselines3.td3 import TD3


class Flip:
    """Makes an environment of four bits; a class, so that it can be sent to another process."""

    def __init__(self, continuous, **kwargs):
        self.kwargs = {"n_bits": 4, "continuous": continuous, **kwargs}

    def __call__(self):
        return BitFlippingEnv(**self.kwargs)


def make_model(kind, env, n_sampled_goal=2, **kwargs):
    settings = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"n_sampled_goal": n_sampled_goal},
        "train_freq": 4,
        "gradient_steps": 2,
        "batch_size": 16,
        "policy_kwargs": {"net_arch": [16]},
        "learning_starts": 20,
        "buffer_size": 400,
        "seed": 0,
    }
    return kind("MultiInputPolicy", env, **{**settings, **kwargs})


def parameters(model):
    return {name: np.array(value) for name, value in model.get_parameters()["policy"].items()}


def check_samples(model):
    """The rewards in a batch are those of BitFlippingEnv for the states and goals beside them."""
    samples = model.replay_buffer.sample(64)
    reached = np.asarray(samples.next_observations["achieved_goal"])
    goal = np.asarray(samples.observations["desired_goal"])
    assert (np.asarray(samples.rewards)[:, 0] == np.where((reached == goal).all(axis=1), 0, -1)).all()
    assert (goal != 1).any()


@pytest.mark.parametrize("kind", [DQN, SAC, TD3, DDPG])
def test_algorithms_learn_from_it(kind):
    env_fn = Flip(continuous=kind is not DQN)
    model = make_model(kind, make_vec_env(env_fn, 2))
    before = parameters(model)
    model.learn(200)
    after = parameters(model)
    assert model.replay_buffer.env is model.env
    assert any((before[name] != after[name]).any() for name in before)
    assert all(np.isfinite(value).all() for value in after.values())
    check_samples(model)
    evaluate_policy(model, make_vec_env(env_fn, 1), n_eval_episodes=2)


@pytest.mark.parametrize("strategy", list(GoalSelectionStrategy))
def test_strategies_over_a_full_buffer_and_copied_infos(strategy):
    buffer = {"goal_selection_strategy": strategy, "copy_info_dict": True}
    model = make_model(DQN, make_vec_env(Flip(False), 2), replay_buffer_kwargs=buffer, buffer_size=60)
    model.learn(200)
    assert model.replay_buffer.full
    check_samples(model)


@pytest.mark.parametrize("observed", ["discrete_obs_space", "image_obs_space"])
def test_other_observations(observed):
    model = make_model(DQN, make_vec_env(Flip(False, **{observed: True}), 1), batch_size=4)
    model.learn(28)
    model.replay_buffer.sample(8)


def test_rewards_come_from_another_process():
    env = make_vec_env(Flip(False), 2, vec_env_cls=SubprocVecEnv)
    model = make_model(DQN, env)
    model.learn(60)
    check_samples(model)
    env.close()


def test_normalised_rewards():
    env = VecNormalize(make_vec_env(Flip(False), 1), norm_obs=False, gamma=0.9)
    model = make_model(DQN, env)
    model.learn(100)
    check_samples(model)
    rewards = np.asarray(model.replay_buffer.sample(64, env=env).rewards)
    scale = np.sqrt(env.ret_rms.var + env.epsilon)
    np.testing.assert_allclose(np.unique(rewards), [np.clip(-1 / scale, -10, 10), 0], rtol=1e-5)


def test_learning_too_early_is_explained():
    model = make_model(DQN, make_vec_env(Flip(False, max_steps=30, n_bits=8), 1), learning_starts=4)
    with pytest.raises(RuntimeError, match="learning_starts"):
        model.learn(12)


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_saved_buffer_goes_on(tmp_path, n_envs, truncate):
    # Nine bits: the 61st step is in the middle of an episode, unless the last bit was found in it.
    model = make_model(DQN, make_vec_env(Flip(False, n_bits=9), n_envs), train_freq=1)
    model.learn(61 * n_envs)
    saved = model.replay_buffer
    assert (saved.ep_length[saved.pos - 1] == 0).any()
    model.save_replay_buffer(tmp_path / "buffer")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_replay_buffer(tmp_path / "buffer.pkl", truncate_last_traj=truncate)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == truncate
    assert all("The last trajectory in the replay buffer will be truncated" in text for text in messages)
    loaded = model.replay_buffer
    assert loaded is not saved
    assert loaded.env is model.env
    for key, column in saved.observations.items():
        assert (loaded.observations[key] == column).all()
    assert (loaded.dones[:60] == saved.dones[:60]).all()
    assert loaded.dones[60].all() == truncate
    model.learn(40 * n_envs, reset_num_timesteps=truncate)
    assert loaded.pos == 101
    check_samples(model)


def test_a_saved_model_goes_on_with_a_new_buffer(tmp_path):
    env = make_vec_env(Flip(False), 2)
    model = make_model(
        DQN, env, replay_buffer_kwargs={"goal_selection_strategy": GoalSelectionStrategy.FINAL}
    )
    model.learn(60)
    model.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model", env=env)
    assert type(loaded.replay_buffer) is HerReplayBuffer
    assert loaded.replay_buffer.goal_selection_strategy is GoalSelectionStrategy.FINAL
    obs = env.reset()
    assert (loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()
    loaded.learn(60)
    check_samples(loaded)


def test_it_needs_an_environment(tmp_path):
    env = make_vec_env(Flip(False), 1)
    model = make_model(DQN, env)
    model.learn(30)
    model.save(tmp_path / "model")
    with pytest.raises(AssertionError, match="must pass an environment"):
        DQN.load(tmp_path / "model")


@pytest.mark.learning
def test_dqn_solves_bit_flipping_with_hindsight_alone():
    # With 8 bits exploration alone finds goals often enough on one seed in five; with 10 on none.
    def train(n_sampled_goal):
        env = make_vec_env(Flip(False, n_bits=10), 2)
        model = make_model(
            DQN,
            env,
            n_sampled_goal,
            learning_rate=2e-3,
            train_freq=1,
            batch_size=32,
            buffer_size=100_000,
            exploration_final_eps=0.02,
            target_update_interval=100,
            policy_kwargs={},
        )
        model.learn(4000)
        episodes = []
        evaluate_policy(
            model,
            make_vec_env(Flip(False, n_bits=10), 1, seed=1),
            n_eval_episodes=50,
            callback=lambda local, _: episodes.extend([local["info"]["is_success"]] * bool(local["done"])),
            warn=False,
        )
        return np.mean(episodes)

    assert train(n_sampled_goal=5) >= 0.9
    assert train(n_sampled_goal=0) <= 0.5
