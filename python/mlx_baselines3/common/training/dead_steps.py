"""
What training does with steps that only reset: vector environments of Gymnasium's mode ``NEXT_STEP`` spend one
on each new episode, and :class:`~mlx_baselines3.common.vec_env.GymVecEnv` cannot always hide it.
"""

import warnings
import weakref
from typing import Any

import numpy as np

__all__ = ["Transition", "dead_mask", "ended_episodes", "warn_of_own_minibatches", "without_dead_steps"]

# Observations, actions and rewards.
Transition = tuple[Any, np.ndarray, np.ndarray]
_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()


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


def dead_mask(dead: list[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray | None:
    """
    :param dead: step and environment of every dead step of a rollout
    :param shape: steps and environments of the rollout
    :return: ``shape``, True at these; None if there are none
    """
    if not dead:
        return None
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(np.transpose(dead))] = True
    return mask


def warn_of_own_minibatches(buffer: Any, n_rows: int) -> None:
    """
    Say once that a rollout buffer with a ``get`` of its own has handed out dead steps.

    :param buffer: the rollout buffer
    :param n_rows: number of rows in the minibatches of one pass
    """
    dead = getattr(buffer, "dead_steps", None)
    if dead is None or n_rows <= dead.size - dead.sum() or buffer in _TOLD:
        return
    _TOLD.add(buffer)
    name = type(buffer).__name__
    warnings.warn(
        f"The vector environment spends steps on resetting, and {name}.get hands them out: of {n_rows} rows "
        f"that the policy is trained on, only {dead.size - dead.sum()} are steps of episodes. Leave out the "
        f"rows where {name}.dead_steps is True, or go by {name}.shuffled_rows(), which leaves them out.",
        stacklevel=10,
    )
