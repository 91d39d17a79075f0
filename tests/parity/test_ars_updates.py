"""ARS gives sb3-contrib's returns, step sizes and weights."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.contrib import ARS
from support.contrib_updates import MANIFEST, cases_of, make_model, read_case
from support.golden import LOG_TOLERANCE, PARAMETER_TOLERANCE

TOWARDS = np.array([[1.0, 0.0], [0.3, -0.7], [-0.5, 0.4]])
CHOICES = np.array([[1.0, 0.2], [-0.6, 0.5], [0.1, -0.9]])


class Recorded(gym.Env):
    """The environment of the recorded runs, see the data's README."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = np.array([0.5, -0.8, 0.3]), 0
        return self.x.astype(np.float32), {}

    def step(self, action):
        self.t += 1
        move = CHOICES[int(action)] if isinstance(self.action_space, spaces.Discrete) else action
        self.x = 0.9 * self.x + 0.3 * TOWARDS @ np.asarray(move, np.float64) + 0.05 * math.sin(self.t)
        reward = float(np.float32(0.1 - self.x @ self.x))
        return self.x.astype(np.float32), reward, self.t == 10, False, {}


@pytest.mark.parametrize("name", cases_of("ARS"))
def test_updates_equal_contribs(name, monkeypatch):
    case, entry = read_case(name), MANIFEST["updates"][name]
    discrete = entry["action_space"].startswith("Discrete")
    actions = spaces.Discrete(3) if discrete else spaces.Box(-1.5, 1.5, (2,), np.float32)
    model = make_model(ARS, name, Monitor(Recorded(actions)))
    model.policy.load_state_dict(case.group("before"))
    assert list(model.policy.state_dict()) == entry["parameter_order"]
    np.testing.assert_array_equal(model.weights, case.arrays["weights0"])
    deltas = iter(case.group_of("deltas"))
    monkeypatch.setattr(model, "_deltas", lambda: next(deltas))
    seen, dump, evaluate = [], model.dump_logs, model.evaluate_candidates

    def evaluated(*args):
        seen.append({"returns": evaluate(*args)})
        return seen[-1]["returns"]

    def dumped():
        seen[-1] |= {"weights": model.weights, "episodes": list(model.ep_info_buffer)}
        seen[-1] |= model.logger.name_to_value
        dump()

    monkeypatch.setattr(model, "evaluate_candidates", evaluated)
    monkeypatch.setattr(model, "dump_logs", dumped)
    model.learn(entry["total_timesteps"])
    assert len(seen) == entry["iterations"]
    for i, found in enumerate(seen):
        expected = case.arrays
        np.testing.assert_allclose(found["returns"], expected[f"returns{i}"], LOG_TOLERANCE)
        episodes = found["episodes"]
        np.testing.assert_allclose(
            [one["r"] for one in episodes], expected[f"episode_rewards{i}"], LOG_TOLERANCE
        )
        np.testing.assert_array_equal([one["l"] for one in episodes], expected[f"episode_lengths{i}"])
        logged = {"train/delta_std": "delta_std", "train/learning_rate": "learning_rate"}
        logged |= {"train/step_size": "step_size", "rollout/return_std": "return_std"}
        for key, array in logged.items():
            np.testing.assert_allclose(found[key], expected[f"{array}{i}"], LOG_TOLERANCE, err_msg=key)
        difference = np.abs(found["weights"] - expected[f"weights{i + 1}"]).max()
        assert difference <= PARAMETER_TOLERANCE, f"iteration {i}: {difference:.2g}"
    if "predict/observations" not in case.arrays:
        return
    actions, _ = model.predict(case.arrays["predict/observations"])
    if discrete:
        np.testing.assert_array_equal(actions, case.arrays["predict/actions"])
    else:
        np.testing.assert_allclose(actions, case.arrays["predict/actions"], rtol=0, atol=1e-5)
