"""Rollouts in Rust are the rollouts of single steps, bit for bit, and callbacks see what SB3 shows them."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3 import A2C, PPO
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
)
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv

COLUMNS = (
    "observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns",
)  # fmt: skip
N_ENVS = 3


class Watch(BaseCallback):
    """A user's callback: it keeps what it sees at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.seen.append({**self.locals, "num_timesteps": self.num_timesteps})
        return True


class CountChunks:
    """Counts the calls of the fused loop, and the steps of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lengths: list[int] = []
        original = NativeActor.collect

        def collect(actor: Any, envs: Any, bounds: Any, last: Any, columns: Any) -> Any:
            self.lengths.append(len(columns["rewards"]))
            return original(actor, envs, bounds, last, columns)

        monkeypatch.setattr(NativeActor, "collect", collect)


def make_model(
    env_id: str, native: bool = True, algorithm: Any = PPO, n_steps: int = 220, **kwargs: Any
) -> Any:
    env = NativeVecEnv(env_id, N_ENVS) if native else make_vec_env(env_id, N_ENVS, vec_env_cls=DummyVecEnv)
    if algorithm is PPO:
        kwargs = {"batch_size": N_ENVS * n_steps, "n_epochs": 2, **kwargs}
    return algorithm("MlpPolicy", env, n_steps=n_steps, seed=5, device="cpu", gae_lambda=0.9, **kwargs)


class IdlePPO(PPO):
    """Collects and does not learn."""

    def train(self) -> None:
        self._n_updates += 1


def make_idle_model(env_id: str, n_steps: int = 220, **kwargs: Any) -> Any:
    kwargs = {"batch_size": N_ENVS * n_steps, "gae_lambda": 0.9, **kwargs}
    return IdlePPO("MlpPolicy", NativeVecEnv(env_id, N_ENVS), n_steps=n_steps, seed=5, device="cpu", **kwargs)


def columns(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(getattr(model.rollout_buffer, name)) for name in COLUMNS}


def parameters(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in model.policy.state_dict().items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


@pytest.mark.parametrize(
    ("env_id", "algorithm"), [("CartPole-v1", PPO), ("Pendulum-v1", PPO), ("MountainCar-v0", A2C)]
)
def test_fused_stepwise_and_gymnasium_are_one(env_id: str, algorithm: Any) -> None:
    runs = {}
    for name, native, callback in (("fused", True, None), ("step", True, Watch()), ("gym", False, None)):
        model = make_model(env_id, native, algorithm)
        # Three rollouts: two updates in between, and an end that no one has learned from.
        model.learn(3 * 220 * N_ENVS, callback)
        episodes = [(episode["r"], episode["l"]) for episode in model.ep_info_buffer]
        runs[name] = (columns(model), parameters(model), episodes, model.num_timesteps, model._last_obs)
    assert np.ptp(runs["fused"][0]["actions"]) > 0
    assert runs["fused"][2] or env_id == "MountainCar-v0"
    for name in ("step", "gym"):
        for ours, theirs in zip(runs["fused"][:2], runs[name][:2], strict=True):
            assert_same(ours, theirs)
        assert runs["fused"][2:4] == runs[name][2:4]
        assert np.array_equal(runs["fused"][4], runs[name][4])


def test_values_and_log_probs_are_those_of_the_policy() -> None:
    model = make_idle_model("Pendulum-v1")
    model.policy.value_net.bias = mx.array([3.0])
    watch = Watch()
    _, callback = model._setup_learn(1, watch)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 220)
    buffer = model.rollout_buffer
    observations = to_mlx(buffer.observations.reshape(-1, 3))
    values, log_probs, _ = model.policy.evaluate_actions(observations, to_mlx(buffer.actions.reshape(-1, 1)))
    assert np.abs(buffer.values.ravel() - to_numpy(values).ravel()).max() < 1e-5
    assert np.abs(buffer.log_probs.ravel() - to_numpy(log_probs)).max() < 1e-5
    # Pendulum is cut at step 200: the value of what was seen last makes up for the rewards to come.
    rewards = np.stack([step["rewards"] for step in watch.seen])
    cut = watch.seen[199]["infos"]
    last = np.stack([info["terminal_observation"] for info in cut])
    bonus = 0.99 * to_numpy(model.policy.predict_values(to_mlx(last)))[:, 0]
    rewards[199] += bonus
    assert np.abs(bonus).min() > 1.0
    assert np.abs(buffer.rewards - rewards).max() < 1e-4
    advantage = buffer.rewards[-1] - buffer.values[-1]
    after = to_numpy(model.policy.predict_values(to_mlx(model._last_obs)))[:, 0]
    assert np.abs(buffer.advantages[-1] - advantage - 0.99 * after).max() < 1e-4


def test_a_users_callback_sees_every_step() -> None:
    model = make_idle_model("CartPole-v1", n_steps=40)
    watch = Watch()
    _, callback = model._setup_learn(1, watch)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 40)
    buffer = model.rollout_buffer
    assert [step["num_timesteps"] for step in watch.seen] == list(range(3, 123, 3))
    assert [step["n_steps"] for step in watch.seen] == list(range(40))
    for row, step in enumerate(watch.seen):
        assert step["self"] is model
        assert np.array_equal(step["actions"], buffer.actions[row, :, 0])
        assert np.array_equal(step["clipped_actions"], step["actions"])
        assert np.array_equal(np.array(step["obs_tensor"]), buffer.observations[row])
        assert np.array_equal(to_numpy(step["values"])[:, 0], buffer.values[row])
        assert np.abs(to_numpy(step["log_probs"]) - buffer.log_probs[row]).max() < 1e-6
        assert (step["rewards"].shape, len(step["infos"])) == ((N_ENVS,), N_ENVS)
        following = buffer.episode_starts[row + 1] if row < 39 else model._last_episode_starts
        assert np.array_equal(step["dones"], following.astype(bool))
        if row < 39:
            assert np.array_equal(step["new_obs"], buffer.observations[row + 1])


def test_chunks_are_as_long_as_callbacks_allow(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    class Own(EvalCallback):
        def _on_step(self) -> bool:
            return True

    checkpoint = CheckpointCallback(6, str(tmp_path))
    evaluation = NativeVecEnv("CartPole-v1", N_ENVS, seed=0)
    cases = [
        (None, [10, 10]),
        (ProgressBarCallback(), [10, 10]),
        (ConvertCallback(lambda _locals, _globals: True), [1] * 20),
        (checkpoint, [6, 4, 2, 6, 2]),
        (EvalCallback(evaluation, eval_freq=8, n_eval_episodes=3, verbose=0), [8, 2, 6, 4]),
        (EvalCallback(evaluation, eval_freq=0, verbose=0), [10, 10]),
        (Own(evaluation, eval_freq=8), [1] * 20),
        (EveryNTimesteps(13, ConvertCallback(None)), [5, 5, 5, 5]),
        ([EveryNTimesteps(21, ConvertCallback(None)), CheckpointCallback(100, str(tmp_path))], [7, 3, 4, 6]),
        (CallbackList([ConvertCallback(None), StopTrainingOnMaxEpisodes(1000)]), [1] * 20),
        (LogEveryNTimesteps(30), [10, 10]),
    ]
    for callback, expected in cases:
        count = CountChunks(monkeypatch)
        model = make_idle_model("CartPole-v1", n_steps=10)
        model.learn(60, callback)
        assert count.lengths == expected, callback
        assert model.num_timesteps == 60
        if isinstance(callback, BaseCallback):
            assert (callback.n_calls, callback.num_timesteps) == (20, 60)
        monkeypatch.undo()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["rl_model_18_steps.zip", "rl_model_36_steps.zip", "rl_model_54_steps.zip"]


def test_a_callback_stops_the_rollout() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 7

    for callback in (Stop(), EveryNTimesteps(21, ConvertCallback(lambda _locals, _globals: False))):
        model = make_idle_model("CartPole-v1", n_steps=40)
        model.learn(1000, callback)
        # As in SB3: the step at which it was stopped counts, but is not stored.
        assert model.num_timesteps == 7 * N_ENVS
        assert not model.rollout_buffer.full
        model.learn(40 * N_ENVS)
        assert model.rollout_buffer.full


def test_a_callback_may_change_the_policy_between_steps() -> None:
    class Silence(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 5:
                self.model.policy.action_net.bias = mx.array([100.0, -100.0])
            return True

    model = make_idle_model("CartPole-v1", n_steps=40)
    _, callback = model._setup_learn(1, Silence())
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 40)
    assert model.rollout_buffer.actions[:5].any()
    assert not model.rollout_buffer.actions[5:].any()


def bolder(policy: Any) -> None:
    policy.log_std += 0.5


def shifted(policy: Any) -> None:
    policy.action_net.bias -= 1


def dearer(policy: Any) -> None:
    policy.value_net.bias = policy.value_net.bias + 3


def other_hidden_layer(policy: Any) -> None:
    policy.mlp_extractor.value_net["0"] = nn.Linear(3, 64)


def other_activation(policy: Any) -> None:
    policy.mlp_extractor.policy_net["1"] = nn.ReLU()


def other_parameters(policy: Any) -> None:
    policy.load_state_dict({name: array * 1.5 for name, array in policy.state_dict().items()})


@pytest.mark.parametrize(
    ("change", "kwargs"),
    [
        (bolder, {}),
        (bolder, {"use_sde": True}),
        (shifted, {}),
        (dearer, {}),
        (other_hidden_layer, {}),
        (other_activation, {}),
        (other_parameters, {"policy_kwargs": {"share_features_extractor": False}}),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_each_step_has_the_values_of_the_policy_that_took_it(change: Any, kwargs: Any, native: bool) -> None:
    estimates, ends = [], []

    class Change(BaseCallback):
        def _on_step(self) -> bool:
            policy = self.model.policy
            seen, actions = to_mlx(self.model._last_obs), to_mlx(self.locals["actions"])
            values, log_probs, _ = policy.evaluate_actions(seen, actions)
            estimates.append((to_numpy(values)[:, 0], to_numpy(log_probs)))
            if self.n_calls == 200:
                last = np.stack([info["terminal_observation"] for info in self.locals["infos"]])
                ends.append(
                    self.locals["rewards"] + 0.99 * to_numpy(policy.predict_values(to_mlx(last)))[:, 0]
                )
            if self.n_calls in (3, 210):
                change(policy)
            return True

    model = make_model("Pendulum-v1", native, **kwargs)
    _, callback = model._setup_learn(1, Change())
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 220)
    buffer = model.rollout_buffer
    values, log_probs = map(np.stack, zip(*estimates, strict=True))
    np.testing.assert_allclose(buffer.values, values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(buffer.log_probs, log_probs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(buffer.rewards[199], ends[0], rtol=1e-4, atol=1e-4)
    after = to_numpy(model.policy.predict_values(to_mlx(model._last_obs)))[:, 0]
    last_advantage = buffer.rewards[-1] + 0.99 * after - buffer.values[-1]
    np.testing.assert_allclose(buffer.advantages[-1], last_advantage, rtol=1e-4, atol=1e-4)


def test_it_says_once_why_mlx_infers(capsys: pytest.CaptureFixture[str]) -> None:
    class Own(RolloutBuffer):
        pass

    for kwargs, reason in (
        ({"rollout_buffer_class": Own}, "the rollout buffer is a Own"),
        ({"policy_kwargs": {"activation_fn": nn.Softplus}}, "there is no native Softplus layer"),
    ):
        model = make_idle_model("Pendulum-v1", n_steps=10, verbose=1, **kwargs)
        model.learn(60)
        assert capsys.readouterr().out.count(f"because {reason}.\n") == 1
    PPO("MlpPolicy", NativeVecEnv("Pendulum-v1"), n_steps=10, batch_size=10, device="cpu", verbose=1).learn(
        20
    )
    assert "because" not in capsys.readouterr().out


def test_it_says_once_why_python_takes_the_steps(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    squashed = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    for env, kwargs, reason in (
        (VecNormalize(NativeVecEnv("Pendulum-v1")), {}, "the environments are wrapped in VecNormalize"),
        (NativeVecEnv("Pendulum-v1", monitor_dir=str(tmp_path)), {}, "the environments write monitor files"),
        (NativeVecEnv("Pendulum-v1"), squashed, "the policy squashes its actions"),
        (make_vec_env("Pendulum-v1", vec_env_cls=DummyVecEnv), squashed, None),
    ):
        model = IdlePPO("MlpPolicy", env, n_steps=10, batch_size=10, device="cpu", verbose=1, **kwargs)
        capsys.readouterr()
        model.learn(20).learn(20)
        out = capsys.readouterr().out
        assert out.count("because") == (reason is not None)
        assert f"Python takes each step of the rollouts, because {reason}.\n" in out or reason is None


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_policy_gone_wrong_is_named_and_can_be_mended(env_id: str) -> None:
    model = make_idle_model(env_id, n_steps=10)
    good = model.policy.action_net.bias
    model.policy.action_net.bias = mx.full(good.shape, float("nan"))
    with pytest.raises(ValueError, match=r"finite number"):
        model.learn(60)
    model.policy.action_net.bias = good
    model.learn(60)
    assert np.isfinite(columns(model)["advantages"]).all()


def test_closed_environments_are_refused() -> None:
    model = make_idle_model("CartPole-v1", n_steps=10)
    model._setup_learn(1)
    model.env.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.learn(60, reset_num_timesteps=False)


def test_monitor_files_are_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    count = CountChunks(monkeypatch)
    env = NativeVecEnv("CartPole-v1", 2, monitor_dir=str(tmp_path))
    model = IdlePPO("MlpPolicy", env, n_steps=100, batch_size=200, seed=0, device="cpu").learn(200)
    lines = sum(len(path.read_text().splitlines()) - 2 for path in tmp_path.iterdir())
    assert lines == len(model.ep_info_buffer) > 2
    assert count.lengths == []
