"""Evaluation of policies with action masks by their returns."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from mlx_baselines3.common.evaluation import evaluate
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.contrib.common.maskable.utils import MaskSource, no_masks

__all__ = ["evaluate_policy"]


class _MaskArguments:
    """
    The masks of an evaluation, as ``predict`` takes them.

    :param env: the environments, which have been reset
    :raises ValueError: they offer no masks
    """

    def __init__(self, env: VecEnv):
        self._source = MaskSource(env)
        if self._source.kind is None:
            raise no_masks(env)

    def now(self) -> dict[str, Any]:
        return {"action_masks": self._source.masks()}

    def follow(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        self._source.follow(dones, infos)


def evaluate_policy(
    model: Any,
    env: gym.Env[Any, Any] | VecEnv,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    use_masking: bool = True,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """
    Play episodes and return their undiscounted returns, as
    :func:`mlx_baselines3.common.evaluation.evaluate_policy`, with the actions that the environments allow.

    :param model: an object whose ``predict`` takes ``action_masks``: a MaskablePPO or its policy
    :param env: an environment or a vectorised one, which offers masks
    :param n_eval_episodes: number of episodes
    :param deterministic: take the most likely actions
    :param render: call ``env.render()`` after each step
    :param callback: called with ``locals()`` and ``globals()`` after each step, once per environment that
        still has episodes to play
    :param reward_threshold: the mean return must be above it
    :param return_episode_rewards: return each episode's return and length
    :param warn: warn if there is no Monitor
    :param use_masking: ask the environments which actions they allow
    :return: mean and standard deviation of the returns, or the list of returns and the list of lengths
    :raises AssertionError: the mean return is not above the threshold
    :raises ValueError: the environments offer no masks, or one that allows nothing or does not fit
    """
    return evaluate(
        model,
        env,
        n_eval_episodes,
        {"deterministic": deterministic, "render": render},
        callback,
        reward_threshold,
        return_episode_rewards,
        warn,
        _MaskArguments if use_masking else None,
    )
