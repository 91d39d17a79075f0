"""RL Zoo's tuned settings on the classic-control tasks, and the returns it reports for them.

https://github.com/DLR-RM/rl-baselines3-zoo: hyperparams/*.yml and benchmark.md. What is not named is SB3's
default. The settings use the names that this package and SB3 share, so that one script trains both.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np


class Cell(NamedTuple):
    """One algorithm on one task."""

    algorithm: str
    env_id: str
    reference: tuple[float, float]
    steps: int
    kwargs: Callable[["Library"], dict[str, Any]]
    n_envs: int = 1
    normalize: bool = False
    norm_reward: bool = True
    policy: str = "MlpPolicy"
    # Of a Python environment, which then takes the place of the native one.
    wrapper: Any = None

    @property
    def name(self) -> str:
        """For instance ``ppo-CartPole-v1``."""
        env = self.env_id if self.wrapper is None else self.env_id.replace("-", "NoVel-")
        return f"{self.algorithm.lower()}-{env}"


class Library(NamedTuple):
    """The parts of a package that the settings need."""

    package: ModuleType
    utils: ModuleType
    noise: ModuleType
    algorithms: Mapping[str, Any] = MappingProxyType({})
    relu: Any = None

    def linear(self, start: float) -> Any:
        """A schedule from ``start`` to zero."""
        return self.utils.LinearSchedule(start, 0.0, 1.0)


def _ppo_cartpole(lib: Library) -> dict[str, Any]:
    return {
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": lib.linear(1e-3),
        "clip_range": lib.linear(0.2),
    }


def _ppo_mountain_car_continuous(lib: Library) -> dict[str, Any]:
    return {
        "n_steps": 8,
        "batch_size": 256,
        "gamma": 0.9999,
        "gae_lambda": 0.9,
        "learning_rate": 7.77e-5,
        "ent_coef": 0.00429,
        "clip_range": 0.1,
        "n_epochs": 10,
        "max_grad_norm": 5,
        "vf_coef": 0.19,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
    }


def _ppo_pendulum(lib: Library) -> dict[str, Any]:
    return {
        "n_steps": 1024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "use_sde": True,
        "sde_sample_freq": 4,
    }


def _a2c_pendulum(lib: Library) -> dict[str, Any]:
    return {
        "n_steps": 8,
        "gae_lambda": 0.9,
        "gamma": 0.9,
        "vf_coef": 0.4,
        "max_grad_norm": 0.5,
        "use_rms_prop": True,
        "learning_rate": lib.linear(7e-4),
        "ent_coef": 0.0,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -2, "ortho_init": False},
    }


def _a2c_mountain_car_continuous(lib: Library) -> dict[str, Any]:
    return {
        "n_steps": 100,
        "ent_coef": 0.0,
        "use_sde": True,
        "sde_sample_freq": 16,
        "policy_kwargs": {"log_std_init": 0.0, "ortho_init": False},
    }


def dqn(**changes: Any) -> Callable[[Library], dict[str, Any]]:
    return lambda lib: {"policy_kwargs": {"net_arch": [256, 256]}, "gamma": 0.99, **changes}


def sac_continuous_car(lib: Library) -> dict[str, Any]:
    return {
        "learning_rate": 3e-4,
        "buffer_size": 50_000,
        "batch_size": 512,
        "ent_coef": 0.1,
        "train_freq": 32,
        "gradient_steps": 32,
        "gamma": 0.9999,
        "tau": 0.01,
        "learning_starts": 0,
        "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]},
    }


def _td3(**changes: Any) -> dict[str, Any]:
    return {
        "train_freq": 1,
        "gradient_steps": 1,
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [400, 300]},
        **changes,
    }


def _td3_pendulum(lib: Library) -> dict[str, Any]:
    noise = lib.noise.NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    return _td3(gamma=0.98, buffer_size=200_000, learning_starts=10_000, action_noise=noise)


def _td3_mountain_car_continuous(lib: Library) -> dict[str, Any]:
    noise = lib.noise.OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.5 * np.ones(1))
    return _td3(batch_size=256, action_noise=noise)


CARTPOLE, PENDULUM, ACROBOT = "CartPole-v1", "Pendulum-v1", "Acrobot-v1"
CAR, CONTINUOUS_CAR = "MountainCar-v0", "MountainCarContinuous-v0"
_NO_ENTROPY: Callable[[Library], dict[str, Any]] = lambda lib: {"ent_coef": 0.0}  # noqa: E731

CELLS = [
    Cell("PPO", CARTPOLE, (500.0, 0.0), 100_000, _ppo_cartpole, 8),
    Cell("PPO", PENDULUM, (-172.2, 104.2), 100_000, _ppo_pendulum, 4),
    Cell(
        "PPO",
        ACROBOT,
        (-73.5, 18.2),
        1_000_000,
        lambda lib: {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
        16,
        True,
    ),
    Cell(
        "PPO",
        CAR,
        (-110.4, 19.5),
        1_000_000,
        lambda lib: {"n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
        16,
        True,
    ),
    Cell("PPO", CONTINUOUS_CAR, (88.3, 2.6), 20_000, _ppo_mountain_car_continuous, 1, True),
    Cell("A2C", CARTPOLE, (500.0, 0.0), 500_000, _NO_ENTROPY, 8),
    Cell("A2C", PENDULUM, (-163.0, 103.2), 1_000_000, _a2c_pendulum, 8, True),
    Cell("A2C", ACROBOT, (-83.4, 17.2), 500_000, _NO_ENTROPY, 16, True),
    Cell("A2C", CAR, (-111.3, 24.1), 1_000_000, _NO_ENTROPY, 16, True),
    Cell("A2C", CONTINUOUS_CAR, (91.2, 0.3), 100_000, _a2c_mountain_car_continuous, 4, True),
    Cell(
        "DQN",
        CARTPOLE,
        (500.0, 0.0),
        50_000,
        dqn(
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
        "DQN",
        ACROBOT,
        (-76.6, 11.8),
        100_000,
        dqn(
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
        "DQN",
        CAR,
        (-100.8, 9.9),
        120_000,
        dqn(
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
    Cell("SAC", PENDULUM, (-157.0, 88.7), 20_000, lambda lib: {"learning_rate": 1e-3}),
    Cell("SAC", CONTINUOUS_CAR, (94.7, 1.1), 50_000, sac_continuous_car),
    Cell("TD3", PENDULUM, (-151.9, 90.2), 20_000, _td3_pendulum),
    Cell("TD3", CONTINUOUS_CAR, (93.5, 0.1), 300_000, _td3_mountain_car_continuous),
]
