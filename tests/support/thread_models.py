"""Small models of every kind, which the tests of threads and of forked processes let learn."""

import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from mlx_baselines3.common.envs import BitFlippingEnv

IMAGES = spaces.Box(0, 255, (1, 36, 36), np.uint8)
VECTORS = spaces.Box(-1, 1, (3,), np.float32)
PAIRS = spaces.Dict({"image": IMAGES, "vector": VECTORS})
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


class Drawn(gym.Env[Any, Any]):
    """Observations drawn from a space, whose episodes have five steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = 5
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self.observation_space.sample(), float(np.sum(action)), self.left == 0, False, {}


def _on(cls: Any, policy: str, obs: Any, actions: Any = ACTIONS, **kwargs: Any) -> Callable[[], Any]:
    sizes = {"n_steps": 8} if cls is A2C else {"n_steps": 8, "batch_size": 4, "n_epochs": 2}
    return lambda: cls(policy, Drawn(obs, actions), seed=3, **sizes, **kwargs)


def _off(cls: Any, policy: str, obs: Any, actions: Any = ACTIONS, **kwargs: Any) -> Callable[[], Any]:
    settings = {"learning_starts": 3, "batch_size": 4, "buffer_size": 100, "train_freq": 2, **kwargs}
    return lambda: cls(policy, Drawn(obs, actions), seed=3, **settings)


def _her() -> Any:
    env = BitFlippingEnv(n_bits=3, continuous=True)
    settings = {"learning_starts": 6, "batch_size": 4, "buffer_size": 100, "train_freq": 2, "seed": 3}
    return SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, **settings)


# Name -> makes a model; the first letter says who plays: in Rust or in MLX.
MODELS: dict[str, Callable[[], Any]] = {
    "ppo": lambda: PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=4, n_epochs=2, seed=3),
    "ppo_box": _on(PPO, "MlpPolicy", VECTORS),
    "ppo_multi_discrete": _on(PPO, "MlpPolicy", VECTORS, spaces.MultiDiscrete([2, 3])),
    "ppo_multi_binary": _on(PPO, "MlpPolicy", VECTORS, spaces.MultiBinary(3)),
    "ppo_sde": _on(PPO, "MlpPolicy", VECTORS, use_sde=True, sde_sample_freq=4),
    "ppo_cnn": _on(PPO, "CnnPolicy", IMAGES),
    "a2c": _on(A2C, "MlpPolicy", VECTORS),
    "a2c_dict": _on(A2C, "MultiInputPolicy", PAIRS, spaces.Discrete(3)),
    "dqn": _off(DQN, "MlpPolicy", VECTORS, spaces.Discrete(3), target_update_interval=4),
    "dqn_cnn": _off(DQN, "CnnPolicy", IMAGES, spaces.Discrete(3), target_update_interval=4),
    "sac": _off(SAC, "MlpPolicy", VECTORS),
    "sac_sde": _off(SAC, "MlpPolicy", VECTORS, use_sde=True, sde_sample_freq=4),
    "sac_dict": _off(SAC, "MultiInputPolicy", PAIRS),
    "her": _her,
    "td3": _off(TD3, "MlpPolicy", VECTORS),
    "ddpg": _off(DDPG, "MlpPolicy", VECTORS),
}
IN_RUST = (
    *(
        "ppo",
        "ppo_box",
        "ppo_multi_discrete",
        "ppo_multi_binary",
        "ppo_cnn",
        "a2c",
        "a2c_dict",
        "dqn",
        "dqn_cnn",
    ),
    *("sac", "td3", "ddpg"),
)


def in_thread(work: Callable[[], Any]) -> Any:
    """
    :param work: what to do in a new thread
    :return: what it gave
    :raises BaseException: what it raised
    """
    seen: list[Any] = []

    def run() -> None:
        try:
            seen.append((True, work()))
        except BaseException as error:
            seen.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    done, answer = seen[0]
    if not done:
        raise answer
    return answer


def observation(model: Any, seed: int = 0) -> Any:
    """:return: an observation, always the same"""
    model.observation_space.seed(seed)
    return model.observation_space.sample()


def numbers(model: Any) -> np.ndarray:
    """:return: all weights and optimizer states, one after the other"""
    parameters = model.get_parameters()
    return np.concatenate(
        [
            np.asarray(array, np.float64).ravel()
            for name in sorted(parameters)
            for _, array in sorted(parameters[name].items())
        ]
    )
