"""Gymnasium's vector environments and EnvPools behind the interface of VecEnv."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from mlx_baselines3 import DQN, PPO
from mlx_baselines3.common.callbacks import EvalCallback
from mlx_baselines3.common.evaluation import evaluate_policy
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    GymVecEnv,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
    as_vec_env,
    is_vecenv_wrapped,
    is_vector_env,
)
from support.vec_env_doubles import CountingEnv

AutoresetMode = getattr(gym.vector, "AutoresetMode", None)
MODES = [None] if AutoresetMode is None else list(AutoresetMode)


def vector_kwargs(mode):
    return {} if mode is None else {"autoreset_mode": mode}


class NextStepVector:
    """Two countings of a vector environment that resets in the next step, and only there."""

    num_envs = 2
    metadata = {"autoreset_mode": "NEXT_STEP"}
    render_mode = None
    single_observation_space = spaces.Box(-1000, 1000, shape=(1,), dtype=np.float32)
    single_action_space = spaces.Discrete(2)
    speed = 7

    def __init__(self, lengths=(2, 3), truncate=False):
        self.lengths, self.truncate = np.array(lengths), truncate
        self.obs = np.zeros((2, 1), np.float32)

    @property
    def unwrapped(self):
        return self

    def reset(self, *, seed=None, options=None):
        self.t, self.over = np.zeros(2, int), np.zeros(2, bool)
        self.obs[:, 0] = self.t
        return self.obs, {"start": np.array([1, 2])}

    def step(self, actions):
        self.t = np.where(self.over, 0, self.t + 1)
        # The same array each time, and a reward in the step that resets: neither may reach the caller.
        self.obs[:, 0] = self.t
        rewards = np.where(self.over, 100.0, self.t)
        self.over = self.t == self.lengths
        no = np.zeros(2, bool)
        ends = (no, self.over) if self.truncate else (self.over, no)
        return self.obs, rewards, *(end.copy() for end in ends), {"t": self.t.copy()}

    def close(self):
        self.closed = True


class Pool:
    """An EnvPool of two countings: a space for one environment, resets by number, infos without masks."""

    config = {"num_envs": 2, "batch_size": 2}
    all_env_ids = np.arange(2, dtype=np.int32)
    is_async = False
    metadata = {"render_modes": []}
    observation_space = spaces.Box(-1000, 1000, shape=(1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.t = np.zeros(2, int)

    def send(self, action, env_id=None): ...

    def recv(self): ...

    def reset(self, env_id=None):
        env_id = self.all_env_ids if env_id is None else env_id
        assert env_id.dtype == np.int32
        self.t[env_id] = 0
        return self._obs(env_id), {"env_id": env_id, "elapsed_step": self.t[env_id]}

    def _obs(self, env_id):
        return self.t[env_id, None].astype(np.float32)

    def step(self, action):
        assert not np.any(self.t == [2, 3])
        self.t += 1
        info = {"env_id": self.all_env_ids, "elapsed_step": self.t.copy()}
        return self._obs(self.all_env_ids), self.t.astype(np.float32), self.t == [2, 3], self.t == 9, info

    def close(self): ...


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vector_class", [SyncVectorEnv, AsyncVectorEnv])
def test_a_vector_env_steps_as_a_dummy_vec_env(vector_class, mode):
    fns = [lambda: gym.make("CartPole-v1", max_episode_steps=15)] * 3
    ours, reference = GymVecEnv(vector_class(fns, **vector_kwargs(mode))), DummyVecEnv(fns)
    for env in (ours, reference):
        env.seed(5)
    np.testing.assert_array_equal(ours.reset(), reference.reset())
    actions = np.random.default_rng(0).integers(0, 2, (60, 3))
    for row in actions:
        got, expected = ours.step(row), reference.step(row)
        for one, other in zip(got[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        for one, other in zip(got[3], expected[3], strict=True):
            assert one.keys() == other.keys()
            assert one["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            np.testing.assert_array_equal(
                one.get("terminal_observation"), other.get("terminal_observation"), strict=False
            )
    ours.close()
    reference.close()


@pytest.mark.parametrize("mode", MODES)
def test_infos_and_reset_infos_go_to_their_environment(mode):
    env = GymVecEnv(
        SyncVectorEnv([lambda: CountingEnv(length=2), lambda: CountingEnv(length=3)], **vector_kwargs(mode))
    )
    env.seed(4)
    env.reset()
    assert [info["seeded"] for info in env.reset_infos] == [4, 5]
    env.step(np.zeros(2, int))
    obs, rewards, dones, infos = env.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, [[0, 0], [2, 20]])
    np.testing.assert_array_equal(rewards, [2, 2])
    np.testing.assert_array_equal(dones, [True, False])
    assert infos[0]["t"] == infos[1]["t"] == 2
    assert infos[0]["nested"]["list"] == [2]
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [2, 20])
    assert "terminal_observation" not in infos[1]
    assert "t" not in env.reset_infos[0]


def test_a_dead_step_is_marked_and_is_no_part_of_an_episode():
    env = VecMonitor(NextStepVector())
    env.reset()
    zeros = np.zeros(2, int)
    env.step(zeros)
    obs, rewards, dones, infos = env.step(zeros)
    np.testing.assert_array_equal(obs[:, 0], [2, 2])
    np.testing.assert_array_equal(dones, [True, False])
    assert infos[0]["terminal_observation"] == 2
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (3, 2)
    # The first environment resets: its action is ignored; the second one's episode ends.
    obs, rewards, dones, infos = env.step(zeros)
    np.testing.assert_array_equal(obs[:, 0], [0, 3])
    np.testing.assert_array_equal(rewards, [0, 3])
    np.testing.assert_array_equal(dones, [True, True])
    assert infos[0]["autoreset_step"] is True
    assert infos[0]["terminal_observation"] == 2
    assert "episode" not in infos[0]
    assert (infos[1]["episode"]["r"], infos[1]["episode"]["l"]) == (6, 3)
    obs, rewards, dones, infos = env.step(zeros)
    np.testing.assert_array_equal(obs[:, 0], [1, 0])
    np.testing.assert_array_equal(dones, [False, True])
    assert "autoreset_step" not in infos[0]
    obs, _, _, infos = env.step(zeros)
    np.testing.assert_array_equal(obs[:, 0], [2, 1])
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (3, 2)
    env.close()
    assert env.venv.env.closed


def test_a_dead_step_ends_as_the_episode_before_it_did():
    for truncate in (False, True):
        env = GymVecEnv(NextStepVector(truncate=truncate))
        env.reset()
        for _ in range(3):
            _, _, _, infos = env.step(np.zeros(2, int))
        assert infos[0]["autoreset_step"]
        assert infos[0]["TimeLimit.truncated"] is truncate


def test_evaluation_does_not_count_dead_steps():
    class Still:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), int), state

    returns, lengths = evaluate_policy(
        Still(), NextStepVector(), n_eval_episodes=4, return_episode_rewards=True, warn=False
    )
    assert sorted(returns) == [3, 3, 6, 6]
    assert sorted(lengths) == [2, 2, 3, 3]


def test_an_envpool_resets_where_an_episode_ends():
    env = GymVecEnv(Pool())
    assert env.num_envs == 2
    assert env.observation_space.shape == (1,)
    np.testing.assert_array_equal(env.reset(), [[0], [0]])
    env.step(np.zeros(2, int))
    obs, rewards, dones, infos = env.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, [[0], [2]])
    np.testing.assert_array_equal(rewards, [2, 2])
    np.testing.assert_array_equal(dones, [True, False])
    assert infos[0]["terminal_observation"] == 2
    assert infos[0]["elapsed_step"] == 2
    assert env.reset_infos[0]["elapsed_step"] == 0
    obs, _, dones, infos = env.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, [[1], [0]])
    np.testing.assert_array_equal(dones, [False, True])
    assert infos[1]["terminal_observation"] == 3


def test_an_envpool_cannot_be_seeded_any_more_and_says_so():
    env = GymVecEnv(Pool())
    env.seed(3)
    with pytest.warns(UserWarning, match=r"seeded when it is made.*3 is not used"):
        env.reset()


def test_an_asynchronous_or_old_envpool_is_refused():
    pool = Pool()
    pool.is_async = True
    with pytest.raises(ValueError, match="batch_size equal to num_envs"):
        GymVecEnv(pool)
    pool = Pool()
    pool.action_space = object()
    with pytest.raises(ValueError, match="env_type='gymnasium'"):
        GymVecEnv(pool)


def test_learning_and_evaluating_in_vector_environments(tmp_path, capsys):
    fns = [lambda: gym.make("CartPole-v1")] * 2
    # Neither of the two warnings of EvalCallback: both are VecMonitors around a GymVecEnv.
    evaluation = EvalCallback(SyncVectorEnv(fns), eval_freq=20, n_eval_episodes=2, verbose=0)
    kwargs = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "verbose": 1}
    model = PPO("MlpPolicy", SyncVectorEnv(fns), **kwargs).learn(64, callback=evaluation)
    assert is_vecenv_wrapped(model.env, VecMonitor)
    out = capsys.readouterr().out
    assert "Wrapping the env in a GymVecEnv." in out
    assert "ep_rew_mean" in out
    assert evaluation.last_mean_reward > 0
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=SyncVectorEnv([*fns, *fns]))
    assert loaded.n_envs == 4
    loaded.set_env(as_vec_env(SyncVectorEnv([*fns, *fns])))
    loaded.learn(64)


def test_dqn_learns_from_a_next_step_vector():
    model = DQN("MlpPolicy", NextStepVector(), learning_starts=8, train_freq=4, buffer_size=100).learn(40)
    assert model.num_timesteps == 40
    assert {info["l"] for info in model.ep_info_buffer} == {2, 3}


def test_single_monitored_environments_are_not_measured_twice():
    fns = [lambda: Monitor(CountingEnv())] * 2
    model = PPO("MlpPolicy", SyncVectorEnv(fns), n_steps=4, batch_size=8, n_epochs=1)
    assert not is_vecenv_wrapped(model.env, VecMonitor)
    model.learn(16)
    assert [info["l"] for info in model.ep_info_buffer] == [3] * len(model.ep_info_buffer)


def test_wrappers_take_vector_environments():
    for wrap in (VecNormalize, VecMonitor, lambda env: VecFrameStack(env, 2)):
        env = wrap(NextStepVector())
        assert isinstance(env.venv, GymVecEnv)
        env.reset()
        env.step(np.zeros(2, int))
    assert VecFrameStack(NextStepVector(), 2).observation_space.shape == (2,)


class DictCounting(CountingEnv):
    def __init__(self, length=2):
        super().__init__(length)
        self.observation_space = spaces.Dict(
            {"a": self.observation_space, "b": spaces.Box(0, 9, (1,), np.float32)}
        )

    def _obs(self):
        return {"a": super()._obs(), "b": np.array([self.t], np.float32)}


@pytest.mark.parametrize("mode", MODES)
def test_dictionaries_of_observations(mode):
    env = GymVecEnv(SyncVectorEnv([lambda: DictCounting(1), DictCounting], **vector_kwargs(mode)))
    env.reset()
    obs, _, dones, infos = env.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs["a"], [[0, 0], [1, 10]])
    np.testing.assert_array_equal(obs["b"], [[0], [1]])
    np.testing.assert_array_equal(dones, [True, False])
    np.testing.assert_array_equal(infos[0]["terminal_observation"]["a"], [1, 10])
    only_b = VecExtractDictObs(SyncVectorEnv([DictCounting], **vector_kwargs(mode)), "b")
    np.testing.assert_array_equal(only_b.reset(), [[0]])


def test_observations_are_the_callers_own():
    env = GymVecEnv(NextStepVector())
    first = env.reset()
    second = env.step(np.zeros(2, int))[0]
    np.testing.assert_array_equal(first, [[0], [0]])
    np.testing.assert_array_equal(second, [[1], [1]])


def test_attributes_and_methods_of_single_environments():
    env = GymVecEnv(SyncVectorEnv([lambda: CountingEnv(length=2), lambda: Monitor(CountingEnv(length=3))]))
    assert env.get_attr("length") == [2, 3]
    assert env.env_method("add", 1, b=2, indices=1) == [6]
    env.set_attr("extra", 5, indices=[0])
    assert env.get_attr("extra", indices=0) == [5]
    assert env.env_is_wrapped(Monitor) == [False, True]
    assert env.has_attr("length")
    assert not env.has_attr("nothing")


def test_attributes_of_environments_elsewhere():
    env = GymVecEnv(AsyncVectorEnv([lambda: CountingEnv(length=2), lambda: CountingEnv(length=3)]))
    assert env.get_attr("length", indices=[1]) == [3]
    env.set_attr("length", 4)
    assert env.env_method("add", 1) == [5, 5]
    with pytest.raises(NotImplementedError, match="all its environments only"):
        env.env_method("add", 1, indices=0)
    assert env.env_is_wrapped(Monitor) == [False, False]
    env.close()


def test_attributes_of_a_vector_as_a_whole():
    env = GymVecEnv(NextStepVector())
    assert env.get_attr("speed") == [7, 7]
    env.set_attr("speed", 8)
    assert env.env.speed == 8
    with pytest.raises(NotImplementedError, match="all its environments only"):
        env.set_attr("speed", 8, indices=0)


def test_options_are_one_for_all():
    env = GymVecEnv(SyncVectorEnv([CountingEnv] * 2))
    env.set_options({"x": 1})
    env.reset()
    assert env.get_attr("last_options") == [{"x": 1}, {"x": 1}]
    env.set_options([{"x": 1}, {"x": 2}])
    with pytest.raises(ValueError, match="one dict of options for all"):
        env.reset()


def test_images():
    env = GymVecEnv(SyncVectorEnv([CountingEnv] * 2))
    env.reset()
    env.render_mode = "rgb_array"
    assert [image.shape for image in env.get_images()] == [(2, 3, 3)] * 2
    env.render_mode = None
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.get_images() == [None, None]
    with pytest.raises(AssertionError, match="rgb_array"):
        VecVideoRecorder(NextStepVector(), "unused", lambda step: True)


def test_what_is_refused():
    assert not is_vector_env(gym.make("CartPole-v1"))
    assert not is_vector_env(DummyVecEnv([CountingEnv]))
    with pytest.raises(TypeError, match=r"got (OrderEnforcing|TimeLimit)"):
        as_vec_env(gym.make("CartPole-v1"))
    odd = NextStepVector()
    odd.metadata = {"autoreset_mode": "SOMETIMES"}
    with pytest.raises(ValueError, match="Unknown autoreset_mode 'SOMETIMES'"):
        GymVecEnv(odd)
    env = GymVecEnv(NextStepVector())
    env.reset()
    with pytest.raises(ValueError, match="one action for each of 2 environments, got 1"):
        env.step(np.zeros(1, int))
    forgetful = NextStepVector()
    forgetful.metadata = {"autoreset_mode": "SAME_STEP"}
    env = GymVecEnv(forgetful)
    assert isinstance(env, VecEnv)
    env.reset()
    env.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="no 'final_obs'"):
        env.step(np.zeros(2, int))
