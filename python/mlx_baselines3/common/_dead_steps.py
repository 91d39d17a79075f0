"""
What training does with steps that only reset: vector environments of Gymnasium's mode ``NEXT_STEP`` spend one
on each new episode, and :class:`~mlx_baselines3.common.vec_env.GymVecEnv` cannot always hide it.
"""

import warnings
import weakref
from typing import Any

import numpy as np

from mlx_baselines3.common.vec_env import VecEnv

__all__ = ["Transition", "ended_episodes", "warn_of_dead_steps", "without_dead_steps"]

# Observations, actions and rewards.
Transition = tuple[Any, np.ndarray, np.ndarray]
_TOLD: weakref.WeakSet[VecEnv] = weakref.WeakSet()


def without_dead_steps(
    given: Transition, before: Transition | None, infos: list[dict[str, Any]]
) -> Transition:
    """
    Put true transitions in the place of dead steps: a row of a replay buffer has a place for every
    environment. The last transition of the episode stands there once more; its end is in the info.

    :param given: what to store for a step of all environments
    :param before: what was stored for the step before; None at the first
    :param infos: one per environment
    :return: what to store
    """
    dead = [i for i, info in enumerate(infos) if "autoreset_step" in info]
    if not dead or before is None:
        return given
    obs, actions, rewards = (
        _with_rows(dead, ours, theirs) for ours, theirs in zip(given, before, strict=True)
    )
    return obs, actions, rewards


def _with_rows(rows: list[int], array: Any, source: Any) -> Any:
    if isinstance(array, dict):
        return {key: _with_rows(rows, part, source[key]) for key, part in array.items()}
    changed = np.array(array)
    changed[rows] = source[rows]
    return changed


def ended_episodes(dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
    """
    :param dones: (n_envs,) what the environments say
    :param infos: one per environment
    :return: (n_envs,) the same without dead steps, whose episode ended before
    """
    if not np.any(dones):
        return dones
    return np.array([done and "autoreset_step" not in info for done, info in zip(dones, infos, strict=True)])


def warn_of_dead_steps(env: VecEnv) -> None:
    """
    Say once that a rollout holds dead steps.

    :param env: the training environments
    """
    env = env.unwrapped
    if getattr(env, "n_dead_steps", 0) and env not in _TOLD:
        _TOLD.add(env)
        warnings.warn(
            "The vector environment spends a step on resetting, and the rollouts hold these steps: one more "
            "at each end of an episode, with the reward 0; the policy is trained on them. If it obeys "
            "reset(options={'reset_mask': mask}), pass GymVecEnv(env, reset_mask=True); else "
            "let it reset within the last step of an episode (AutoresetMode.SAME_STEP).",
            stacklevel=4,
        )
