"""RecurrentPPO collects and learns as sb3-contrib's does: states, sequences, networks, steps, log."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.contrib import RecurrentPPO
from mlx_baselines3.contrib.common.recurrent.buffers import STATES, create_sequencers
from mlx_baselines3.contrib.common.recurrent.type_aliases import RNNStates
from support.contrib_rollouts import MANIFEST, cases_of, function_values, model_of, playback, update_case
from support.golden import assert_log_equal, assert_parameters_equal

CASES = cases_of("RecurrentPPO")
CLOSE = {"rtol": 2e-6, "atol": 2e-6}
NAMES = ("hidden_pi", "cell_pi", "hidden_vf", "cell_vf")


def fill(model, case):
    """Put the recorded rollout into the model's buffer."""
    rollout, buffer = case.group("rollout"), model.rollout_buffer
    for step in range(model.n_steps):
        if "observations" in rollout:
            observation = rollout["observations"][step]
        else:
            keys = model.observation_space.spaces
            observation = {key: rollout[f"observations/{key}"][step] for key in keys}
        columns = ("actions", "rewards", "episode_starts", "values", "log_probs")
        pi = [mx.array(rollout[name][step]) for name in STATES[:2]]
        vf = [mx.array(rollout[name][step]) for name in STATES[2:]]
        buffer.add(observation, *(rollout[name][step] for name in columns), lstm_states=RNNStates(pi, vf))
    buffer.compute_returns_and_advantage(rollout["last_values"], rollout["last_dones"])


def split_as_recorded(monkeypatch, case):
    splits = iter(case.arrays["split_indices"].tolist())
    monkeypatch.setattr(np.random, "randint", lambda n: next(splits))


@pytest.mark.parametrize("name", CASES)
def test_update_equals_contribs(name, updates, monkeypatch):
    case, model = update_case(name), model_of(name, RecurrentPPO)
    model.set_logger(Logger(None, []))
    fill(model, case)
    expected = case.group("expect")
    np.testing.assert_allclose(model.rollout_buffer.advantages, expected["advantages"], atol=1e-5)
    np.testing.assert_allclose(model.rollout_buffer.returns, expected["returns"], atol=1e-5)
    split_as_recorded(monkeypatch, case)
    model.train()
    assert (model._updater.compiled is not None) == (updates == "mlx")
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))


def minibatch(case, index):
    return case.group(f"minibatch{index}")


@pytest.mark.parametrize("name", CASES)
def test_minibatches_are_contribs_and_so_are_the_networks_outputs(name, monkeypatch):
    case, model = update_case(name), model_of(name, RecurrentPPO)
    fill(model, case)
    split_as_recorded(monkeypatch, case)
    for index, samples in enumerate(model.rollout_buffer.get(model.batch_size)):
        expected = minibatch(case, index)
        starts = model.rollout_buffer.seq_start_indices
        np.testing.assert_array_equal(starts, expected["seq_start_indices"])
        found = samples._asdict()
        states = found.pop("lstm_states")
        found |= dict(zip(NAMES, (*states.pi, *states.vf), strict=True))
        observations = found.pop("observations")
        if isinstance(observations, dict):
            found |= {f"observations/{key}": value for key, value in observations.items()}
        else:
            found["observations"] = observations
        for key, value in found.items():
            rows = np.array(value).reshape(expected[key].shape)
            np.testing.assert_allclose(rows, expected[key], **CLOSE, err_msg=key)
        if index == 0:
            # The networks are those of before the update.
            actions = samples.actions.reshape(-1, *model.action_space.shape)
            rest = samples.lstm_states, samples.episode_starts
            values, log_prob, entropy = model.policy.evaluate_actions(samples.observations, actions, *rest)
            np.testing.assert_allclose(np.array(values)[:, 0], expected["values"], **CLOSE)
            np.testing.assert_allclose(log_prob, expected["log_prob"], **CLOSE)
            np.testing.assert_allclose(entropy, expected["entropy"], **CLOSE)
    assert index == -(-model.n_steps * model.n_envs // model.batch_size) - 1


@pytest.mark.parametrize("name", CASES)
def test_predict_hands_on_the_states_as_contribs(name):
    case, model = update_case(name), model_of(name, RecurrentPPO)
    recorded = case.group("predict")
    state = None
    for step in range(len(recorded["episode_starts"])):
        if "observations" in recorded:
            obs = recorded["observations"][step]
        else:
            obs = {key: recorded[f"observations/{key}"][step] for key in model.observation_space.spaces}
        starts = recorded["episode_starts"][step]
        actions, state = model.predict(obs, state=state, episode_start=starts, deterministic=True)
        np.testing.assert_allclose(actions, recorded["actions"][step], atol=1e-5)
        np.testing.assert_allclose(state[0], recorded["hidden_states"][step], **CLOSE)
        np.testing.assert_allclose(state[1], recorded["cell_states"][step], **CLOSE)


@pytest.mark.parametrize("who", ["native", "mlx"])
@pytest.mark.parametrize("name", CASES)
def test_rollout_equals_contribs(name, who, monkeypatch):
    """The same environments and actions give the same buffer, states included."""
    case, env = update_case(name), playback(name)
    model = model_of(name, RecurrentPPO, env)
    rollout, said = case.group("rollout"), case.group("policy")
    taken = iter(rollout["actions"])
    if who == "mlx":
        # A method of its own, which Rust does not know.
        model.policy.forward = model.policy.forward
    monkeypatch.setattr(NativeActor, "act", lambda self, obs: next(taken).reshape(len(obs), -1))
    monkeypatch.setattr(type(model.policy.action_dist), "sample", lambda self: mx.array(next(taken)))
    _, callback = model._setup_learn(1)
    model._last_episode_starts = rollout["first_episode_starts"]
    # The other environments are in the middle of an episode.
    pi = [mx.array(rollout[name][0]) for name in STATES[:2]]
    vf = [mx.array(rollout[name][0]) for name in STATES[2:]]
    model._last_lstm_states = RNNStates(tuple(pi), tuple(vf))
    assert model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
    assert (model._native is not None) == (who == "native")
    buffer = model.rollout_buffer
    np.testing.assert_array_equal(buffer.episode_starts, rollout["episode_starts"])
    np.testing.assert_allclose(buffer.values, said["values"], **CLOSE)
    np.testing.assert_allclose(buffer.log_probs, said["log_probs"], **CLOSE)
    np.testing.assert_allclose(buffer.rewards, rollout["rewards"], **CLOSE)
    last = model._last_lstm_states
    for name, after in zip(STATES, (*last.pi, *last.vf), strict=True):
        np.testing.assert_allclose(getattr(buffer, name), rollout[name], **CLOSE, err_msg=name)
        np.testing.assert_allclose(after, rollout[f"last_{name}"], **CLOSE, err_msg=name)
    assert next(taken, None) is None


@pytest.mark.parametrize("index", range(MANIFEST["functions"]["recurrent_sequences"]["cases"]))
def test_sequences_are_cut_and_padded_as_contribs(index):
    values = function_values("recurrent_sequences").group(f"case{index}")
    starts, pad, pad_and_flatten = create_sequencers(values["episode_starts"], values["env_change"], "cpu")
    np.testing.assert_array_equal(starts, values["seq_start_indices"])
    np.testing.assert_array_equal(pad(values["x"]), values["padded"])
    ones = np.ones(len(values["episode_starts"]), np.float32)
    np.testing.assert_array_equal(np.array(pad_and_flatten(ones)) > 0, values["mask"] > 0)
    first = values["x"].reshape(len(ones), -1)[:, 0]
    np.testing.assert_array_equal(pad_and_flatten(first), values["padded_flat"])
