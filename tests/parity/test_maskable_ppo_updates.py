"""MaskablePPO collects and learns as sb3-contrib's does: rollouts, networks, steps and logged values."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.contrib import MaskablePPO
from support.contrib_rollouts import cases_of, model_of, playback, update_case
from support.golden import assert_log_equal, assert_parameters_equal

CASES = cases_of("MaskablePPO")
CLOSE = {"rtol": 2e-6, "atol": 2e-6}


def rows_of(case, name):
    """A column of the rollout, environment after environment."""
    parts = {key: value for key, value in case.group("rollout").items() if key.partition("/")[0] == name}
    flat = {key.partition("/")[2]: np.concatenate(np.swapaxes(value, 0, 1)) for key, value in parts.items()}
    return flat.get("", flat)


def fill(model, case, use_masks=True):
    """Put the recorded rollout into the model's buffer."""
    rollout, buffer = case.group("rollout"), model.rollout_buffer
    for step in range(model.n_steps):
        observation = (
            rollout["observations"][step]
            if "observations" in rollout
            else {key: rollout[f"observations/{key}"][step] for key in model.observation_space.spaces}
        )
        columns = ("actions", "rewards", "episode_starts", "values", "log_probs")
        masks = rollout["action_masks"][step] if use_masks else None
        buffer.add(observation, *(rollout[name][step] for name in columns), action_masks=masks)
    buffer.compute_returns_and_advantage(rollout["last_values"], rollout["last_dones"])


def shuffle_as_recorded(monkeypatch, case):
    orders = iter(case.group_of("permutation"))
    monkeypatch.setattr(np.random, "permutation", lambda n: next(orders))


@pytest.mark.parametrize("name", CASES)
def test_update_equals_contribs(name, updates, monkeypatch):
    case, model = update_case(name), model_of(name, MaskablePPO)
    model.set_logger(Logger(None, []))
    fill(model, case)
    expected = case.group("expect")
    np.testing.assert_allclose(model.rollout_buffer.advantages, expected["advantages"], atol=1e-5)
    np.testing.assert_allclose(model.rollout_buffer.returns, expected["returns"], atol=1e-5)
    shuffle_as_recorded(monkeypatch, case)
    model.train()
    assert (model._updater.compiled is not None) == (updates == "mlx")
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))


def test_an_update_without_masks_is_another(updates, monkeypatch):
    case, model = update_case("maskable_discrete"), model_of("maskable_discrete", MaskablePPO)
    model.set_logger(Logger(None, []))
    fill(model, case, use_masks=False)
    shuffle_as_recorded(monkeypatch, case)
    model.train()
    after = case.group("after")["action_net.weight"]
    assert np.abs(np.array(model.policy.state_dict()["action_net.weight"]) - after).max() > 1e-4


@pytest.mark.parametrize("suffix", ["", "_unmasked"])
@pytest.mark.parametrize("name", CASES)
def test_policy_says_what_contribs_said(name, suffix):
    case, model = update_case(name), model_of(name, MaskablePPO)
    observations, actions, masks = (
        rows_of(case, column) for column in ("observations", "actions", "action_masks")
    )
    masks = masks if suffix == "" else None
    said = {name: np.concatenate(np.swapaxes(rows, 0, 1)) for name, rows in case.group("policy").items()}
    tensor, _ = model.policy.obs_to_tensor(observations)
    values, log_prob, entropy = model.policy.evaluate_actions(tensor, mx.array(actions), action_masks=masks)
    np.testing.assert_allclose(np.array(values)[:, 0], said["values"], **CLOSE)
    np.testing.assert_allclose(log_prob, said[f"eval_log_probs{suffix}"], **CLOSE)
    np.testing.assert_allclose(entropy, said[f"entropies{suffix}"], **CLOSE)
    best, _ = model.predict(observations, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(best.reshape(len(best), -1), said[f"deterministic_actions{suffix}"])


@pytest.mark.parametrize("who", ["native", "mlx"])
@pytest.mark.parametrize("name", CASES)
def test_rollout_equals_contribs(name, who, monkeypatch):
    """The same environments, masks and actions give the same buffer."""
    case, env = update_case(name), playback(name)
    model = model_of(name, MaskablePPO, env)
    rollout, said = case.group("rollout"), case.group("policy")
    taken = iter(rollout["actions"])
    if who == "native":
        monkeypatch.setattr(NativeActor, "act", lambda self, obs, masks: next(taken))
    else:
        model._native_actor = lambda buffer: None
    # Of the native ones, Dict observations with a Discrete part stay MLX's.
    monkeypatch.setattr(type(model.policy.action_dist), "sample", lambda self: mx.array(next(taken)))
    _, callback = model._setup_learn(1)
    model._last_episode_starts = rollout["first_episode_starts"]
    assert model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
    buffer = model.rollout_buffer
    np.testing.assert_array_equal(buffer.action_masks, rollout["action_masks"])
    np.testing.assert_array_equal(buffer.episode_starts, rollout["episode_starts"])
    np.testing.assert_allclose(buffer.values, said["values"], **CLOSE)
    np.testing.assert_allclose(buffer.log_probs, said["log_probs"], **CLOSE)
    np.testing.assert_allclose(buffer.rewards, rollout["rewards"], rtol=2e-6, atol=2e-6)
    assert not next(taken, None)
