"""Callbacks, on a model that only counts steps."""

import sys
from dataclasses import dataclass

import gymnasium as gym
import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common import callbacks as cb
from mlx_baselines3.common.callbacks.base import steps_until_needed
from mlx_baselines3.common.logger import KVWriter, Logger
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import DummyVecEnv, NativeVecEnv, VecNormalize


class ScriptedEnv(gym.Env):
    """Two-step episodes with scripted returns (the last is repeated) and ``is_success``."""

    observation_space = spaces.Box(-100, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, returns=(0.0,), successes=()):
        self.returns, self.successes, self.finished = returns, successes, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == 2
        obs, info = np.full(1, 5, np.float32), {}
        if not done:
            return obs, 0.0, False, False, info
        if self.finished < len(self.successes) and self.successes[self.finished] is not None:
            info["is_success"] = self.successes[self.finished]
        reward = self.returns[min(self.finished, len(self.returns) - 1)]
        self.finished += 1
        return obs, reward, True, False, info


class Rows(KVWriter):
    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((step, dict(key_values), dict(key_excluded)))

    def close(self):
        pass


class Model:
    """What callbacks see of an algorithm."""

    def __init__(self, env=None):
        self.env = env or DummyVecEnv([lambda: Monitor(ScriptedEnv())])
        self.num_timesteps = 0
        self.writer = Rows()
        self.logger = Logger(None, [self.writer])
        self.saved, self.dumps = [], 0
        self.replay_buffer = None

    def get_env(self):
        return self.env

    def get_vec_normalize_env(self):
        return self.env if isinstance(self.env, VecNormalize) else None

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), int), None

    def save(self, path):
        self.saved.append(str(path))

    def save_replay_buffer(self, path):
        self.saved.append(str(path))

    def dump_logs(self):
        self.dumps += 1

    def learn(self, steps, callback, **locals_):
        """:return: how many steps were made before the callback stopped it"""
        total_timesteps = self.num_timesteps + steps
        callback.init_callback(self)
        callback.on_training_start({"total_timesteps": total_timesteps, "tb_log_name": "Fake"}, {})
        callback.on_rollout_start()
        made = 0
        while made < steps:
            self.num_timesteps += self.env.num_envs
            made += self.env.num_envs
            callback.update_locals({"step": made, **locals_})
            if not callback.on_step():
                break
        callback.on_rollout_end()
        callback.on_training_end()
        return made


class Spy(cb.BaseCallback):
    def __init__(self, answer=True):
        super().__init__()
        self.events, self.answer = [], answer

    def _init_callback(self):
        self.events.append("init")

    def _on_training_start(self):
        self.events.append("training_start")

    def _on_rollout_start(self):
        self.events.append("rollout_start")

    def _on_step(self):
        self.events.append(self.num_timesteps)
        return self.answer

    def _on_rollout_end(self):
        self.events.append("rollout_end")

    def _on_training_end(self):
        self.events.append("training_end")


ORDER = ["init", "training_start", "rollout_start", 1, 2, "rollout_end", "training_end"]


def test_order_of_calls_and_locals():
    spy = Spy()
    model = Model()
    assert model.learn(2, spy) == 2
    assert spy.events == ORDER
    assert (spy.n_calls, spy.num_timesteps, spy.locals["step"]) == (2, 2, 2)
    assert spy.training_env is model.env
    assert spy.logger is model.logger


def test_timesteps_of_an_earlier_training_are_known_at_the_start():
    model, spy = Model(), Spy()
    model.num_timesteps = 40
    spy.init_callback(model)
    spy.on_training_start({}, {})
    assert spy.num_timesteps == 40


def test_a_callback_needs_an_environment():
    model, spy = Model(), Spy()
    model.env = None
    spy.init_callback(model)
    with pytest.raises(AssertionError, match="initialize the model with an environment"):
        _ = spy.training_env


def test_the_default_step_goes_on():
    class Super(cb.BaseCallback):
        def _on_step(self):
            return super()._on_step()

    assert Model().learn(3, Super()) == 3
    with pytest.raises(TypeError, match="abstract"):
        cb.BaseCallback()


@pytest.mark.parametrize("falsy", [False, np.bool_(0), mx.array(False), None, 0])
def test_any_falsy_answer_stops_and_the_others_are_still_called(falsy):
    first, second = Spy(falsy), Spy()
    assert Model().learn(10, cb.CallbackList([first, second])) == 1
    assert first.events == [*ORDER[:4], "rollout_end", "training_end"]
    assert second.events == first.events


def test_callback_list_takes_a_list():
    with pytest.raises(AssertionError, match="list of callbacks"):
        cb.CallbackList((Spy(),))


def test_convert_callback():
    seen = []

    def function(locals_, globals_):
        seen.append(locals_["step"])
        return locals_["step"] < 3

    assert Model().learn(10, cb.ConvertCallback(function)) == 3
    assert seen == [1, 2, 3]
    assert Model().learn(4, cb.ConvertCallback(None)) == 4


def test_every_n_timesteps_with_locals_for_the_child():
    child = Spy()
    env = DummyVecEnv([lambda: Monitor(ScriptedEnv())] * 2)
    callback = cb.EveryNTimesteps(n_steps=5, callback=child)
    marker = object()
    Model(env).learn(16, cb.CallbackList([callback]), marker=marker)
    # two steps a call: 6 is the first count with 5 passed
    assert child.events == ["init", "training_start", 6, 12]
    assert child.parent is callback
    assert child.locals["marker"] is marker


def test_log_every_n_timesteps():
    model = Model()
    model.learn(10, cb.LogEveryNTimesteps(3))
    assert model.dumps == 3


class TestCheckpoint:
    def test_files(self, tmp_path, capsys):
        model = Model(VecNormalize(DummyVecEnv([lambda: Monitor(ScriptedEnv())])))
        model.replay_buffer = object()
        folder = tmp_path / "new" / "folder"
        model.learn(
            7,
            cb.CheckpointCallback(3, folder, "a", save_replay_buffer=True, save_vecnormalize=True, verbose=2),
        )
        expected = [
            str(folder / name)
            for step in (3, 6)
            for name in (f"a_{step}_steps.zip", f"a_replay_buffer_{step}_steps.pkl")
        ]
        assert model.saved == expected
        statistics = [f"a_vecnormalize_{step}_steps.pkl" for step in (3, 6)]
        assert sorted(path.name for path in folder.iterdir()) == statistics
        assert capsys.readouterr().out.splitlines()[:3] == [
            f"Saving model checkpoint to {expected[0]}",
            f"Saving model replay buffer checkpoint to {expected[1]}",
            f"Saving model VecNormalize to {folder / statistics[0]}",
        ]

    def test_only_the_model_by_default_and_only_what_there_is(self, tmp_path, capsys):
        model = Model()
        model.learn(2, cb.CheckpointCallback(2, str(tmp_path)))
        assert model.saved == [str(tmp_path / "rl_model_2_steps.zip")]
        model.learn(2, cb.CheckpointCallback(2, str(tmp_path), "b", True, True))
        assert model.saved[1:] == [str(tmp_path / "b_4_steps.zip")]
        assert capsys.readouterr().out == ""


def make_eval(returns, successes=(), **kwargs):
    env = Monitor(ScriptedEnv(returns, successes))
    return cb.EvalCallback(env, n_eval_episodes=2, eval_freq=2, **kwargs)


class TestEval:
    def test_results_are_logged_printed_and_saved(self, tmp_path, capsys):
        best = Spy()
        after = Spy()
        callback = make_eval(
            [1.0, 3.0, 0.0, 1.0, 4.0, 6.0],
            [True, False, True, True, None, False],
            log_path=str(tmp_path / "log"),
            best_model_save_path=str(tmp_path / "best"),
            callback_on_new_best=best,
            callback_after_eval=after,
        )
        model = Model()
        model.learn(6, callback)
        assert callback.last_mean_reward == callback.best_mean_reward == 5.0
        assert model.saved == [str(tmp_path / "best" / "best_model")] * 2
        assert [event for event in best.events if isinstance(event, int)] == [2, 6]
        assert [event for event in after.events if isinstance(event, int)] == [2, 4, 6]
        assert after.locals["step"] == best.locals["step"] == 6
        assert [(step, row) for step, row, _ in model.writer.rows] == [
            (2, self.row(2, 2.0, 0.5)),
            (4, self.row(4, 0.5, 1.0)),
            (6, self.row(6, 5.0, 0.0)),
        ]
        assert model.writer.rows[0][2]["time/total_timesteps"] == ("tensorboard",)
        assert capsys.readouterr().out.splitlines()[:5] == [
            "Eval num_timesteps=2, episode_reward=2.00 +/- 1.00",
            "Episode length: 2.00 +/- 0.00",
            "Success rate: 50.00%",
            "New best mean reward!",
            "Eval num_timesteps=4, episode_reward=0.50 +/- 0.50",
        ]
        with np.load(tmp_path / "log" / "evaluations.npz") as log:
            assert log["timesteps"].tolist() == [2, 4, 6]
            assert log["results"].tolist() == [[1.0, 3.0], [0.0, 1.0], [4.0, 6.0]]
            assert log["ep_lengths"].tolist() == [[2, 2]] * 3
            # one episode of the last evaluation did not tell
            np.testing.assert_array_equal(log["successes"], [[1, 0], [1, 1], [0, np.nan]])

    @staticmethod
    def row(step, reward, success):
        return {
            "eval/mean_reward": reward,
            "eval/mean_ep_length": 2.0,
            "eval/success_rate": success,
            "time/total_timesteps": step,
        }

    def test_successes_stay_bools_when_all_tell(self, tmp_path):
        Model().learn(2, make_eval([0.0], [True, False], log_path=tmp_path, verbose=0))
        with np.load(tmp_path / "evaluations.npz") as log:
            assert log["successes"].tolist() == [[True, False]]

    def test_silent_without_paths(self, capsys):
        model = Model()
        callback = make_eval([1.0], verbose=0)
        model.learn(4, callback)
        assert capsys.readouterr().out == ""
        assert model.saved == []
        assert callback.evaluations_results == []

    def test_an_equal_result_is_no_new_best(self):
        best = Spy()
        Model().learn(6, make_eval([1.0], verbose=0, callback_on_new_best=best))
        assert best.n_calls == 1

    def test_never_with_frequency_zero(self):
        model = Model()
        model.learn(4, cb.EvalCallback(Monitor(ScriptedEnv()), eval_freq=0))
        assert model.writer.rows == []

    @pytest.mark.parametrize("where", ["callback_on_new_best", "callback_after_eval"])
    def test_children_stop_the_training(self, where):
        assert Model().learn(10, make_eval([1.0], verbose=0, **{where: Spy(False)})) == 2

    def test_no_after_eval_when_the_best_stopped_it(self):
        after = Spy()
        Model().learn(10, make_eval([1.0], callback_on_new_best=Spy(False), callback_after_eval=after))
        assert after.n_calls == 0

    def test_reward_threshold(self, capsys):
        stop = cb.StopTrainingOnRewardThreshold(3.0, verbose=1)
        callback = make_eval([1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 9.0], callback_on_new_best=stop)
        assert Model().learn(20, callback) == 6
        line = "Stopping training because the mean reward 3.50 is above the threshold 3.0"
        assert capsys.readouterr().out.splitlines()[-1] == line

    def test_no_improvement(self, capsys):
        # means 5, 4, 6, then 1 for ever; the first evaluation is not counted
        stop = cb.StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=1, verbose=1)
        callback = make_eval([5.0, 5.0, 4.0, 4.0, 6.0, 6.0, 1.0], callback_after_eval=cb.CallbackList([stop]))
        assert Model().learn(40, callback) == 12
        line = "Stopping training because there was no new best model in the last 3 evaluations"
        assert capsys.readouterr().out.splitlines()[-1] == line

    @pytest.mark.parametrize(
        "callback", [cb.StopTrainingOnRewardThreshold(1.0), cb.StopTrainingOnNoModelImprovement(1)]
    )
    def test_stop_callbacks_need_an_eval_callback(self, callback):
        with pytest.raises(AssertionError, match="must be used with an ``EvalCallback``"):
            Model().learn(1, callback)

    def test_normalization_is_synchronised(self):
        train = VecNormalize(DummyVecEnv([lambda: Monitor(ScriptedEnv())]))
        train.obs_rms.mean[:] = 4.0
        evaluation = VecNormalize(DummyVecEnv([lambda: Monitor(ScriptedEnv())]), training=False)
        Model(train).learn(2, cb.EvalCallback(evaluation, eval_freq=2, verbose=0))
        assert evaluation.obs_rms.mean.tolist() == [4.0]

    def test_a_native_environment_is_of_the_type_of_a_dummy_vec_env(self):
        """SB3 makes a DummyVecEnv of an id string and of an environment: no warning there, none here."""
        native = NativeVecEnv("CartPole-v1")
        dummy = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))])
        for training, evaluation in [(native, dummy), (dummy, native)]:
            cb.EvalCallback(evaluation).init_callback(Model(training))
        with pytest.warns(UserWarning, match="not of the same type"):
            cb.EvalCallback(native).init_callback(Model(VecNormalize(dummy)))

    def test_unlike_wrappers_warn_and_fail_with_the_reason(self):
        train = VecNormalize(DummyVecEnv([lambda: Monitor(ScriptedEnv())]))
        callback = cb.EvalCallback(Monitor(ScriptedEnv()), eval_freq=1)
        with (
            pytest.warns(UserWarning, match="not of the same type"),
            pytest.raises(AssertionError, match="wrapped the same way"),
        ):
            Model(train).learn(1, callback)


class TestMaxEpisodes:
    def test_counts_over_all_envs(self, capsys):
        env = DummyVecEnv([lambda: Monitor(ScriptedEnv())] * 2)
        stop = cb.StopTrainingOnMaxEpisodes(3, verbose=1)
        # one of the two ends at every step: 6 episodes after 6 calls
        assert Model(env).learn(100, stop, dones=np.array([True, False])) == 12
        assert stop.n_episodes == 6
        assert capsys.readouterr().out == (
            "Stopping training with a total of 12 steps because the Fake model reached max_episodes=3, "
            "by playing for 6 episodes with an average of 3.00 episodes per env\n"
        )

    def test_needs_dones(self):
        with pytest.raises(AssertionError, match="`dones` variable is not defined"):
            Model().learn(1, cb.StopTrainingOnMaxEpisodes(3))


class TestProgressBar:
    def test_counts_steps_of_all_envs(self, capsys):
        model = Model(DummyVecEnv([lambda: Monitor(ScriptedEnv())] * 2))
        model.num_timesteps = 100
        callback = cb.ProgressBarCallback()
        model.learn(10, callback)
        assert (callback.pbar.total, callback.pbar.n) == (10, 10)
        assert callback.pbar.disable

    @pytest.mark.parametrize("package", ["tqdm.rich", "tqdm"])
    def test_missing_package_is_named(self, monkeypatch, package):
        monkeypatch.delitem(sys.modules, "tqdm.rich", raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=r"tqdm and rich.*mlx-baselines3\[extra\]"):
            cb.ProgressBarCallback()


def test_who_sees_every_step_is_asked_anew_each_time():
    class Promising(cb.BaseCallback):
        def _on_step(self):
            return True

        def _steps_until_needed(self):
            return 7

    class Inheriting(Promising):
        pass

    @dataclass
    class Function:
        """It cannot be hashed."""

        def __call__(self):
            return True

    callback = Inheriting()
    assert steps_until_needed(callback) == 7
    for owner in (callback, Inheriting):
        owner._on_step = Function()
        assert steps_until_needed(callback) == 1
        del owner._on_step
        assert steps_until_needed(callback) == 7
    callback._on_step = Function()
    callback._steps_until_needed = lambda: 3
    assert steps_until_needed(callback) == 3
