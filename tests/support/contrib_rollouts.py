"""Reading the recorded updates of sb3-contrib's rollout algorithms (tests/data/contrib/README.md)."""

import ast
import json
import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.vec_env import DummyVecEnv
from support.golden import Case, SpacesOnlyEnv

CONTRIB = pathlib.Path(__file__).parents[1] / "data" / "contrib"
MANIFEST = json.loads((CONTRIB / "MANIFEST.json").read_text())
# Those that the manifest names.
SPACES = {
    "Box(-inf, inf, (5,), float32)": spaces.Box(-np.inf, np.inf, (5,), np.float32),
    "Box(-2.0, 2.0, (2,), float32)": spaces.Box(-2.0, 2.0, (2,), np.float32),
    "Dict('mode': Discrete(3), 'vec': Box(-inf, inf, (4,), float32))": spaces.Dict(
        {"mode": spaces.Discrete(3), "vec": spaces.Box(-np.inf, np.inf, (4,), np.float32)}
    ),
    "Discrete(4)": spaces.Discrete(4),
    "MultiDiscrete([3 2])": spaces.MultiDiscrete([3, 2]),
    "MultiDiscrete([3 2 4])": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary(3)": spaces.MultiBinary(3),
    "Discrete(5)": spaces.Discrete(5),
}


def cases_of(algorithm: str) -> list[str]:
    """The names of an algorithm's recorded updates."""
    return [name for name, case in MANIFEST["updates"].items() if case["algo"] == algorithm]


def update_case(name: str) -> Case:
    """A recorded update."""
    return Case(CONTRIB / "updates" / f"{name}.npz")


def function_values(name: str) -> Case:
    """Recorded values of a function."""
    return Case(CONTRIB / "functions" / f"{name}.npz")


def spaces_of(name: str) -> tuple[spaces.Space, spaces.Space]:
    """The spaces of a recorded update."""
    case = MANIFEST["updates"][name]
    return SPACES[case["obs_space"]], SPACES[case["action_space"]]


def model_of(name: str, algorithm: type, env: Any = None, **changes: Any) -> Any:
    """A model as it was before a recorded update; its environments are never stepped if none are given."""
    entry = MANIFEST["updates"][name]
    written = {key: ast.literal_eval(text) for key, text in entry["kwargs"].items()}
    if env is None:
        env = DummyVecEnv([lambda: SpacesOnlyEnv(*spaces_of(name))] * entry["n_envs"])
    model = algorithm(entry["policy"], env, n_steps=entry["n_steps"], **{**written, **changes})
    model.policy.load_state_dict(update_case(name).group("before"))
    return model


class Playback(gym.Env):
    """Plays back one environment's part of a recorded rollout, whatever the actions are."""

    def __init__(self, name: str, env: int):
        self.observation_space, self.action_space = spaces_of(name)
        self._rollout, self._env = update_case(name).group("rollout"), env
        self._step, self._n_steps = 0, len(self._rollout["rewards"])

    def _at(self, name: str, *place: int) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            return {key: self._rollout[f"{name}/{key}"][place] for key in self.observation_space.spaces}
        return self._rollout[name][place]

    def _seen(self) -> Any:
        if self._step == self._n_steps:
            return self._at("last_observations", self._env)
        return self._at("observations", self._step, self._env)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        row = self._step, self._env
        self._step += 1
        reward = float(self._rollout["env_rewards"][row])
        terminated, truncated = (bool(self._rollout[flag][row]) for flag in ("terminated", "truncated"))
        obs = self._at("terminal_observations", *row) if terminated or truncated else self._seen()
        return obs, reward, terminated, truncated, {}

    def action_masks(self) -> np.ndarray:
        return self._rollout["action_masks"][self._step, self._env]


def playback(name: str) -> DummyVecEnv:
    """The environments of a recorded rollout."""
    n_envs = MANIFEST["updates"][name]["n_envs"]
    return DummyVecEnv([lambda env=env: Playback(name, env) for env in range(n_envs)])
