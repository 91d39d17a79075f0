"""
Conditions for native computation: methods that are not overridden, parts of known classes, buffers that Rust
can write to, noise that can be drawn ahead.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import (
    NStepReplayBuffer,
    ReplayBuffer,
    RolloutBuffer,
)
from mlx_baselines3.common.nn.layers import is_exactly
from mlx_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

__all__ = [
    "NotNative",
    "can_store_natively",
    "check_collection",
    "check_parts",
    "check_rollout_buffer",
    "check_unchanged",
    "is_shipped",
    "mlx_infers",
    "predrawable_noises",
    "python_steps",
]

# Methods of off-policy algorithms that several steps in Rust replace, or call later than single steps would.
_COLLECTION_HOOKS = (
    "_on_step", "_random_steps", "_sample_action", "_store_transition", "_update_current_progress_remaining",
    "_update_info_buffer", "predict", "progress_at",
)  # fmt: skip
_NOISES = (NormalActionNoise, OrnsteinUhlenbeckActionNoise)
_REPLAY_BUFFERS = (ReplayBuffer, NStepReplayBuffer)
_REPLAY_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class NotNative(Exception):
    """Raised for something that only MLX or Python can compute. The message follows "because"."""


def mlx_infers(reason: Any) -> str:
    """
    :param reason: why the policy is not native
    :return: the message for users
    """
    return f"MLX infers each step of the rollouts, because {reason}."


def python_steps(reason: Any) -> str:
    """
    :param reason: why native environments are not stepped in Rust, although the policy may be native
    :return: the message for users
    """
    return f"Python takes each step of the rollouts, because {reason}."


def check_unchanged(policy: Any, base: type, names: Collection[str]) -> None:
    """
    :param policy: a policy, or another object that Rust replaces
    :param base: its class in this package
    :param names: methods that determine what Rust would compute
    :raises NotNative: if a subclass, or the object itself, overrides one
    """
    own, kind = vars(policy), type(policy)
    # The usual case first, because this runs at every prediction.
    if kind is base and own.keys().isdisjoint(names):
        return
    for name in names:
        if name in own or getattr(kind, name) is not getattr(base, name):
            raise NotNative(f"{kind.__name__} has its own {name}")


def check_parts(*parts: tuple[Any, type]) -> None:
    """
    :param parts: parts of a policy, each with the class that it must be of, no subclass
    :raises NotNative: one is of another class
    """
    for part, kind in parts:
        if not is_exactly(part, kind):
            raise NotNative(f"the policy has a {type(part).__name__}")


def is_shipped(method: Any) -> bool:
    """
    :param method: a function or a bound method
    :return: whether it is this package's, and not a user's
    """
    return str(method.__module__).startswith("mlx_baselines3.")


def check_rollout_buffer(buffer: Any) -> None:
    """
    :param buffer: a rollout buffer
    :raises NotNative: it is of a class that Rust does not know
    """
    if not isinstance(buffer, RolloutBuffer) or "_rows_are_plain" not in vars(type(buffer)):
        raise NotNative(f"the rollout buffer is a {type(buffer).__name__}")


def check_collection(model: Any, buffer: Any, noise: ActionNoise | None) -> None:
    """
    :param model: an off-policy algorithm
    :param buffer: its replay buffer
    :param noise: its action noise
    :raises NotNative: its steps in native environments cannot be taken in Rust, whatever its policy is
    """
    kind = type(model)
    for name in _COLLECTION_HOOKS:
        # Algorithms of this package override some of them, and Rust knows how.
        if name in vars(model) or not is_shipped(getattr(kind, name)):
            raise NotNative(f"{kind.__name__} has its own {name}")
    if predrawable_noises(noise) is None:
        raise NotNative(_why_not_predrawable(noise))
    if not can_store_natively(buffer, model.action_space):
        name = type(buffer).__name__
        known = type(buffer) in _REPLAY_BUFFERS
        raise NotNative(f"this {name} was changed" if known else f"the replay buffer is a {name}")


def can_store_natively(buffer: Any, action_space: spaces.Space[Any]) -> bool:
    """
    :param buffer: a replay buffer
    :param action_space: the action space
    :return: whether Rust can store steps as the buffer's own ``add`` does
    """
    if type(buffer) not in _REPLAY_BUFFERS or "add" in vars(buffer):
        return False
    dtype = np.int64 if isinstance(action_space, spaces.Discrete) else np.float32
    rows = (buffer.buffer_size, buffer.n_envs)
    columns = [vars(buffer)[name] for name in _REPLAY_COLUMNS if name in vars(buffer)]
    return all(
        column.dtype == (dtype if column is buffer.actions else np.float32)
        and column.flags.c_contiguous
        and column.shape[:2] == rows
        for column in columns
    )


def predrawable_noises(noise: ActionNoise | None) -> list[ActionNoise] | None:
    """
    :param noise: the noise of all environments
    :return: the processes it consists of, if they are known to draw from NumPy's global generator and to
        give float32 numbers; else None
    """
    if noise is None:
        return []
    parts = noise.noises if type(noise) is VectorizedActionNoise else [noise]
    if any(type(part) not in _NOISES or {"__call__", "reset"} & vars(part).keys() for part in parts):
        return None
    return parts if all(np.dtype(part._dtype) == np.float32 for part in parts) else None  # type: ignore[attr-defined]


def _why_not_predrawable(noise: Any) -> str:
    parts = noise.noises if type(noise) is VectorizedActionNoise else [noise]
    unknown = next((type(part).__name__ for part in parts if type(part) not in _NOISES), None)
    if unknown is not None:
        return f"the action noise is a {unknown}"
    return f"this {type(parts[0]).__name__} was changed or does not give float32 numbers"
