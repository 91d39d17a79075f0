"""Private names of MLX and Gymnasium that the package reads, and that the installed versions have them."""

import ast
import importlib.metadata
import pathlib
import re

import gymnasium as gym
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit

import mlx_baselines3
from mlx_baselines3.common.nn import layers

PACKAGE = pathlib.Path(mlx_baselines3.__file__).parent
# Each name with what the package expects of it. A newer MLX that fails here needs a look at the places that
# `grep -rn NAME python` shows; after that the upper bound in pyproject.toml may rise.
MLX_NAMES = {
    "_alpha": lambda: (nn.ELU(0.25)._alpha, nn.CELU(0.25)._alpha) == (0.25, 0.25),
    "_approx": lambda: (nn.GELU()._approx, nn.GELU("tanh")._approx) == ("none", "tanh"),
    "_negative_slope": lambda: nn.LeakyReLU(0.25)._negative_slope == 0.25,
    "_no_grad": lambda: nn.Linear(1, 1).freeze(keys=["bias"])._no_grad == {"bias"},
    "_schedulers": lambda: (
        [*optim.Adam(lambda _: 0.1)._schedulers, *optim.Adam(0.1)._schedulers] == ["learning_rate"]
    ),
    "_set_training_mode": lambda: not Tree().train(False).below.training,
    "_training": lambda: (Tree().train(False)._training, nn.Linear(1, 1)._training) == (False, True),
}
GYMNASIUM_NAMES = {
    "_elapsed_steps": lambda: TimeLimit(Still(), 5)._elapsed_steps is None,
    "_has_reset": lambda: OrderEnforcing(Still())._has_reset is False,
    "_max_episode_steps": lambda: TimeLimit(Still(), 5)._max_episode_steps == 5,
    "_np_random": lambda: Still()._np_random is None and spaces.Discrete(2)._np_random is None,
    "_np_random_seed": lambda: (
        getattr(with_seed(Still(), 5), "np_random_seed", 5) == 5
    ),  # Gymnasium 1.0 and later
}
# Private by their first letter alone: named tuples' and `os._exit`.
OTHERS_NAMES = {"_asdict", "_exit", "_fields", "_make", "_replace"}


class Still(gym.Env):
    """An environment that nobody steps."""

    observation_space = action_space = spaces.Discrete(2)


def with_seed(env, seed):
    env._np_random, env._np_random_seed = np.random.default_rng(seed), seed
    return env


class Tree(layers.Module):
    """A module of ours above one of MLX's."""

    def __init__(self):
        super().__init__()
        self.below = nn.Linear(1, 1)


def private_names() -> tuple[set[str], set[str]]:
    """
    :return: private attributes that the package reads or sets on objects other than ``self``; and those that
        it defines
    """
    used: set[str] = set()
    defined: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if own and isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)
                elif not own:
                    used.add(node.attr)
    return used, defined


def test_the_lists_are_complete():
    used, defined = private_names()
    # `_training` is defined, too: critics set their own, and `Module.train` sets it by name.
    assert used - defined - OTHERS_NAMES == {*MLX_NAMES, *GYMNASIUM_NAMES} - {"_training"}


@pytest.mark.parametrize("name", MLX_NAMES)
def test_the_installed_mlx_has_the_name(name):
    assert MLX_NAMES[name](), f"mlx {importlib.metadata.version('mlx')} means something else by {name}"


@pytest.mark.parametrize("name", GYMNASIUM_NAMES)
def test_the_installed_gymnasium_has_the_name(name):
    assert GYMNASIUM_NAMES[name](), f"gymnasium {gym.__version__} means something else by {name}"
