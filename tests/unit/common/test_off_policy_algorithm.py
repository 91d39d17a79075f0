"""Collecting, storing and the schedule of updates, on a small algorithm over continuous actions."""

import pickle
from typing import Any

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import DQN
from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Countdown(gym.Env):
    """Observes the number of the step times ten. Ends after ``length`` steps, by the time limit if asked."""

    action_space = spaces.Box(-2.0, 4.0, (1,), np.float32)

    def __init__(self, length: int = 3, truncate: bool = False, dict_obs: bool = False):
        box = spaces.Box(-100.0, 100.0, (1,), np.float32)
        self.dict_obs = dict_obs
        self.observation_space = spaces.Dict({"a": box}) if dict_obs else box
        self.length, self.truncate, self.count = length, truncate, 0
        self.taken: list[float] = []

    def _obs(self) -> Any:
        obs = np.array([10.0 * self.count], np.float32)
        return {"a": obs} if self.dict_obs else obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._obs(), {}

    def step(self, action):
        self.count += 1
        self.taken.append(float(action[0]))
        over = self.count == self.length
        return self._obs(), float(self.count), over and not self.truncate, over and self.truncate, {}


class Constant(BasePolicy):
    """Always the middle of the action space."""

    def __init__(self, observation_space, action_space, lr_schedule, use_sde=False):
        super().__init__(observation_space, action_space, squash_output=True)

    def _predict(self, observation, deterministic=False):
        rows = next(iter(observation.values())) if isinstance(observation, dict) else observation
        return mx.zeros((rows.shape[0], 1))


class Idle(OffPolicyAlgorithm):
    """Remembers when it was asked to learn."""

    def __init__(self, env, **kwargs):
        kwargs = {"buffer_size": 100, "learning_starts": 0, "support_multi_env": True, **kwargs}
        super().__init__(Constant, env, 1e-3, **kwargs)
        self.trained: list[tuple[int, int, int]] = []
        self._setup_model()

    def train(self, gradient_steps, batch_size):
        self.trained.append((self.num_timesteps, gradient_steps, batch_size))


class Recorder(BaseCallback):
    """Stops after a number of steps; keeps what it sees."""

    def __init__(self, stop_at: int = 10**9):
        super().__init__()
        self.stop_at, self.seen, self.ends = stop_at, [], 0

    def _on_step(self) -> bool:
        self.seen.append(set(self.locals))
        return self.n_calls < self.stop_at

    def _on_rollout_end(self) -> None:
        self.ends += 1


@pytest.mark.parametrize(
    ("given", "frequency", "unit"),
    [(4, 4, "step"), ((2, "step"), 2, "step"), ((3, "episode"), 3, "episode")],
)
def test_train_freq(given, frequency, unit):
    assert Idle(Countdown(), train_freq=given).train_freq == TrainFreq(frequency, TrainFrequencyUnit(unit))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, "minute"), "either 'step' or 'episode' not 'minute'"),
        ((1.5, "step"), "must be an integer and not 1.5"),
        (("a", "step"), "must be an integer and not a"),
        ((1, "step", 2), "frequency, unit"),
    ],
)
def test_bad_train_freq(given, message):
    with pytest.raises(ValueError, match=message):
        Idle(Countdown(), train_freq=given)


def test_updates_every_two_steps_after_the_start():
    model = Idle(Countdown(), train_freq=2, gradient_steps=3, batch_size=7, learning_starts=3).learn(8)
    assert model.trained == [(4, 3, 7), (6, 3, 7), (8, 3, 7)]


def test_updates_after_whole_episodes_with_as_many_steps():
    model = Idle(Countdown(length=3), train_freq=(2, "episode"), gradient_steps=-1).learn(7)
    assert [row[:2] for row in model.trained] == [(6, 6), (12, 6)]
    assert model._episode_num == 4


def test_several_environments_count_together():
    model = Idle(DummyVecEnv([Countdown] * 2), train_freq=1, gradient_steps=-1).learn(4)
    assert [row[:2] for row in model.trained] == [(2, 2), (4, 2)]


def test_no_gradient_steps_no_update():
    assert Idle(Countdown(), gradient_steps=0).learn(3).trained == []


@pytest.mark.parametrize(
    ("train_freq", "n_envs", "message"), [((1, "episode"), 2, "one env"), (0, 1, "least")]
)
def test_impossible_rollouts(train_freq, n_envs, message):
    model = Idle(DummyVecEnv([Countdown] * n_envs), train_freq=train_freq)
    with pytest.raises(AssertionError, match=message):
        model.learn(2)


def test_one_environment_only():
    with pytest.raises(ValueError, match="does not support multiple envs"):
        Idle(DummyVecEnv([Countdown] * 2), support_multi_env=False)


def test_terminal_observation_is_what_followed():
    buffer = Idle(Countdown(length=3)).learn(4).replay_buffer
    np.testing.assert_array_equal(buffer.observations[:4, 0, 0], [0, 10, 20, 0])
    np.testing.assert_array_equal(buffer.next_observations[:4, 0, 0], [10, 20, 30, 10])
    np.testing.assert_array_equal(buffer.dones[:4, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(buffer.timeouts[:4, 0], [0, 0, 0, 0])


def test_time_limit_is_remembered():
    buffer = Idle(Countdown(length=2, truncate=True)).learn(2).replay_buffer
    np.testing.assert_array_equal(buffer.dones[:2, 0], [0, 1])
    np.testing.assert_array_equal(buffer.timeouts[:2, 0], [0, 1])


def test_dict_observations():
    buffer = Idle(Countdown(length=2, dict_obs=True)).learn(3).replay_buffer
    assert type(buffer) is DictReplayBuffer
    np.testing.assert_array_equal(buffer.observations["a"][:3, 0, 0], [0, 10, 0])
    np.testing.assert_array_equal(buffer.next_observations["a"][:3, 0, 0], [10, 20, 10])


@pytest.mark.parametrize("dict_obs", [False, True])
def test_raw_numbers_are_stored_under_vec_normalize(dict_obs):
    env = VecNormalize(DummyVecEnv([lambda: Countdown(length=3, dict_obs=dict_obs)]))
    buffer = Idle(env).learn(4).replay_buffer
    after = buffer.next_observations["a"] if dict_obs else buffer.next_observations
    before = buffer.observations["a"] if dict_obs else buffer.observations
    np.testing.assert_allclose(before[:4, 0, 0], [0, 10, 20, 0], atol=1e-4)
    np.testing.assert_allclose(after[:4, 0, 0], [10, 20, 30, 10], atol=1e-3)
    np.testing.assert_array_equal(buffer.rewards[:4, 0], [1, 2, 3, 1])


def test_actions_are_scaled_in_the_buffer_and_noise_is_added_to_them():
    env = Countdown()
    noise = NormalActionNoise(np.array([0.5]), np.array([0.0]))
    buffer = Idle(env, action_noise=noise).learn(2).replay_buffer
    # The middle of [-2, 4] is 1; half of the half range above it is 2.5.
    np.testing.assert_allclose(buffer.actions[:2, 0, 0], [0.5, 0.5])
    np.testing.assert_allclose(env.taken, [2.5, 2.5])


def test_actions_are_random_until_learning_starts():
    env = Countdown()
    Idle(env, learning_starts=4, seed=0).learn(6)
    assert len(set(env.taken[:4])) == 4
    assert env.taken[4:] == [1.0, 1.0]


@pytest.mark.parametrize("learning_starts", [0, 6, 7, 8, 9, 10, 20, 8.5, float("inf")])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_which_steps_to_come_are_random(learning_starts, n_envs):
    model = Idle(Countdown())
    model.num_timesteps = 7
    expected = [7 + step * n_envs < learning_starts for step in range(4)]
    assert model._random_steps(4, n_envs, learning_starts) == expected


def test_noise_is_vectorised_and_reset_where_an_episode_ended(monkeypatch):
    resets = []
    monkeypatch.setattr(VectorizedActionNoise, "reset", lambda self, indices=None: resets.append(indices))
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    env = DummyVecEnv([lambda: Countdown(length=2), lambda: Countdown(length=3)])
    model = Idle(env, action_noise=noise)
    model.learn(6)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    assert [list(i) for i in resets if i is not None] == [[0], [1]]


def test_n_steps_choose_the_buffer():
    buffer = Idle(Countdown(), n_steps=3, gamma=0.5).replay_buffer
    assert type(buffer) is NStepReplayBuffer
    assert (buffer.n_steps, buffer.gamma) == (3, 0.5)
    with pytest.raises(AssertionError, match=r"N-step returns are not supported .* n_steps=3"):
        Idle(Countdown(dict_obs=True), n_steps=3)


def test_own_buffer_class_and_arguments():
    class Own(ReplayBuffer):
        pass

    model = Idle(
        Countdown(), replay_buffer_class=Own, replay_buffer_kwargs={"handle_timeout_termination": False}
    )
    assert type(model.replay_buffer) is Own
    assert not model.replay_buffer.handle_timeout_termination


class Relabelling(ReplayBuffer):
    """As much of ``HerReplayBuffer`` as an algorithm sees."""

    def __init__(self, *args, env=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.env, self.truncated = env, False

    def set_env(self, env):
        self.env = env

    def truncate_last_trajectory(self):
        self.truncated = True

    def __getstate__(self):
        return {**self.__dict__, "env": None}


@pytest.mark.parametrize("truncate", [True, False])
def test_buffer_that_asks_its_environment(tmp_path, truncate):
    model = Idle(Countdown(), replay_buffer_class=Relabelling)
    assert model.replay_buffer.env is model.env
    assert "env" not in model.replay_buffer_kwargs
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=truncate)
    assert model.replay_buffer.env is model.env
    assert model.replay_buffer.truncated is truncate


def test_replay_buffer_file(tmp_path):
    model = Idle(Countdown()).learn(5)
    model.save_replay_buffer(tmp_path / "buffer")
    other = Idle(Countdown())
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    assert other.replay_buffer.size() == 5
    np.testing.assert_array_equal(other.replay_buffer.rewards, model.replay_buffer.rewards)


def test_another_pickle_is_refused_and_the_buffer_stays(tmp_path):
    (tmp_path / "other.pkl").write_bytes(pickle.dumps([1, 2]))
    model = Idle(Countdown())
    buffer = model.replay_buffer
    with pytest.raises(AssertionError, match="holds a list"):
        model.load_replay_buffer(tmp_path / "other.pkl")
    assert model.replay_buffer is buffer


@pytest.mark.parametrize("handled", [True, False])
def test_compact_buffer_ends_the_last_episode_at_a_new_start(handled):
    model = Idle(
        Countdown(length=50),
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": handled},
    ).learn(3)
    with pytest.warns(UserWarning, match="last trajectory in the replay buffer will be truncated"):
        model.learn(1)
    buffer = model.replay_buffer
    np.testing.assert_array_equal(buffer.dones[:4, 0], [0, 0, 1, 0])
    samples = buffer._get_samples(np.arange(4))
    # What followed is not lost, so its value can be asked for, unless a time limit is to count as an end.
    np.testing.assert_array_equal(np.asarray(samples.next_observations)[:, 0], [10, 20, 30, 10])
    np.testing.assert_array_equal(np.asarray(samples.dones)[:, 0], [0, 0, not handled, 0])


def test_no_n_step_return_goes_on_past_a_new_start():
    model = Idle(Countdown(length=50), n_steps=4, gamma=1.0).learn(3)
    model.learn(3)
    samples = model.replay_buffer._get_samples(np.arange(6))
    # The rewards are 1, 2 and 3, twice.
    np.testing.assert_array_equal(np.asarray(samples.rewards)[:, 0], [6, 5, 3, 6, 5, 3])
    np.testing.assert_array_equal(np.asarray(samples.next_observations)[:, 0], [30] * 6)
    assert not np.asarray(samples.dones).any()


def test_a_buffer_for_fewer_transitions_than_environments_is_refused():
    with pytest.raises(ValueError, match="buffer_size is 2, expected at least 3"):
        Idle(DummyVecEnv([Countdown] * 3), buffer_size=2)


def test_callback_sees_sb3s_locals_and_stops():
    recorder = Recorder(stop_at=2)
    model = Idle(Countdown(), train_freq=2).learn(10, callback=recorder)
    assert model.num_timesteps == 2
    assert model.trained == []
    assert recorder.ends == 0
    assert model.replay_buffer.size() == 1
    names = {
        "actions", "buffer_actions", "new_obs", "rewards", "dones", "infos", "env", "replay_buffer",
        "num_collected_steps", "num_collected_episodes", "action_noise", "learning_starts", "train_freq",
    }  # fmt: skip
    assert names <= recorder.seen[-1]


def test_logged_keys(monkeypatch):
    model = Idle(Countdown(length=2))
    logger, written = Logger(None, []), []
    monkeypatch.setattr(logger, "dump", lambda step: written.append((step, dict(logger.name_to_value))))
    model.set_logger(logger)
    model.learn(8, log_interval=2)
    assert [step for step, _ in written] == [4, 8]
    assert written[0][1].keys() == {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "time/episodes", "time/fps", "time/time_elapsed",
        "time/total_timesteps",
    }  # fmt: skip
    assert written[0][1]["rollout/ep_rew_mean"] == 3.0
    assert written[1][1]["time/episodes"] == 4


def test_training_goes_on():
    model = Idle(Countdown(length=4)).learn(3)
    model.learn(2, reset_num_timesteps=False)
    assert model.num_timesteps == 5
    np.testing.assert_array_equal(model.replay_buffer.observations[:5, 0, 0], [0, 10, 20, 30, 0])


def test_a_run_that_never_learns_says_so(capsys):
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=50, policy_kwargs={"net_arch": [8]}, verbose=1)
    model.learn(40)
    assert "learning_starts=50 is not passed in 40 steps" in capsys.readouterr().out
    assert model._n_updates == 0


def test_a_batch_larger_than_the_buffer_is_said(capsys):
    DQN("MlpPolicy", "CartPole-v1", buffer_size=20, batch_size=64, policy_kwargs={"net_arch": [8]}, verbose=1)
    assert "batch_size=64 is larger than buffer_size=20" in capsys.readouterr().out
