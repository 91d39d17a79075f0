"""RL Zoo's settings for A2C, DQN and TD3, shortened: they reach the return, on every seed."""

import pathlib
import runpy

import pytest

import mlx_baselines3
from mlx_baselines3.common import noise, utils
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.vec_env import NativeVecEnv
from support.judging import judge, stop_at

SETTINGS = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "benchmarks" / "tuned_settings.py"))
CELLS = {cell.name: cell for cell in SETTINGS["CELLS"]}
LIBRARY = SETTINGS["Library"](mlx_baselines3, utils, noise)

pytestmark = [pytest.mark.learning, pytest.mark.parametrize("seed", [0, 1, 2])]


def make_model(name, seed):
    """A cell's algorithm with its settings, on native environments."""
    cell = CELLS[name]
    env = make_vec_env(cell.env_id, cell.n_envs, seed=seed, vec_env_cls=NativeVecEnv)
    algorithm = getattr(mlx_baselines3, cell.algorithm)
    return algorithm("MlpPolicy", env, seed=seed, **cell.kwargs(LIBRARY))


def test_a2c_balances_the_pole(seed):
    model = make_model("a2c-CartPole-v1", seed)
    model.learn(200_000, callback=stop_at(490, "CartPole-v1", eval_freq=500))
    assert judge(model, "CartPole-v1") >= 450


def test_dqn_balances_the_pole(seed):
    model = make_model("dqn-CartPole-v1", seed)
    model.learn(50_000, callback=stop_at(490, "CartPole-v1", eval_freq=1280))
    assert judge(model, "CartPole-v1") >= 450


def test_td3_swings_the_pendulum_up(seed):
    model = make_model("td3-Pendulum-v1", seed)
    model.learn(17_000)
    assert judge(model, "Pendulum-v1") > -200
