"""Whole iterations of PPO and A2C in Rust are rollouts and updates one by one, bit for bit."""

import signal
import tempfile
import threading
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_baselines3 import A2C, PPO, _native
from mlx_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EveryNTimesteps
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from mlx_baselines3.common.vec_env import NativeVecEnv, VecNormalize
from support.fused import TIMES, Pages, Seen, assert_same, heard_signals, logs, written

__all__ = ["heard_signals"]

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")

_COLUMNS = (
    "observations",
    "actions",
    "rewards",
    "episode_starts",
    "values",
    "log_probs",
    "advantages",
    "returns",
)


class Chunks:
    """Counts the rollouts and the updates of the calls that take whole iterations."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.counts: list[tuple[int, int]] = []
        original = NativeActor.learn

        def learn(actor: Any, *args: Any) -> Any:
            done = original(actor, *args)
            self.counts.append((done.n_rollouts, done.n_updates))
            return done

        patch.setattr(NativeActor, "learn", learn)

    @property
    def rollouts(self) -> int:
        return sum(rollouts for rollouts, _ in self.counts)


def make(algorithm: Any = A2C, **kwargs: Any) -> Any:
    n_envs, limit = kwargs.pop("n_envs", 2), kwargs.pop("limit", None)
    env_kwargs = {} if limit is None else {"max_episode_steps": limit}
    env = NativeVecEnv(kwargs.pop("env_id", "CartPole-v1"), n_envs, env_kwargs=env_kwargs)
    kwargs.setdefault("policy_kwargs", {"net_arch": [16]})
    return algorithm("MlpPolicy", env, **{"device": "cpu", "seed": 5, **kwargs})


def outcome(model: Any) -> dict[str, Any]:
    """Everything that a run leaves behind."""
    buffer = model.rollout_buffer
    result = {name: np.array(getattr(buffer, name)) for name in _COLUMNS} if buffer.full else {}
    result |= {name: np.array(array) for name, array in model.policy.state_dict().items()}
    state = tree_flatten(model.policy.optimizer.state)
    result |= {f"optimizer/{name}": np.array(array) for name, array in state}
    counts = [buffer.pos, buffer.full, buffer.generator_ready, model.num_timesteps, model._n_updates]
    result["counts"] = np.array(counts)
    result["rates"] = np.array([model._current_progress_remaining, model.policy.training])
    result["present"], result["starts"] = np.array(model._last_obs), np.array(model._last_episode_starts)
    result["episodes"] = np.array([(entry["r"], entry["l"]) for entry in model.ep_info_buffer])
    result["drawn"] = np.append(model.action_space.sample(), np.random.rand())  # noqa: NPY002
    result["predicted"], _ = model.predict(model._last_obs)
    result["mlx"] = np.array(mx.random.uniform(shape=(2,)))
    return result


def by_iterations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OnPolicyAlgorithm, "_iterate_natively", lambda *_: 0)


def run(fused: bool, steps: int, log_interval: int | None, every: int | None, log: str, **case: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if not fused:
            by_iterations(patch)
        model, logger, seen = make(**case), logs(log, folder), Seen()
        model.set_logger(logger)
        callback = None if every is None else EveryNTimesteps(every, seen)
        for part, resets in ((steps // 3, True), (steps - steps // 3, False)):
            model.learn(part, callback, log_interval=log_interval, reset_num_timesteps=resets)
        recorded = [item for item in logger.name_to_value.items() if item[0] not in TIMES]
        return outcome(model), repr(written(logger, folder)), repr(recorded), seen.seen


def falling(progress: float) -> float:
    return 1e-3 * progress


COMMON = {
    "n_envs": st.integers(1, 4),
    "env_id": st.sampled_from(["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0"]),
    "limit": st.sampled_from([None, 1, 7, 30]),
    "learning_rate": st.sampled_from([1e-3, falling]),
    "gamma": st.sampled_from([0.99, 0.5]),
    "gae_lambda": st.sampled_from([1.0, 0.9]),
    "ent_coef": st.sampled_from([0.0, 0.01]),
    "max_grad_norm": st.sampled_from([0.5, 10.0]),
    "policy_kwargs": st.sampled_from(
        [{"net_arch": [16]}, {"net_arch": {"pi": [8, 8], "vf": [24]}}, {"net_arch": []}]
    ),
}
CASES = st.one_of(
    st.fixed_dictionaries(
        {
            "algorithm": st.just(A2C),
            "n_steps": st.integers(1, 9),
            "use_rms_prop": st.booleans(),
            "normalize_advantage": st.booleans(),
            **COMMON,
        }
    ),
    st.fixed_dictionaries(
        {
            "algorithm": st.just(PPO),
            "n_steps": st.integers(2, 40),
            "batch_size": st.integers(2, 50),
            "n_epochs": st.integers(1, 4),
            "clip_range": st.sampled_from([0.2, lambda progress: 0.1 + 0.1 * progress]),
            "clip_range_vf": st.sampled_from([None, 0.2]),
            "target_kl": st.sampled_from([None, None, 1e-4, 1e-2]),
            "normalize_advantage": st.booleans(),
            "verbose": st.sampled_from([0, 1]),
            **COMMON,
        }
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    case=CASES,
    steps=st.integers(30, 400),
    log_interval=st.sampled_from([None, 1, 3, 50]),
    every=st.sampled_from([None, None, 13, 50, 1000]),
    log=st.sampled_from(["pages", "file"]),
)
def test_iterations_in_rust_are_rollouts_and_updates(
    case: dict[str, Any], steps: int, log_interval: int | None, every: int | None, log: str
) -> None:
    arguments = (steps, log_interval, every, log)
    assert_same(run(True, *arguments, **case), run(False, *arguments, **case))


def test_a_callback_is_called_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch)
    arguments = (600, 4, 100, "file")
    fused = run(True, *arguments, n_steps=5)
    assert [steps for steps, *_ in fused[3]] == [100, 200, 300, 400, 500, 600]
    assert chunks.rollouts > 40
    assert_same(fused, run(False, *arguments, n_steps=5))


def test_most_iterations_are_taken_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch)
    make(n_steps=5).learn(10_000, log_interval=None)
    assert chunks.rollouts == 1000
    assert len(chunks.counts) < 12


def test_log_entries_come_between_a_rollout_and_its_update(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch)
    make(n_steps=5).learn(100, log_interval=5)
    assert chunks.counts == [(1, 1), (3, 3), (1, 0), (4, 5), (1, 0), (0, 1)]


@pytest.mark.parametrize("algorithm", [A2C, PPO])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_an_update_that_fails_leaves_those_before_it(
    algorithm: Any, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fused: bool) -> Any:
        with monkeypatch.context() as patch:
            if not fused:
                by_iterations(patch)
            # The rate is finite until the last third of the training, and gives infinite parameters then.
            rate = lambda progress: 1e-3 if progress > 0.4 else 3e38  # noqa: E731
            model = make(algorithm, env_id=env_id, n_steps=8, learning_rate=rate)
            with pytest.raises(FloatingPointError) as error:
                model.learn(200, log_interval=100)
            return outcome(model), str(error.value), list(model.logger.name_to_value)

    assert_same(failing(True), failing(False))


@pytest.mark.parametrize("rate", [lambda progress: 1e-3 if progress > 0.5 else float("nan")])
def test_a_learning_rate_that_is_refused_ends_the_training_in_its_place(
    rate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fused: bool) -> Any:
        with monkeypatch.context() as patch:
            if not fused:
                by_iterations(patch)
            model = make(learning_rate=rate)
            with pytest.raises(ValueError, match="learning rate") as error:
                model.learn(200, log_interval=3)
            return outcome(model), str(error.value)

    assert_same(refused(True), refused(False))


def test_what_a_callback_does_to_the_weights_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resets(BaseCallback):
        def _on_step(self) -> bool:
            layer = self.model.policy.value_net  # type: ignore[attr-defined]
            layer.bias = mx.zeros_like(layer.bias)
            return True

    def trained(fused: bool) -> Any:
        with monkeypatch.context() as patch:
            if not fused:
                by_iterations(patch)
            model = make()
            model.learn(300, EveryNTimesteps(62, Resets()))
            return (outcome(model),)

    assert_same(trained(True), trained(False))


def test_a_loggers_own_dump_sees_and_changes_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meddles(Pages):
        model: Any = None

        def dump(self, step: int = 0) -> None:
            super().dump(step)
            self.written.append(np.array(self.model.policy.value_net.bias).tolist())
            self.model.ent_coef += 0.01
            self.model.rollout_buffer.rewards[...] = 0

    def trained(fused: bool) -> Any:
        with monkeypatch.context() as patch:
            if not fused:
                by_iterations(patch)
            model, logger = make(), Meddles()
            logger.model = model
            model.set_logger(logger)
            model.learn(200, log_interval=4)
            return outcome(model), repr(logger.written)

    assert_same(trained(True), trained(False))


def test_resumable_checkpoints_are_written_where_they_are_due(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(fused: bool) -> list[str]:
        with monkeypatch.context() as patch:
            if not fused:
                by_iterations(patch)
            folder = tmp_path / str(fused)
            make().learn(400, CheckpointCallback(37, str(folder), resumable=True))
            return sorted(path.name for path in folder.iterdir())

    assert saved(True) == saved(False)


class OwnTrain(A2C):
    def train(self) -> None:
        super().train()


class EndHook(BaseCallback):
    def _on_step(self) -> bool:
        return True

    def _steps_until_needed(self) -> int:
        return 1000

    def _on_rollout_end(self) -> None:
        pass


class EachStep(BaseCallback):
    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("change", "callback", "why"),
    [
        (lambda model: setattr(model, "_record_fit", lambda: None), None, "A2C has its own _record_fit"),
        (
            lambda model: setattr(model.rollout_buffer, "reset", model.rollout_buffer.reset),
            None,
            "the rollout buffer has its own reset",
        ),
        (lambda model: None, EndHook, "the callback has something to do at the ends of rollouts"),
        (lambda model: None, EachStep, "the callback is called at every step"),
    ],
)
def test_a_line_says_why_iterations_are_python_s(
    change: Any, callback: Any, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(monkeypatch)
    model = make(verbose=1)
    change(model)
    for _ in range(2):
        model.learn(100, None if callback is None else callback())
    assert (
        capsys.readouterr().out.count(f"Python goes through each iteration of learn(), because {why}.") == 1
    )
    assert not chunks.counts


def test_a_method_of_a_subclass_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch)
    make(OwnTrain).learn(100)
    assert not chunks.counts


def test_wrapped_environments_are_stepped_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch)
    A2C("MlpPolicy", VecNormalize(NativeVecEnv("CartPole-v1", 2)), device="cpu").learn(50)
    assert not chunks.counts


def test_other_permutations_are_python_s(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = []
    original = _native.learn_on_policy
    monkeypatch.setattr(
        _native, "learn_on_policy", lambda *args: chunks.append(original(*args)) or chunks[-1]
    )
    monkeypatch.setattr(np.random, "permutation", lambda count: np.arange(count))
    model = make()
    model.learn(100, log_interval=3)
    assert model.num_timesteps == 100
    assert model._n_updates == 10
    assert set(chunks) == {None}


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("kwargs", [{"algorithm": A2C}, {"algorithm": PPO, "n_steps": 64, "batch_size": 16}])
def test_ctrl_c_ends_a_call_and_all_before_it_counts(kwargs: dict[str, Any]) -> None:
    model = make(**kwargs)
    timer = threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.learn(10**9, log_interval=None)
    rows, epochs = model.n_steps * model.n_envs, getattr(model, "n_epochs", 1)
    rollouts = model.num_timesteps // rows
    assert rollouts > 0
    assert model._n_updates in {rollouts * epochs, (rollouts - 1) * epochs}
    model.learn(100, reset_num_timesteps=False)
    assert all(np.isfinite(np.array(array)).all() for array in model.policy.state_dict().values())


def test_a_run_goes_on_from_a_checkpoint_between_iterations_in_rust(tmp_path: Any) -> None:
    model = make(A2C, policy_kwargs={"net_arch": [16]})
    model.learn(400, CheckpointCallback(37, str(tmp_path), resumable=True))
    expected = outcome(model)
    path = min(tmp_path.iterdir(), key=lambda path: int(path.stem.split("_")[-2]))
    resumed = A2C.load_checkpoint(path)
    assert 0 < resumed.num_timesteps < 400
    resumed.learn(400 - resumed.num_timesteps, reset_num_timesteps=False)
    for name, value in outcome(resumed).items():
        assert np.array_equal(value, expected[name]), name
