"""Candidates evaluated in Rust, all at once, are those evaluated one after the other, bit for bit."""

from typing import Any

import numpy as np
import pytest

from mlx_baselines3 import _native
from mlx_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from mlx_baselines3.common.native.candidates import play_candidates
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.vec_env import NativeVecEnv
from mlx_baselines3.contrib import ARS


class Counts(BaseCallback):
    """Is called where it has to be, and remembers when that was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def _on_step(self) -> bool:
        self.seen.append(self.model.num_timesteps)
        return True


def trained(
    monkeypatch: pytest.MonkeyPatch, native: bool, env_id: str, steps: int = 3000, **kwargs: Any
) -> Any:
    limit = kwargs.pop("limit", 60)
    policy, callback = kwargs.pop("policy", "LinearPolicy"), kwargs.pop("callback", None)
    params = kwargs.pop("params", {})
    env = NativeVecEnv(env_id, 1, env_kwargs={"max_episode_steps": limit})
    for name, value in params.items():
        env.set_attr(name, value)
    with monkeypatch.context() as patch:
        if not native:
            patch.setattr(ARS, "_evaluate_natively", lambda *_: None)
        else:
            patch.setattr(ARS, "_evaluate_one_by_one", lambda *_: pytest.fail("one by one"))
        model = ARS(policy, env, seed=4, n_delta=3, **kwargs)
        model.learn(steps, callback)
    return {
        "weights": model.weights,
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "episodes": [(one["r"], one["l"]) for one in model.ep_info_buffer or ()],
        "env": str(env.get_state()["envs"]),
    }


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.pop("weights"), other.pop("weights"))
    assert one == other


CASES: dict[str, dict[str, Any]] = {
    "choices": {"env_id": "CartPole-v1"},
    "choices of an MLP": {"env_id": "CartPole-v1", "policy": "MlpPolicy", "zero_policy": False},
    "clipped": {"env_id": "Pendulum-v1", "delta_std": 2.0, "n_eval_episodes": 2},
    "squashed": {"env_id": "Pendulum-v1", "policy": "MlpPolicy", "delta_std": 0.5},
    "with biases": {"env_id": "MountainCarContinuous-v0", "policy_kwargs": {"with_bias": True}},
    "an offset": {"env_id": "CartPole-v1", "alive_bonus_offset": -1.0, "n_top": 2, "n_eval_episodes": 3},
    "three choices": {"env_id": "Acrobot-v1"},
    # Its steps draw from the generator, too.
    "noisy steps": {"env_id": "Acrobot-v1", "params": {"torque_noise_max": 0.5}},
}


@pytest.mark.parametrize("case", CASES)
def test_all_at_once_is_one_after_the_other(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(trained(monkeypatch, True, **CASES[case]), trained(monkeypatch, False, **CASES[case]))


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (1, 2, 5):
        _native.set_threads(threads)
        try:
            found.append(trained(monkeypatch, True, "CartPole-v1", limit=500))
        finally:
            _native.set_threads(None)
    assert_same(dict(found[0]), dict(found[1]))
    assert_same(found[0], found[2])


def test_a_callback_that_waits_for_steps_is_called_at_the_same_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    for native in (True, False):
        counts = Counts()
        trained(monkeypatch, native, "CartPole-v1", callback=EveryNTimesteps(37, counts))
        seen.append(counts.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 50


def test_a_callback_that_sees_each_step_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counts()
    model = ARS("LinearPolicy", "CartPole-v1", n_delta=2, verbose=1)
    model.learn(200, counts)
    assert counts.seen == list(range(1, model.num_timesteps + 1))
    assert "Python takes each step, because a callback sees it." in capsys.readouterr().out


def test_what_is_not_native_says_so() -> None:
    model = ARS("LinearPolicy", NativeVecEnv("CartPole-v1", 2))
    with pytest.raises(NotNative, match="there are several environments"):
        play_candidates(model.policy, model.env, np.zeros((2, 8), np.float32), 1)
    env = NativeVecEnv("CartPole-v1", 1)
    with pytest.raises(ValueError, match="parameters of a policy: got 7"):
        play_candidates(model.policy, env, np.zeros((2, 7), np.float32), 1)
    with pytest.raises(ValueError, match="episodes: got 0"):
        play_candidates(model.policy, env, np.zeros((2, 8), np.float32), 0)
    with pytest.raises(ValueError, match="not a finite number"):
        play_candidates(model.policy, env, np.full((2, 8), np.nan, np.float32), 1)
