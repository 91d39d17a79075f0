"""GAE against Stable-Baselines3's own answers and against its float32 NumPy arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_baselines3 import _native

UPDATES = Path(__file__).parents[1] / "data" / "updates"
MANIFEST = json.loads((UPDATES.parent / "MANIFEST.json").read_text())
ON_POLICY = sorted(path.name for path in UPDATES.glob("*.npz") if path.name.startswith(("a2c", "ppo")))


def run(rewards, values, starts, last_values, dones, gamma, gae_lambda):
    advantages, returns = np.full_like(rewards, 9), np.full_like(rewards, 9)
    compute((rewards, values, starts, last_values, dones), advantages, returns, gamma, gae_lambda)
    return advantages, returns


def compute(rollout, advantages, returns, gamma=0.9, gae_lambda=0.9):
    names = ("rewards", "values", "episode_starts", "last_values", "dones")
    arrays = dict(zip(names, rollout, strict=True), advantages=advantages, returns=returns)
    _native.gae(**arrays, gamma=gamma, gae_lambda=gae_lambda)


@pytest.mark.parametrize("case", ON_POLICY)
def test_matches_sb3(case):
    data = np.load(UPDATES / case)
    rollout = {key: data[f"rollout/{key}"] for key in ("rewards", "values", "episode_starts", "last_dones")}
    arguments = MANIFEST["updates"][case.removesuffix(".npz")]["kwargs"]
    gamma = float(arguments.get("gamma", 0.99))
    gae_lambda = float(arguments.get("gae_lambda", 1.0 if case.startswith("a2c") else 0.95))
    advantages, returns = run(
        rollout["rewards"],
        rollout["values"],
        rollout["episode_starts"],
        data["rollout/last_values"].reshape(-1),
        rollout["last_dones"],
        gamma,
        gae_lambda,
    )
    np.testing.assert_allclose(advantages, data["expect/advantages"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(returns, data["expect/returns"], rtol=0, atol=1e-5)


def test_every_case_is_there():
    assert len(ON_POLICY) == 15


def test_rounds_as_float32_numpy_does():
    """One operation at a time in NumPy float32, on one environment after the other."""
    rng = np.random.default_rng(3)
    steps, envs, gamma, lam = 37, 5, 0.993, 0.87
    rewards, values = rng.normal(size=(2, steps, envs)).astype(np.float32)
    starts = (rng.random((steps, envs)) < 0.2).astype(np.float32)
    last_values, dones = rng.normal(size=envs).astype(np.float32), np.array([0, 1, 0, 1, 0], np.float32)
    advantages, returns = run(rewards, values, starts, last_values, dones, gamma, lam)
    one, g, gl = np.float32(1), np.float32(gamma), np.float32(gamma * lam)
    for env in range(envs):
        after, later, ended = last_values[env], np.float32(0), dones[env]
        for step in reversed(range(steps)):
            mask = one - ended
            delta = rewards[step, env] + g * after * mask - values[step, env]
            later = delta + gl * mask * later
            assert advantages[step, env] == later
            assert returns[step, env] == later + values[step, env]
            after, ended = values[step, env], starts[step, env]


def test_lengths_that_do_not_fit_are_named_and_write_nothing():
    column, pair = np.zeros((3, 2), np.float32), np.zeros(2, np.float32)
    advantages, returns = np.full((3, 2), 7, np.float32), np.full((3, 2), 7, np.float32)
    with pytest.raises(ValueError, match="dones has 1 elements, expected 2"):
        compute((column, column, column, pair, pair[:1]), advantages, returns)
    with pytest.raises(ValueError, match="values has 4 elements, expected 6"):
        compute((column, column[:2], column, pair, pair), advantages, returns)
    with pytest.raises(ValueError, match="n_envs is 0"):
        compute((column, column, column, pair[:0], pair[:0]), advantages, returns)
    assert (advantages == 7).all()
    assert (returns == 7).all()
