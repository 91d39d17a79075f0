"""Models over the spaces of the updates recorded from sb3-contrib, see ``tests/data/contrib/README.md``."""

import json
import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.golden import Case, SpacesOnlyEnv

CONTRIB = pathlib.Path(__file__).parents[1] / "data" / "contrib"
MANIFEST = json.loads((CONTRIB / "MANIFEST.json").read_text())


def read_case(name: str) -> Case:
    """A recorded update."""
    return Case(CONTRIB / "updates" / f"{name}.npz")


def read_function(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Recorded values of a function: case -> name -> array."""
    with np.load(CONTRIB / "functions" / f"{name}.npz") as data:
        cases: dict[str, dict[str, np.ndarray]] = {}
        for path, array in data.items():
            case, _, field = path.partition("/")  # a call, or the state before all
            cases.setdefault(case, {})[field] = array
    return cases


def cases_of(algorithm: str) -> list[str]:
    """Names of the recorded updates of an algorithm."""
    return [name for name, entry in MANIFEST["updates"].items() if entry["algo"] == algorithm]


def _value(text: str) -> Any:
    # The manifest has arguments as text; these are Python literals with the names of schedules in them.
    from mlx_baselines3.common.utils import LinearSchedule

    return eval(text, {"LinearSchedule": LinearSchedule, "inf": np.inf})


def arguments(name: str) -> dict[str, Any]:
    """What sb3-contrib's class was given."""
    return {key: _value(text) for key, text in MANIFEST["updates"][name]["kwargs"].items()}


def space_of(text: str) -> spaces.Space:
    """A space from its text in the manifest."""
    names = {kind: getattr(spaces, kind) for kind in ("Discrete", "MultiBinary")}
    names |= {"inf": np.inf, **{kind: np.dtype(kind).type for kind in ("float32", "uint8")}}
    names["Box"] = lambda low, high, shape, dtype: spaces.Box(low, high, shape, dtype)
    if text.startswith("MultiDiscrete"):
        return spaces.MultiDiscrete([int(word) for word in text[15:-2].split()])
    return eval(text, names)


def make_model(algorithm: type, name: str, env: gym.Env | None = None, **kwargs: Any) -> Any:
    """The model of a recorded update, with the recorded parameters, ready for ``train``."""
    entry = MANIFEST["updates"][name]
    observations, actions = space_of(entry["obs_space"]), space_of(entry["action_space"])
    n_envs = entry.get("n_envs", 1)
    envs = DummyVecEnv([lambda: env or SpacesOnlyEnv(observations, actions)] * n_envs)
    model = algorithm(entry["policy"], envs, **{**arguments(name), **kwargs})
    model.set_logger(Logger(None, []))
    return model
