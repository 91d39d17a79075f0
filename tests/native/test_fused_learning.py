"""Whole iterations of learn() in Rust are single steps and updates in Python, bit for bit."""

import signal
import tempfile
import threading
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_baselines3 import DDPG, DQN, SAC, TD3
from mlx_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from mlx_baselines3.common.layers import Flatten, Linear, Sequential
from mlx_baselines3.common.native.exploration import NativeCollector
from mlx_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor
from mlx_baselines3.common.training.native_off_policy import NativeActorCriticUpdate
from mlx_baselines3.common.vec_env import NativeVecEnv
from mlx_baselines3.contrib import QRDQN, TQC
from support.fused import TIMES, Seen, assert_same, heard_signals, logs, written

__all__ = ["heard_signals"]


class Chunks:
    """Counts the steps of the calls that take whole iterations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lengths: list[int] = []
        original = NativeCollector.learn

        def learn(collector: Any, *args: Any) -> Any:
            done = original(collector, *args)
            self.lengths.append(done.n_steps)
            return done

        monkeypatch.setattr(NativeCollector, "learn", learn)


def make(**kwargs: Any) -> Any:
    n_envs, limit = kwargs.pop("n_envs", 1), kwargs.pop("limit", None)
    env_kwargs = {} if limit is None else {"max_episode_steps": limit}
    env = NativeVecEnv(kwargs.pop("env_id", "CartPole-v1"), n_envs, env_kwargs=env_kwargs)
    algorithm = kwargs.pop("algorithm", DQN)
    if kwargs.get("action_noise") is not None:
        kwargs["action_noise"] = kwargs["action_noise"]()
    defaults = {"learning_starts": 20, "batch_size": 8, "buffer_size": 90, "device": "cpu", "seed": 5}
    small = {"net_arch": [16], **({"n_quantiles": 7} if algorithm is QRDQN else {})}
    kwargs["policy_kwargs"] = {**kwargs.get("policy_kwargs", small)}
    return algorithm("MlpPolicy", env, **{**defaults, **kwargs})


def outcome(model: Any) -> dict[str, Any]:
    """Everything that a run leaves behind."""
    buffer = model.replay_buffer
    optimizers = [model.policy.optimizer] if isinstance(model, DQN) else model._optimizers()
    columns = ("observations", "actions", "rewards", "dones", "timeouts")
    result = {name: np.array(getattr(buffer, name)) for name in columns}
    if buffer._terminal is None:
        result["next_observations"] = np.array(buffer.next_observations)
    else:
        kept = buffer._terminal.export()
        result |= {"transitions": kept["transitions"], "kept": kept["observations"]}
    result |= {name: np.array(array) for name, array in model.policy.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        result |= {f"{i}/{name}": np.array(array) for name, array in tree_flatten(optimizer.state)}
    counts = [buffer.pos, buffer.full, model.num_timesteps, model._episode_num, model._n_updates]
    result["counts"] = np.array([*counts, getattr(model, "_n_calls", 0)])
    rates = [model._current_progress_remaining, model.policy.training]
    result["rates"] = np.array([*rates, getattr(model, "exploration_rate", 0)])
    result["present"], result["before"] = np.array(model._last_obs), np.array(model._last_original_obs)
    result["episodes"] = np.array([(entry["r"], entry["l"]) for entry in model.ep_info_buffer])
    result["drawn"] = np.append(model.action_space.sample(), np.random.rand())  # noqa: NPY002
    result["mlx"] = np.array(mx.random.uniform(shape=(2,)))
    result["predicted"], _ = model.predict(model._last_obs, deterministic=True)
    return result


def run(
    fused: bool, steps: int, log_interval: int | None, every: int | None, log: str = "pages", **case: Any
) -> Any:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if not fused:
            patch.setattr(OffPolicyAlgorithm, "_iterate_natively", lambda *_: None)
        model, logger, seen = make(**case), logs(log, folder), Seen()
        model.set_logger(logger)
        callback = None if every is None else EveryNTimesteps(every, seen)
        for part, resets in ((steps // 3, True), (steps - steps // 3, False)):
            model.learn(part, callback, log_interval=log_interval, reset_num_timesteps=resets)
        recorded = [item for item in logger.name_to_value.items() if item[0] not in TIMES]
        return outcome(model), written(logger, folder), recorded, seen.seen


CASES = st.fixed_dictionaries(
    {
        "algorithm": st.sampled_from([DQN, QRDQN]),
        "train_freq": st.integers(1, 9),
        "gradient_steps": st.sampled_from([-1, 1, 1, 2, 5]),
        "n_envs": st.integers(1, 3),
        "buffer_size": st.integers(12, 200),
        "learning_starts": st.integers(0, 60),
        "batch_size": st.integers(1, 20),
        "n_steps": st.sampled_from([1, 1, 2, 3, 7, 8]),
        "target_update_interval": st.integers(3, 40),
        "tau": st.sampled_from([1.0, 0.3, 0.005]),
        "exploration_fraction": st.sampled_from([0.1, 0.7, 1.0]),
        "exploration_final_eps": st.sampled_from([0.0, 0.05, 1.0]),
        "optimize_memory_usage": st.booleans(),
        "limit": st.sampled_from([None, 1, 7, 30]),
        "learning_rate": st.sampled_from([1e-3, lambda progress: 1e-3 * progress]),
        "env_id": st.sampled_from(["CartPole-v1", "MountainCar-v0", "Acrobot-v1"]),
        "max_grad_norm": st.sampled_from([10.0, 0.1, None]),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    case=CASES,
    steps=st.integers(60, 400),
    log_interval=st.sampled_from([None, 1, 3, 50]),
    every=st.sampled_from([None, None, 13, 50, 1000]),
    log=st.sampled_from(["pages", "file"]),
)
def test_iterations_in_rust_are_single_steps(
    case: dict[str, Any], steps: int, log_interval: int | None, every: int | None, log: str
) -> None:
    arguments = (steps, log_interval, every, log)
    assert_same(run(True, *arguments, **case), run(False, *arguments, **case))


def normal() -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), np.full(1, 0.3))


def walk() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.5), dt=0.1)


class Layered(BaseFeaturesExtractor):
    """An extractor of a user's own."""

    def __init__(self, space: Any, features_dim: int = 5):
        super().__init__(space, features_dim)
        self.net = Sequential(Flatten(), Linear(space.shape[0], features_dim), nn.Tanh())

    def forward(self, observations: mx.array) -> mx.array:
        return self.net(observations)


CONTINUOUS = st.fixed_dictionaries(
    {
        "policy_kwargs": st.sampled_from(
            [
                {"net_arch": [16]},
                {"net_arch": [16]},
                {"net_arch": [12], "features_extractor_class": Layered},
                {
                    "net_arch": [12],
                    "features_extractor_class": Layered,
                    "share_features_extractor": True,
                },
            ]
        ),
        "algorithm": st.sampled_from([SAC, TQC, TD3, DDPG]),
        "train_freq": st.integers(1, 6),
        "gradient_steps": st.sampled_from([-1, 1, 1, 3]),
        "n_envs": st.integers(1, 3),
        "buffer_size": st.integers(12, 120),
        "learning_starts": st.integers(0, 40),
        "batch_size": st.integers(1, 20),
        "n_steps": st.sampled_from([1, 1, 3, 9]),
        "action_noise": st.sampled_from([None, normal, walk]),
        "limit": st.sampled_from([7, 30]),
        "learning_rate": st.sampled_from([1e-3, lambda progress: 1e-3 * progress]),
        "env_id": st.sampled_from(["Pendulum-v1", "MountainCarContinuous-v0"]),
    }
)


@settings(max_examples=30, deadline=None)
@given(
    case=CONTINUOUS,
    steps=st.integers(60, 160),
    log_interval=st.sampled_from([None, 1, 3]),
    every=st.sampled_from([None, None, 13, 50]),
    fixed=st.booleans(),
    noise=st.sampled_from(
        [{}, {"use_sde": True}, {"use_sde": True, "sde_sample_freq": 2, "use_sde_at_warmup": True}]
    ),
)
def test_iterations_of_actors_and_critics_are_single_steps(
    case: dict[str, Any],
    steps: int,
    log_interval: int | None,
    every: int | None,
    fixed: bool,
    noise: dict[str, Any],
) -> None:
    if case["algorithm"] is SAC:
        case = {**case, **noise}
    if fixed and case["algorithm"] in (SAC, TQC):
        case = {**case, "ent_coef": 0.2, "target_update_interval": 2}
    arguments = (steps, log_interval, every, "file")
    assert_same(run(True, *arguments, **case), run(False, *arguments, **case))


def test_most_iterations_are_taken_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch)
    make(train_freq=2).learn(1020, log_interval=None)
    # The steps before learning starts are Python's to give.
    assert sum(chunks.lengths) == 1000
    assert len(chunks.lengths) < 6


def test_updates_of_actors_and_critics_stay_in_rust(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"advance": 0, "store": 0}
    for name in calls:
        original = getattr(NativeActorCriticUpdate, name)

        def counted(update: Any, *args: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(update, *args)

        monkeypatch.setattr(NativeActorCriticUpdate, name, counted)
    make(algorithm=SAC, env_id="Pendulum-v1").learn(120, log_interval=None)
    assert calls == {"advance": 100, "store": 1}


@pytest.mark.parametrize("gradient_steps", [1, 3])
@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [(DQN, "CartPole-v1"), (QRDQN, "CartPole-v1"), (SAC, "Pendulum-v1"), (TD3, "Pendulum-v1")],
)
def test_an_update_that_fails_leaves_those_before_it(
    algorithm: Any, env_id: str, gradient_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fused: bool) -> Any:
        with monkeypatch.context() as patch:
            if not fused:
                patch.setattr(OffPolicyAlgorithm, "_iterate_natively", lambda *_: None)
            # The rate is finite until the last third of the training, and gives infinite parameters then.
            rate = lambda progress: 1e-3 if progress > 0.4 else 3e38  # noqa: E731
            model = make(
                algorithm=algorithm, env_id=env_id, gradient_steps=gradient_steps, learning_rate=rate
            )
            with pytest.raises(FloatingPointError) as error:
                model.learn(100)
            return outcome(model), str(error.value), list(model.logger.name_to_value)

    assert_same(failing(True), failing(False))


def test_what_a_callback_does_to_the_weights_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resets(BaseCallback):
        def _on_step(self) -> bool:
            layer = self.model.policy.q_net.q_net[0]  # type: ignore[attr-defined]
            layer.bias = mx.zeros_like(layer.bias)
            return True

    def trained(fused: bool) -> Any:
        with monkeypatch.context() as patch:
            if not fused:
                patch.setattr(OffPolicyAlgorithm, "_iterate_natively", lambda *_: None)
            model = make()
            model.learn(150, EveryNTimesteps(31, Resets()))
            return (outcome(model),)

    assert_same(trained(True), trained(False))


@pytest.mark.usefixtures("heard_signals")
def test_ctrl_c_ends_a_call_and_all_before_it_counts() -> None:
    model = make(buffer_size=1_000_000, learning_starts=0)
    timer = threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.learn(10**9, log_interval=None)
    assert 0 < model.num_timesteps == model.replay_buffer.pos
    assert model._n_updates in {model.num_timesteps // 4, model.num_timesteps // 4 - 1}
    model.learn(100, reset_num_timesteps=False)
    assert all(np.isfinite(np.array(array)).all() for array in model.policy.state_dict().values())


class OwnTrain(DQN):
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        super().train(gradient_steps, batch_size)


class EachStep(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("case", "callback", "why"),
    [
        ({"algorithm": OwnTrain}, None, "OwnTrain has its own train"),
        ({"train_freq": (1, "episode")}, None, "train_freq counts episodes"),
        ({"algorithm": SAC, "env_id": "Pendulum-v1"}, EachStep, "the callback is called at every step"),
    ],
)
def test_a_line_says_why_iterations_are_python_s(
    case: dict[str, Any], callback: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make(verbose=1, **case)
    for _ in range(2):
        model.learn(60, None if callback is None else callback())
    assert (
        capsys.readouterr().out.count(f"Python goes through each iteration of learn(), because {why}.") == 1
    )


@pytest.mark.parametrize(("algorithm", "env_id"), [(DQN, "CartPole-v1"), (TD3, "Pendulum-v1")])
def test_nothing_is_said_of_iterations_in_rust(
    algorithm: Any, env_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(algorithm=algorithm, env_id=env_id, verbose=1).learn(60)
    assert "because" not in capsys.readouterr().out
