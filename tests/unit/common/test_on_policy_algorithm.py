"""Rollouts: what is stored, what callbacks see, time limits worked out by hand."""

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import PPO
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.callbacks import BaseCallback, CallbackList
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.vec_env import DummyVecEnv

SMALL = {"n_steps": 8, "batch_size": 4, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}


class Counting(gym.Env):
    """Observation t at step t, reward 1; ends after `length` steps, by the limit or of itself."""

    def __init__(self, length=3, truncated=True, action_space=None):
        self.observation_space = spaces.Box(0, 100, (1,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.length, self.truncated = length, truncated
        self.actions = []

    def _obs(self):
        return np.array([self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.actions.append(np.array(action))
        over = self.t == self.length
        return self._obs(), 1.0, over and not self.truncated, over and self.truncated, {}


def value_is_the_observation(model, scale=10.0):
    """Make V(obs) = scale * obs: no hidden layer, one weight."""
    model.policy.value_net.weight = mx.array([[scale]])
    model.policy.value_net.bias = mx.array([0.0])


def rollout(model):
    """One rollout without learning from it."""
    model.train = lambda: None
    return model.learn(model.n_steps * model.n_envs).rollout_buffer


def make_linear(env, **kwargs):
    return PPO("MlpPolicy", env, **{**SMALL, "policy_kwargs": {"net_arch": []}, **kwargs})


def test_truncated_episodes_are_bootstrapped():
    """The reward of a truncated step is 1 + gamma V(last observation) = 1 + 0.9 * 10 * 3."""
    model = make_linear(Counting(truncated=True), gamma=0.9, gae_lambda=1.0)
    value_is_the_observation(model)
    buffer = rollout(model)
    np.testing.assert_allclose(buffer.rewards[:, 0], [1, 1, 28, 1, 1, 28, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(buffer.observations[:, 0, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(buffer.episode_starts[:, 0], [1, 0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(buffer.values[:, 0], [0, 10, 20, 0, 10, 20, 0, 10], rtol=1e-6)
    # Monte Carlo returns within an episode; the open end is worth 0.9 V(2) = 18.
    expected = [1 + 0.9 * (1 + 0.9 * 28), 1 + 0.9 * 28, 28] * 2 + [1 + 0.9 * 19, 19]
    np.testing.assert_allclose(buffer.returns[:, 0], expected, rtol=1e-6)


def test_ended_episodes_are_not():
    model = make_linear(Counting(truncated=False), gamma=0.9, gae_lambda=1.0)
    value_is_the_observation(model)
    np.testing.assert_array_equal(rollout(model).rewards[:, 0], np.ones(8))


def test_only_the_truncated_environment_is_bootstrapped():
    env = DummyVecEnv([lambda: Counting(truncated=True), lambda: Counting(truncated=False)])
    model = make_linear(env, gamma=0.5)
    value_is_the_observation(model)
    buffer = rollout(model)
    assert buffer.rewards[2].tolist() == [16.0, 1.0]


NAMES = {
    "self", "env", "callback", "rollout_buffer", "n_rollout_steps", "n_steps", "obs_tensor", "actions",
    "values", "log_probs", "clipped_actions", "new_obs", "rewards", "dones", "infos",
}  # fmt: skip


class Watching(BaseCallback):
    """Writes down what it is shown."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at, self.events, self.seen = stop_at, [], []

    def _on_training_start(self):
        self.events.append("training start")

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_step(self):
        self.events.append("step")
        self.seen.append({name: self.locals[name] for name in NAMES if name in self.locals})
        return self.n_calls != self.stop_at

    def _on_rollout_end(self):
        self.events.append("rollout end")

    def _on_training_end(self):
        self.events.append("training end")


def test_callbacks_see_sb3s_names():
    env = DummyVecEnv([lambda: Counting(action_space=spaces.Box(-0.1, 0.1, (2,), np.float32))] * 2)
    model = PPO("MlpPolicy", env, **SMALL)
    model.train = lambda: None
    watching = Watching()
    model.learn(16, callback=CallbackList([watching]))
    assert watching.events == [
        "training start",
        "rollout start",
        *["step"] * 8,
        "rollout end",
        "training end",
    ]
    first = watching.seen[0]
    assert set(first) == NAMES
    assert first["self"] is model
    assert first["rollout_buffer"] is model.rollout_buffer
    assert [first[name].shape for name in ("actions", "clipped_actions", "rewards", "dones", "new_obs")] == [
        (2, 2), (2, 2), (2,), (2,), (2, 1),
    ]  # fmt: skip
    assert (first["values"].shape, first["log_probs"].shape) == ((2, 1), (2,))
    np.testing.assert_array_equal(first["clipped_actions"], np.clip(first["actions"], -0.1, 0.1))
    assert np.abs(first["actions"]).max() > 0.1
    # The buffer keeps the policy's own actions, the environment got the clipped ones.
    np.testing.assert_array_equal(model.rollout_buffer.actions[0], first["actions"])


@pytest.mark.parametrize("answer", [False, None, 0])
def test_a_falsy_answer_stops_at_once(answer):
    model = PPO("MlpPolicy", Counting(), **SMALL)
    model.learn(64, callback=lambda local_variables, global_variables: answer)
    assert model.num_timesteps == 1
    assert model._n_updates == 0


def test_stopping_later_still_ends_the_training():
    watching = Watching(stop_at=11)
    model = PPO("MlpPolicy", Counting(), **SMALL).learn(64, callback=watching)
    assert model.num_timesteps == 11
    assert watching.events[-1] == "training end"
    assert model._n_updates == 1


def test_total_timesteps_is_a_lower_bound():
    env = DummyVecEnv([Counting] * 2)
    model = PPO("MlpPolicy", env, **SMALL).learn(17)
    assert model.num_timesteps == 32


def test_learning_on_keeps_the_count_and_the_place():
    model = PPO("MlpPolicy", Counting(length=50), **SMALL).learn(8)
    last_obs = model._last_obs.copy()
    assert last_obs.tolist() == [[8.0]]
    watching = Watching()
    model.learn(8, reset_num_timesteps=False, callback=watching)
    assert (model.num_timesteps, model._total_timesteps, model._num_timesteps_at_start) == (16, 16, 8)
    assert watching.seen[0]["new_obs"].tolist() == [[9.0]]
    model.learn(8, callback=(again := Watching()))
    assert model.num_timesteps == 8
    assert again.seen[0]["new_obs"].tolist() == [[1.0]]


def test_logged_episodes():
    model = PPO("MlpPolicy", Counting(length=3), stats_window_size=2, **SMALL).learn(16)
    assert len(model.ep_info_buffer) == 2
    assert [(info["r"], info["l"]) for info in model.ep_info_buffer] == [(3.0, 3), (3.0, 3)]
    model.learn(8, reset_num_timesteps=False)
    assert len(model.ep_info_buffer) == 2


def test_a_policys_own_forward_is_called():
    """A user's subclass that overrides `forward` chooses the actions of the rollout."""

    class AlwaysOne(ActorCriticPolicy):
        def forward(self, obs, deterministic=False):
            actions, values, log_prob = super().forward(obs, deterministic)
            return mx.ones_like(actions), values + 5, log_prob

    env = Counting(length=50)
    model = PPO(AlwaysOne, env, **SMALL)
    buffer = rollout(model)
    assert [int(action) for action in env.actions] == [1] * 8
    values = np.array(model.policy.predict_values(mx.arange(8, dtype=mx.float32)[:, None]))[:, 0]
    np.testing.assert_allclose(buffer.values[:, 0], values + 5, rtol=1e-5)


def test_log_probabilities_are_those_of_the_actions():
    model = PPO("MlpPolicy", Counting(length=50), **SMALL)
    buffer = rollout(model)
    distribution = model.policy.get_distribution(mx.arange(8, dtype=mx.float32)[:, None])
    p = np.array(distribution.distribution.probs)[np.arange(8), buffer.actions[:, 0, 0].astype(int)]
    np.testing.assert_allclose(buffer.log_probs[:, 0], np.log(p), rtol=1e-4)


class FirstHalf(RolloutBuffer):
    """A user's buffer whose `get` yields what it likes: one minibatch of the first rows."""

    def get(self, batch_size=None):
        for minibatch in super().get(None):
            yield type(minibatch)(*(column[:batch_size] for column in minibatch))


def test_a_users_buffer_class():
    model = PPO("MlpPolicy", Counting(), rollout_buffer_class=FirstHalf, seed=0, **SMALL)
    before = model.policy.parameters_to_vector()
    model.learn(8)
    assert isinstance(model.rollout_buffer, FirstHalf)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


def test_a_users_get_that_does_nothing_new_changes_nothing():
    """The fast path and the user's path give the same update."""

    class Inheriting(RolloutBuffer):
        pass

    class Plain(RolloutBuffer):
        def get(self, batch_size=None):
            yield from super().get(batch_size)

    vectors = [
        PPO("MlpPolicy", Counting(), seed=0, rollout_buffer_class=cls, **SMALL)
        .learn(16)
        .policy.parameters_to_vector()
        for cls in (Inheriting, Plain)
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)


def test_buffer_arguments_are_handed_on():
    class Marked(RolloutBuffer):
        def __init__(self, *args, mark=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.mark = mark

    model = PPO(
        "MlpPolicy", Counting(), rollout_buffer_class=Marked, rollout_buffer_kwargs={"mark": 3}, **SMALL
    )
    assert model.rollout_buffer.mark == 3


def test_rollouts_need_an_observation():
    model = PPO("MlpPolicy", Counting(), **SMALL)
    with pytest.raises(AssertionError, match="No previous observation was provided"):
        model.collect_rollouts(model.env, Watching(), model.rollout_buffer, 8)


def test_log_interval(capsys):
    model = PPO("MlpPolicy", Counting(), verbose=1, **SMALL)
    capsys.readouterr()
    model.learn(32, log_interval=2)
    rows = [line.replace("|", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows if row[0] == "total_timesteps"] == ["16", "32"]
    model.learn(8, log_interval=None)
    assert capsys.readouterr().out == ""
