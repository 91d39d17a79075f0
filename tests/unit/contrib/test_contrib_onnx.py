"""ONNX files of MaskablePPO and RecurrentPPO: masks and states are inputs, states outputs."""

import io

import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.vec_env import DummyVecEnv
from mlx_baselines3.contrib import MaskablePPO, RecurrentPPO
from mlx_baselines3.export import export_onnx
from support.random_env import RandomEnv

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
ACTIONS = [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)]


def session_of(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    stream = io.BytesIO()
    export_onnx(model, stream)
    return onnxruntime.InferenceSession(stream.getvalue())


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
def test_masks_are_an_input(action_space, rng):
    env = DummyVecEnv([lambda: RandomEnv(BOX, action_space)])
    model = MaskablePPO("MlpPolicy", env, policy_kwargs={"net_arch": [8], "ortho_init": False}, seed=0)
    session = session_of(model)
    obs = rng.standard_normal((20, 3)).astype(np.float32)
    masks = rng.random((20, sum(model.policy.mask_groups))) < 0.5
    ends = np.cumsum(model.policy.mask_groups)
    for row in masks:
        row[ends - 1 - rng.integers(2, size=len(ends))] = True
    (actions,) = session.run(["actions"], {"obs": obs, "action_masks": masks})
    expected, _ = model.predict(obs, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(actions, expected)
    everything, _ = model.predict(obs, deterministic=True)
    assert (everything != expected).any()


@pytest.mark.parametrize("lstm", [{}, {"n_lstm_layers": 2}, {"lstm_kwargs": {"bias": False}}], ids=str)
@pytest.mark.parametrize("action_space", [*ACTIONS, spaces.Box(-1, 1, (2,), np.float32)], ids=str)
def test_states_are_inputs_and_outputs(action_space, lstm, rng):
    env = DummyVecEnv([lambda: RandomEnv(BOX, action_space)])
    kwargs = {"net_arch": [8], "lstm_hidden_size": 5, **lstm}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=kwargs, seed=0)
    session = session_of(model)
    state = None
    states = [np.zeros((model.policy.lstm_hidden_state_shape[0], 4, 5), np.float32)] * 2
    for step in range(4):
        obs, starts = (
            rng.standard_normal((4, 3)).astype(np.float32),
            np.array([step == 2, False, True, False]),
        )
        given = {"obs": obs, "hidden_state": states[0], "cell_state": states[1], "episode_start": starts}
        actions, *states = session.run(["actions", "next_hidden_state", "next_cell_state"], given)
        expected, state = model.predict(obs, state, starts, deterministic=True)
        np.testing.assert_allclose(actions, expected, atol=1e-5)
        for ours, theirs in zip(states, state, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
