"""Models to compare gradient steps in Rust with MLX's on."""

from typing import Any

import gymnasium as gym
import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3 import A2C, DQN, PPO
from mlx_baselines3.common.logger import Logger

OBS = spaces.Box(-5, 5, (2, 3), np.float32)
BOX = spaces.Box(-1, 1, (2,), np.float32)
ROWS = 24
SETTING = "MLX_BASELINES3_UPDATES"


class Spaces(gym.Env[Any, Any]):
    """An environment of which only the spaces matter."""

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Space = OBS):
        self.action_space, self.observation_space = action_space, observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def on_policy(cls, action_space=BOX, rows=ROWS, **kwargs) -> Any:
    """A model with numbers in its rollout."""
    kwargs = {"policy_kwargs": {"net_arch": [7, 5]}, "seed": 1, **kwargs}
    model = cls("MlpPolicy", Spaces(action_space), n_steps=rows, **kwargs)
    model.set_logger(Logger(None, []))
    rng, buffer = np.random.default_rng(3), model.rollout_buffer
    for array in (buffer.observations, buffer.values, buffer.advantages, buffer.returns):
        array[:] = rng.normal(size=array.shape)
    action_space.seed(4)
    buffer.actions[:] = np.array([action_space.sample() for _ in range(rows)]).reshape(buffer.actions.shape)
    # Near what the policy says, so that some rows are clipped and some are not.
    actions = mx.array(buffer.actions[:, 0])
    if isinstance(action_space, spaces.Discrete):
        actions = actions.flatten().astype(mx.int32)
    _, log_probs, _ = model.policy.evaluate_actions(mx.array(buffer.observations[:, 0]), actions)
    buffer.log_probs[:, 0] = np.array(log_probs) + 0.2 * rng.normal(size=rows)
    buffer.full = True
    return model


def off_policy(cls, rows=ROWS, **kwargs) -> Any:
    """A model with numbers in its replay buffer."""
    kwargs = {"policy_kwargs": {"net_arch": [7, 5]}, "seed": 1, "buffer_size": 50, **kwargs}
    chooses = issubclass(cls, DQN)
    action_space = spaces.Discrete(3) if chooses else BOX
    model = cls("MlpPolicy", Spaces(action_space), batch_size=rows, **kwargs)
    model.set_logger(Logger(None, []))
    rng, buffer = np.random.default_rng(3), model.replay_buffer
    for _ in range(50):
        obs, next_obs = rng.normal(size=(2, 1, *OBS.shape))
        action = rng.integers(3, size=(1, 1)) if chooses else rng.uniform(-1, 1, (1, 2))
        done = rng.random(1) < 0.2
        buffer.add(obs, next_obs, action, rng.normal(size=1), done, [{}])
    return model


def train(model: Any, steps: int) -> None:
    # Not that of the model's seed, which both would share.
    np.random.seed(5)  # noqa: NPY002
    mx.random.seed(6)
    if isinstance(model, (PPO, A2C)):
        for _ in range(steps):
            model.train()
    else:
        model.train(gradient_steps=steps, batch_size=model.batch_size)


def state_of(model: Any) -> dict[str, np.ndarray]:
    """Everything that an update changes, and what it logs."""
    state = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    owners = [getattr(model.policy, name, None) for name in ("actor", "critic")]
    for owner in (model.policy, *owners, model):
        for name in ("optimizer", "ent_coef_optimizer"):
            if (optimizer := getattr(owner, name, None)) is not None:
                kind = type(owner).__name__
                state |= {f"{kind}.{key}": value for key, value in optimizer.state_dict().items()}
    state |= {f"log.{name}": np.array(value) for name, value in model.logger.name_to_value.items()}
    if getattr(model, "log_ent_coef", None) is not None:
        state["log_ent_coef"] = model.log_ent_coef
    return {name: np.array(value, np.float64) for name, value in state.items()}


def both_ways(monkeypatch, make, steps: int = 3) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What Rust and what MLX make of the same model."""
    answers = []
    for who in ("native", "mlx"):
        monkeypatch.setenv(SETTING, who)
        model = make()
        before = state_of(model)
        train(model, steps)
        assert (model._updater.compiled is None) == (who == "native")
        answers.append(state_of(model))
        changed = [name for name, value in before.items() if not np.array_equal(value, answers[-1][name])]
        assert len(changed) > len(before) // 2
    return answers[0], answers[1]


def assert_close(native: dict[str, np.ndarray], mlx: dict[str, np.ndarray], tolerance: float = 2e-5) -> None:
    assert native.keys() == mlx.keys()
    for name, value in native.items():
        np.testing.assert_allclose(value, mlx[name], rtol=tolerance, atol=tolerance, err_msg=name)
