"""One A2C update gives SB3's parameters and logged values."""

import mlx.optimizers as optim
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.a2c import A2C
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.golden import (
    Case,
    SpacesOnlyEnv,
    assert_log_equal,
    assert_parameters_equal,
    check_who_computed,
    fill_rollout,
)

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
CONTINUOUS = spaces.Box(-2.0, 2.0, (2,), np.float32)

# name -> action space, arguments (tests/data/MANIFEST.json)
CASES = {
    "a2c_discrete": (spaces.Discrete(3), {"ent_coef": 0.01}),
    "a2c_continuous": (CONTINUOUS, {"normalize_advantage": True, "use_rms_prop": False}),
    "a2c_sde": (
        CONTINUOUS,
        {
            "use_sde": True,
            "policy_kwargs": {"log_std_init": -2.0, "ortho_init": False, "full_std": False},
        },
    ),
}


def make_model(name: str) -> A2C:
    action_space, kwargs = CASES[name]
    env = DummyVecEnv([lambda: SpacesOnlyEnv(VECTOR, action_space)] * 4)
    # A2C adds its optimizer to the dictionary it is given.
    kwargs = {key: dict(value) if isinstance(value, dict) else value for key, value in kwargs.items()}
    model = A2C("MlpPolicy", env, n_steps=8, **kwargs)
    model.set_logger(Logger(None, []))
    return model


@pytest.mark.parametrize("name", CASES)
def test_update_equals_sb3s(name, golden_updates, updates):
    case = Case(golden_updates / f"{name}.npz")
    model = make_model(name)
    model.policy.load_state_dict(case.group("before"))
    fill_rollout(model, case)
    np.testing.assert_allclose(model.rollout_buffer.advantages, case.group("expect")["advantages"], atol=1e-5)

    model.train()

    check_who_computed(model, updates)
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    assert_log_equal(model.logger.name_to_value, case.group("log"))


@pytest.mark.parametrize(
    ("name", "optimizer"), [("a2c_discrete", optim.RMSprop), ("a2c_continuous", optim.Adam)]
)
def test_default_optimizer(name, optimizer):
    model = make_model(name)
    assert isinstance(model.policy.optimizer.optimizer, optimizer)
    assert model.policy.optimizer.optimizer.eps == 1e-5
