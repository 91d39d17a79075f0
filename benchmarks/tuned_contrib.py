"""RL Zoo's tuned settings of sb3-contrib's algorithms on the classic-control tasks, and its returns.

Where they come from: see ``tuned_settings.py``. ``NoVel`` hides velocities: see :class:`HiddenVelocity`.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from tuned_settings import (
    ACROBOT,
    CAR,
    CARTPOLE,
    CONTINUOUS_CAR,
    PENDULUM,
    Cell,
    Library,
    dqn,
    sac_continuous_car,
)

# Which numbers of an observation are velocities.
_VELOCITIES = {CARTPOLE: [1, 3], PENDULUM: [2], CAR: [1], CONTINUOUS_CAR: [1]}


class HiddenVelocity(gym.ObservationWrapper):
    """An environment whose velocities are always 0 in the observation, so that the agent has to remember."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        assert env.spec is not None
        self._shown = np.ones(env.observation_space.shape, np.float32)
        self._shown[_VELOCITIES[env.spec.id]] = 0

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Hide the velocities."""
        return observation * self._shown


def _qrdqn(n_quantiles: int, **changes: Any) -> Any:
    kwargs = {"net_arch": [256, 256], "n_quantiles": n_quantiles}
    return dqn(policy_kwargs=kwargs, **changes)


def _ars(**changes: Any) -> Any:
    settings = {
        "learning_rate": 0.018,
        "n_delta": 4,
        "n_top": 1,
        "delta_std": 0.1,
        "policy_kwargs": {"net_arch": [16]},
        "zero_policy": False,
    }
    return lambda lib: {**settings, **changes}


def _lstm(lib: Library, **settings: Any) -> dict[str, Any]:
    kwargs = {
        "ortho_init": False,
        "activation_fn": lib.relu,
        "lstm_hidden_size": 64,
        "enable_critic_lstm": True,
        "net_arch": {"pi": [64], "vf": [64]},
    }
    return {"ent_coef": 0.0, "policy_kwargs": kwargs, **settings}


def _lstm_cartpole(lib: Library) -> dict[str, Any]:
    return _lstm(
        lib,
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        learning_rate=lib.linear(1e-3),
        clip_range=lib.linear(0.2),
    )


def _lstm_pendulum(lib: Library) -> dict[str, Any]:
    return _lstm(
        lib,
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        learning_rate=1e-3,
        clip_range=0.2,
        use_sde=True,
        sde_sample_freq=4,
    )


def _trpo(**settings: Any) -> Any:
    return lambda lib: settings


def _memory(env_id: str, reference: tuple[float, float], kwargs: Any, n_envs: int) -> Cell:
    return Cell(
        "RecurrentPPO",
        env_id,
        reference,
        100_000,
        kwargs,
        n_envs,
        normalize=True,
        policy="MlpLstmPolicy",
        wrapper=HiddenVelocity,
    )


CONTRIB_CELLS = [
    Cell(
        "QRDQN",
        CARTPOLE,
        (500.0, 0.0),
        50_000,
        _qrdqn(
            10,
            learning_rate=2.3e-3,
            batch_size=64,
            buffer_size=100_000,
            learning_starts=1000,
            target_update_interval=10,
            train_freq=256,
            gradient_steps=128,
            exploration_fraction=0.16,
            exploration_final_eps=0.04,
        ),
    ),
    Cell(
        "QRDQN",
        ACROBOT,
        (-69.135, 9.967),
        100_000,
        _qrdqn(
            25,
            learning_rate=6.3e-4,
            batch_size=128,
            buffer_size=50_000,
            learning_starts=0,
            target_update_interval=250,
            train_freq=4,
            gradient_steps=-1,
            exploration_fraction=0.12,
            exploration_final_eps=0.1,
        ),
    ),
    Cell(
        "QRDQN",
        CAR,
        (-106.042, 15.536),
        120_000,
        _qrdqn(
            25,
            learning_rate=4e-3,
            batch_size=128,
            buffer_size=10_000,
            learning_starts=1000,
            gamma=0.98,
            target_update_interval=600,
            train_freq=16,
            gradient_steps=8,
            exploration_fraction=0.2,
            exploration_final_eps=0.07,
        ),
    ),
    Cell("TQC", PENDULUM, (-151.34, 87.893), 20_000, lambda lib: {"learning_rate": 1e-3}),
    Cell("TQC", CONTINUOUS_CAR, (63.641, 45.259), 50_000, sac_continuous_car),
    Cell(
        "TRPO",
        CARTPOLE,
        (500.0, 0.0),
        100_000,
        _trpo(
            n_steps=512,
            batch_size=512,
            cg_damping=1e-3,
            gae_lambda=0.98,
            gamma=0.99,
            learning_rate=1e-3,
            n_critic_updates=20,
        ),
        2,
    ),
    Cell(
        "TRPO",
        PENDULUM,
        (-174.631, 127.577),
        100_000,
        _trpo(n_steps=1024, gamma=0.9, n_critic_updates=15, use_sde=True, sde_sample_freq=4),
        2,
    ),
    Cell("TRPO", ACROBOT, (-83.114, 18.648), 100_000, _trpo(n_steps=1024), 2, True),
    Cell("TRPO", CAR, (-107.278, 13.231), 100_000, _trpo(n_steps=1024, n_critic_updates=20), 2, True),
    Cell("TRPO", CONTINUOUS_CAR, (92.489, 0.355), 50_000, _trpo(use_sde=True, sde_sample_freq=4), 2, True),
    Cell("ARS", CARTPOLE, (500.0, 0.0), 50_000, lambda lib: {"n_delta": 2}, policy="LinearPolicy"),
    Cell("ARS", PENDULUM, (-212.54, 160.444), 2_000_000, _ars(), 1, True, norm_reward=False),
    Cell("ARS", ACROBOT, (-82.884, 23.825), 500_000, _ars(), 1, True, norm_reward=False),
    Cell("ARS", CAR, (-122.0, 33.456), 500_000, _ars(n_delta=8), 1, True, norm_reward=False),
    Cell("ARS", CONTINUOUS_CAR, (96.672, 0.784), 500_000, _ars(delta_std=0.2), 1, True, norm_reward=False),
    _memory(CARTPOLE, (500.0, 0.0), _lstm_cartpole, 8),
    _memory(PENDULUM, (-217.933, 140.094), _lstm_pendulum, 4),
]
