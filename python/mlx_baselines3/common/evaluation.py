"""Evaluation of policies by their returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium as gym
import numpy as np

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common._types import PolicyPredictor
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecMonitor,
    as_vec_env,
    is_vecenv_wrapped,
    is_vector_env,
)

if not TYPE_CHECKING:
    # The module imports callbacks, which import this one.
    __getattr__ = lazy_names(globals(), names={"type_aliases": "mlx_baselines3.common.type_aliases"})

EvalStepCallback = Callable[[dict[str, Any], dict[str, Any]], Any]


def _finished_episode(
    info: dict[str, Any], reward: float, length: int, is_monitor_wrapped: bool
) -> tuple[float, int] | None:
    """
    :return: return and length of the episode, ``None`` if a wrapper only reports an end (a lost life in
        Atari) that Monitor does not confirm. A step that only resets does not count
    """
    if "autoreset_step" in info:
        return None
    if not is_monitor_wrapped:
        return reward, length
    return (info["episode"]["r"], info["episode"]["l"]) if "episode" in info else None


class StepArguments(Protocol):
    """What the actions of each step depend on besides the observations."""

    def now(self) -> dict[str, Any]:
        """:return: further arguments of ``predict`` for the next step"""

    def follow(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        To be called after each step.

        :param dones: (n_envs,) whether episodes have ended
        :param infos: one for each environment
        """


def _run_episodes(
    model: PolicyPredictor,
    env: VecEnv,
    n_eval_episodes: int,
    options: dict[str, bool],
    callback: EvalStepCallback | None,
    is_monitor_wrapped: bool,
    arguments_of: Callable[[VecEnv], StepArguments] | None,
) -> tuple[list[float], list[int]]:
    n_envs = env.num_envs
    episodes: list[tuple[float, int]] = []
    # Each environment plays an equal share, so that short episodes are not over-represented.
    episode_count_targets = np.array([(n_eval_episodes + i) // n_envs for i in range(n_envs)])
    episode_counts = np.zeros(n_envs, dtype=int)
    current_rewards, current_lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=int)
    observations: Any = env.reset()
    states, episode_starts = None, np.ones(n_envs, dtype=bool)
    arguments = None if arguments_of is None else arguments_of(env)
    while (episode_counts < episode_count_targets).any():
        further = {} if arguments is None else arguments.now()
        actions, states = model.predict(
            observations,
            state=states,
            episode_start=episode_starts,
            deterministic=options["deterministic"],
            **further,
        )
        new_observations, rewards, dones, infos = env.step(actions)
        if arguments is not None:
            arguments.follow(dones, infos)
        current_rewards += rewards
        current_lengths += 1
        for i in np.flatnonzero(episode_counts < episode_count_targets).tolist():
            # The callback gets these names in its first argument.
            reward, done, info = rewards[i], dones[i], infos[i]
            episode_starts[i] = done
            if callback is not None:
                callback(locals(), globals())
            if done:
                episode = _finished_episode(info, current_rewards[i], current_lengths[i], is_monitor_wrapped)
                if episode is not None:
                    episodes.append(episode)
                    episode_counts[i] += 1
                current_rewards[i] = current_lengths[i] = 0
        observations = new_observations
        if options["render"]:
            env.render()
    return [reward for reward, _ in episodes], [length for _, length in episodes]


def evaluate_policy(
    model: PolicyPredictor,
    env: gym.Env[Any, Any] | VecEnv,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: EvalStepCallback | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """
    Play episodes and return their undiscounted returns. Several environments share the episodes equally.
    Returns and lengths are Monitor's if there is one, because outer wrappers may change rewards and ends;
    otherwise they are counted here.

    :param model: an object with ``predict``: an algorithm or a policy
    :param env: an environment or a vectorised one, also Gymnasium's or EnvPool's
    :param n_eval_episodes: number of episodes
    :param deterministic: take the most likely actions
    :param render: call ``env.render()`` after each step
    :param callback: called with ``locals()`` and ``globals()`` after each step, once per environment that
        still has episodes to play; the names include ``observations``, ``new_observations``, ``reward``,
        ``done``, ``info``, ``i`` and ``model``
    :param reward_threshold: the mean return must be above it
    :param return_episode_rewards: return each episode's return and length
    :param warn: warn if there is no Monitor
    :return: mean and standard deviation of the returns, or the list of returns and the list of lengths
    :raises AssertionError: the mean return is not above the threshold
    """
    options = {"deterministic": deterministic, "render": render}
    return evaluate(
        model, env, n_eval_episodes, options, callback, reward_threshold, return_episode_rewards, warn
    )


def evaluate(
    model: PolicyPredictor,
    env: gym.Env[Any, Any] | VecEnv,
    n_eval_episodes: int,
    options: dict[str, bool],
    callback: EvalStepCallback | None,
    reward_threshold: float | None,
    return_episode_rewards: bool,
    warn: bool,
    arguments_of: Callable[[VecEnv], StepArguments] | None = None,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """
    As :func:`evaluate_policy`, for models whose ``predict`` takes further arguments.

    :param model: an object with ``predict``
    :param env: an environment or a vectorised one
    :param n_eval_episodes: number of episodes
    :param options: ``deterministic`` and ``render``
    :param callback: called after each step
    :param reward_threshold: the mean return must be above it
    :param return_episode_rewards: return each episode's return and length
    :param warn: warn if there is no Monitor
    :param arguments_of: called once the environments are reset; gives what each step's actions depend on
    :return: mean and standard deviation of the returns, or the list of returns and the list of lengths
    :raises AssertionError: the mean return is not above the threshold
    """
    if is_vector_env(env):
        env = as_vec_env(env)
    if not isinstance(env, VecEnv):
        single_env = env
        env = DummyVecEnv([lambda: single_env])
    is_monitor_wrapped = is_vecenv_wrapped(env, VecMonitor) or env.env_is_wrapped(Monitor)[0]
    if not is_monitor_wrapped and warn:
        warnings.warn(
            "Evaluation environment is not wrapped with a ``Monitor`` wrapper. "
            "This may result in reporting modified episode lengths and rewards, "
            "if other wrappers happen to modify these. "
            "Consider wrapping environment first with ``Monitor`` wrapper.",
            UserWarning,
            stacklevel=3,
        )
    episode_rewards, episode_lengths = _run_episodes(
        model, env, n_eval_episodes, options, callback, is_monitor_wrapped, arguments_of
    )
    mean_reward: Any = np.mean(episode_rewards)
    std_reward: Any = np.std(episode_rewards)
    if reward_threshold is not None:
        assert mean_reward > reward_threshold, (
            f"Mean reward below threshold: {mean_reward:.2f} < {reward_threshold:.2f}"
        )
    if return_episode_rewards:
        return episode_rewards, episode_lengths
    return mean_reward, std_reward
