"""Reading the recorded SB3 updates (see tests/data/README.md)."""

import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# What counts as equal: tests/data/README.md.
PARAMETER_TOLERANCE = 2e-6
LOG_TOLERANCE = 1e-4


class Case:
    """One recorded ``train()`` call of SB3."""

    def __init__(self, path: pathlib.Path):
        with np.load(path) as data:
            self.arrays = dict(data)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose name starts with ``prefix/``, without it."""
        start = f"{prefix}/"
        return {k.removeprefix(start): v for k, v in self.arrays.items() if k.startswith(start)}

    def group_of(self, prefix: str) -> list[np.ndarray]:
        """The arrays ``prefix0``, ``prefix1`` and so on."""
        count = sum(name.removeprefix(prefix).isdigit() for name in self.arrays)
        return [self.arrays[f"{prefix}{index}"] for index in range(count)]


class SpacesOnlyEnv(gym.Env):
    """An environment with given spaces that is never stepped in earnest."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), 0.0, False, False, {}


def fill_rollout(model: Any, case: Case) -> None:
    """Put the recorded rollout into the model's buffer."""
    rollout = case.group("rollout")
    last_values, last_dones = rollout.pop("last_values"), rollout.pop("last_dones")
    buffer = model.rollout_buffer
    for step in range(model.n_steps):
        row = {key: value[step] for key, value in rollout.items()}
        observation = row.pop("observations", None)
        if observation is None:
            observation = {key: row.pop(f"observations/{key}") for key in model.observation_space.spaces}
        buffer.add(
            observation,
            row["actions"],
            row["rewards"],
            row["episode_starts"],
            row["values"],
            row["log_probs"],
        )
    buffer.compute_returns_and_advantage(last_values, last_dones)


def assert_parameters_equal(parameters: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    """Every parameter is there and within the tolerance."""
    assert parameters.keys() == expected.keys()
    for name, value in expected.items():
        difference = np.abs(np.array(parameters[name]) - value).max()
        assert difference <= PARAMETER_TOLERANCE, f"{name} differs by {difference:.2g}"


def assert_log_equal(logged: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    """The same keys, and every value within the tolerance."""
    assert logged.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(logged[key], value, rtol=LOG_TOLERANCE, atol=1e-7, err_msg=key)


def check_who_computed(model: Any, updates: str) -> None:
    """The steps are Rust's, unless they are to be MLX's."""
    assert (model._updater.compiled is not None) == (updates == "mlx")
