"""Runs that Ctrl-C ends: ``python interrupted_runs.py SCENARIO`` prints what was left as JSON."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_baselines3 import A2C, DQN, PPO, SAC, TD3
from mlx_baselines3.common.base_class import BaseAlgorithm
from mlx_baselines3.common.logger import configure
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.layers import named_parameters
from mlx_baselines3.common.vec_env import NativeVecEnv

WIDE = {"net_arch": [256, 256]}
# Seconds from the start of what is to be interrupted to Ctrl-C. Batches are drawn first, and MLX's graphs
# take some to be put together.
AFTER = {"rollout": 1.0, "exploration": 1.0, "bar": 1.0, "PPO": 1.0}.get(" ".join(sys.argv[1:]), 5.0)


def interrupted(work: Callable[[], Any]) -> float:
    """Seconds from Ctrl-C to the end of the work."""
    sent = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(AFTER, send)
    timer.start()
    try:
        work()
    except KeyboardInterrupt:
        return time.monotonic() - sent[0]
    raise AssertionError("the work ended before Ctrl-C came: give it more to do")


def weights(model: BaseAlgorithm) -> list[np.ndarray]:
    """Copies of all parameters of the policy, targets included."""
    return [np.array(array) for array in named_parameters(model.policy).values()]


def optimizer_numbers(model: BaseAlgorithm) -> list[np.ndarray]:
    """Copies of what the optimizers keep."""
    owners = (model.policy, getattr(model, "actor", None), getattr(model, "critic", None))
    optimizers = [owner.optimizer for owner in owners if getattr(owner, "optimizer", None) is not None]
    numbers = []
    for optimizer in optimizers:
        for slot in optimizer.state.values():
            arrays = slot.values() if isinstance(slot, dict) else [slot]
            numbers += [np.array(to_numpy(array)) for array in arrays]
    return numbers


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Whether these are the same numbers."""
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def where_the_environments_are(model: BaseAlgorithm) -> bool:
    """Whether CartPoles or Pendulums are where the model believes them to be."""
    core = model.env._core
    states = np.array([core.get_state(i)["state"] for i in range(model.n_envs)])
    if states.shape[1] == 2:
        states = np.stack([np.cos(states[:, 0]), np.sin(states[:, 0]), states[:, 1]], axis=1)
    return bool(np.allclose(model._last_obs, states, atol=1e-4))


def rollout() -> dict[str, Any]:
    """A rollout of PPO in one native stretch."""
    env = NativeVecEnv("CartPole-v1", 16, seed=0)
    model = PPO("MlpPolicy", env, n_steps=400_000, batch_size=4096, policy_kwargs=WIDE, seed=0)
    before = weights(model)
    seconds = interrupted(lambda: model.learn(10**9))
    facts = {
        "seconds": seconds,
        "unchanged": same(before, weights(model)),
        "in place": where_the_environments_are(model),
        "counted": 0 < model.num_timesteps < 6_400_000 and model.num_timesteps % 16 == 0,
        "log has episodes": len(model.ep_info_buffer) > 0,
    }
    model.n_steps = model.rollout_buffer.buffer_size = 64
    model.rollout_buffer.reset()
    counted = model.num_timesteps
    model.learn(2048, reset_num_timesteps=False)
    facts["goes on"] = model.num_timesteps == counted + 2048 and not same(before, weights(model))
    return facts


def exploration() -> dict[str, Any]:
    """A stretch of SAC's exploration."""
    env = NativeVecEnv("Pendulum-v1", 4, seed=0)
    # More rows than any machine steps through in the seconds before Ctrl-C: the buffer does not begin anew.
    settings = {"learning_starts": 0, "train_freq": 8_000_000, "buffer_size": 32_000_000, "seed": 0}
    model = SAC("MlpPolicy", env, gradient_steps=1, **settings)
    seconds = interrupted(lambda: model.learn(10**9))
    buffer = model.replay_buffer
    rows = buffer.pos
    live = buffer.dones[: rows - 1] == 0
    goes_on = buffer.next_observations[: rows - 1][live] == buffer.observations[1:rows][live]
    last_live = buffer.dones[rows - 1] == 0
    facts = {
        "seconds": seconds,
        "in place": where_the_environments_are(model),
        "counted": model.num_timesteps == 4 * rows and rows > 100,
        "stored": bool(goes_on.all()),
        "last": bool((buffer.next_observations[rows - 1][last_live] == model._last_obs[last_live]).all()),
    }
    model.train_freq = 8
    model._convert_train_freq()
    before = weights(model)
    model.learn(384, reset_num_timesteps=False)
    facts["goes on"] = buffer.pos == rows + 96 and not same(before, weights(model))
    return facts


def filled(model: BaseAlgorithm) -> BaseAlgorithm:
    """The model with something to learn from, without steps."""
    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    buffer = getattr(model, "rollout_buffer", None) or model.replay_buffer
    for name in (
        "observations",
        "next_observations",
        "rewards",
        "values",
        "log_probs",
        "advantages",
        "returns",
    ):
        if isinstance(column := getattr(buffer, name, None), np.ndarray):
            column[...] = rng.standard_normal(column.shape)
    if buffer.actions.dtype == np.float32:
        buffer.actions[...] = rng.uniform(-1, 1, buffer.actions.shape)
    buffer.full = True
    buffer.pos = 0 if hasattr(model, "replay_buffer") else buffer.buffer_size
    return model


def update(
    make: Callable[[], BaseAlgorithm], few: Callable[[BaseAlgorithm], Any], **many: int
) -> dict[str, Any]:
    """
    One ``train()`` that would take long.

    :param make: the model
    :param few: makes a short ``train()`` of it
    :param many: arguments of the long one
    """
    model = filled(make())
    few(model)
    before, state, updates = weights(model), optimizer_numbers(model), model._n_updates
    seconds = interrupted(lambda: model.train(**many))
    facts = {
        "seconds": seconds,
        "unchanged": same(before, weights(model)) and same(state, optimizer_numbers(model)),
        "counted": model._n_updates == updates,
    }
    few(model)
    facts["goes on"] = model._n_updates > updates and not same(before, weights(model))
    return facts


def off_policy(kind: Any, env: str, steps: int) -> dict[str, Any]:
    def make() -> BaseAlgorithm:
        return kind("MlpPolicy", env, buffer_size=10_000, policy_kwargs=WIDE, seed=0)

    def few(model: Any) -> None:
        model.train(gradient_steps=4, batch_size=256)

    return update(make, few, gradient_steps=steps, batch_size=256)


def on_policy(n_steps: int) -> dict[str, Any]:
    def make() -> BaseAlgorithm:
        return PPO("MlpPolicy", "CartPole-v1", n_steps=n_steps, n_epochs=1, policy_kwargs=WIDE, seed=0)

    def few(model: Any) -> None:
        model.rollout_buffer.shuffled_rows = lambda: np.arange(256)
        model.train()
        del model.rollout_buffer.shuffled_rows

    return update(make, few)


def bar() -> dict[str, Any]:
    """A progress bar that Ctrl-C interrupts, and one that an error does."""

    class Failing(Exception):
        pass

    def fail(*_: Any) -> bool:
        raise Failing

    model = A2C("MlpPolicy", "CartPole-v1", seed=0)
    threads = threading.active_count()
    seconds = interrupted(lambda: model.learn(10**9, progress_bar=True))
    painting = [t.name for t in threading.enumerate() if type(t).__module__.startswith("rich")]
    try:
        model.learn(10**9, callback=fail, progress_bar=True)
    except Failing:
        model.learn(100, progress_bar=True)
    dqn = DQN("MlpPolicy", "CartPole-v1", seed=0, learning_starts=10**6)
    interrupted(lambda: dqn.learn(10**9, progress_bar=True))
    painting += [t.name for t in threading.enumerate() if type(t).__module__.startswith("rich")]
    dqn.learn(100, progress_bar=True)
    return {"seconds": seconds, "closed": not painting, "threads": threads > 0}


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "rollout": rollout,
    "exploration": exploration,
    "bar": bar,
    "PPO": lambda: on_policy(320_000),
    "DQN": lambda: off_policy(DQN, "CartPole-v1", 30_000),
    "SAC": lambda: off_policy(SAC, "Pendulum-v1", 6000),
    "TD3": lambda: off_policy(TD3, "Pendulum-v1", 8000),
    "PPO in MLX": lambda: on_policy(256_000),
    "SAC in MLX": lambda: off_policy(SAC, "Pendulum-v1", 2000),
}

if __name__ == "__main__":
    # A job in the background of a shell ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("\n" + json.dumps(SCENARIOS[sys.argv[1]]()))
