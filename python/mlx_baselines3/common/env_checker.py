"""Checks that an environment follows Gymnasium's interface and works with the algorithms of this package."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.preprocessing import check_for_nested_spaces
from mlx_baselines3.common.preprocessing import is_image_space_channels_first as is_image_space_channels_first
from mlx_baselines3.common.vec_env import DummyVecEnv, VecCheckNan

_GOAL_KEYS = ("achieved_goal", "desired_goal")
# Maximum number of invalid entries listed in a message.
_MAX_LISTED = 100


# NatureCNN's three convolutions reduce smaller images to nothing.
_MIN_IMAGE_SIZE = 36


def _advise(message: str) -> None:
    # No stacklevel: the caller of check_env is a varying number of frames up.
    warnings.warn(message, UserWarning, stacklevel=2)


def _check_start(space: spaces.Space[Any], role: str, key: str = "") -> None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start != 0):
        where = f" (key='{key}')" if key else ""
        _advise(
            f"{type(space).__name__} {role} space{where} with a non-zero start (start={space.start}) "
            f"is not supported. Use a wrapper that subtracts it, or let the {role} space start at 0."
        )


def _check_multidiscrete(space: spaces.Space[Any], role: str) -> None:
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim > 1:
        _advise(
            f"The MultiDiscrete {role} space uses a multidimensional array {space.nvec} "
            "which is not supported. Flatten it to one dimension with a wrapper."
        )


def check_image_space(space: spaces.Box, key: str = "") -> None:
    """
    Warn about image spaces (three axes) that the CNN policies cannot use well.

    :param space: the space
    :param key: its key, if it is part of a ``Dict``
    """
    if space.dtype != np.uint8:
        _advise(
            f"It seems that your observation {key} is an image but its `dtype` is ({space.dtype}) "
            "whereas it has to be `np.uint8`. If it is not an image, flatten it to a vector."
        )
    if np.any(space.low != 0) or np.any(space.high != 255):
        _advise(
            f"It seems that your observation space {key} is an image but the upper and lower bounds "
            "are not in [0, 255]. The CNN policy divides images by 255."
        )
    sides = space.shape[1:] if is_image_space_channels_first(space) else space.shape[:2]
    if min(sides) < _MIN_IMAGE_SIZE:
        _advise(
            f"The minimal resolution for an image is {_MIN_IMAGE_SIZE}x{_MIN_IMAGE_SIZE} for the default "
            f"`CnnPolicy`, observation {key} has {sides[0]}x{sides[1]}. Use your own features extractor."
        )


def _check_box_observation(space: spaces.Box, key: str = "") -> None:
    """
    Warn about unconventional shapes of observations.

    :param space: the space
    :param key: its key, if it is part of a ``Dict``
    """
    if len(space.shape) == 3:
        check_image_space(space, key)
    elif len(space.shape) != 1:
        _advise(
            f"Your observation {key} has an unconventional shape {space.shape} "
            "(neither an image, nor a 1D vector). We recommend you to flatten it "
            "to a 1D vector or to use a custom policy that processes it."
        )


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return [space, *space.spaces.values()]
    return [space, *space.spaces] if isinstance(space, spaces.Tuple) else [space]


def _check_unsupported_observation(space: spaces.Space[Any]) -> bool:
    """
    Warn about observation spaces that no policy supports.

    :param space: the observation space
    :return: True if the returned observations cannot be checked either
    """
    _check_start(space, "observation")
    _check_multidiscrete(space, "observation")
    if isinstance(space, spaces.Dict):
        for key, subspace in space.spaces.items():
            _check_start(subspace, "observation", key)
        if any(isinstance(subspace, spaces.Dict) for subspace in space.spaces.values()):
            _advise(
                "Nested observation spaces are not supported (Dict spaces inside Dict space). "
                "Flatten it to one level of keys: "
                "`dict(a=Box(), b=Box())` rather than `dict(ab=dict(a=Box(), b=Box()))`."
            )
    if isinstance(space, spaces.Tuple):
        _advise(
            "The observation space is a Tuple, this is currently not supported. Convert it to a Dict "
            "(cf. https://gymnasium.farama.org/api/spaces/composite/#dict), which is."
        )
    return _warn_unchecked(space)


def _warn_unchecked(space: spaces.Space[Any]) -> bool:
    parts = _parts(space)
    found = [
        # Gymnasium 0.29 has no OneOf.
        ("OneOf", isinstance(space, getattr(spaces, "OneOf", ())), ""),
        ("Sequence", any(isinstance(part, spaces.Sequence) for part in parts), " Pad it to a fixed size."),
        ("Graph", any(isinstance(part, spaces.Graph) for part in parts), ""),
    ]
    for name, present, hint in found:
        if present:
            _advise(
                f"{name} observation space is not supported.{hint}\n"
                "Note: The checks for returned values are skipped."
            )
    return any(present for _, present, _ in found)


def _check_unsupported_action(space: spaces.Space[Any]) -> None:
    """
    Warn about action spaces that no policy supports.

    :param space: the action space
    """
    _check_start(space, "action")
    _check_multidiscrete(space, "action")
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        _advise(
            f"The action space is a {type(space).__name__}, not based off a numpy array. "
            "This is currently not supported. You should try to flatten the action using a wrapper."
        )


def _check_box_action(space: spaces.Box) -> None:
    """
    Warn about unfavourable spaces of continuous actions.

    :param space: the action space
    :raises AssertionError: a bound is infinite
    """
    if np.any(space.low != -1) or np.any(space.high != 1):
        _advise(
            "We recommend you to use a symmetric and normalized Box action space (range=[-1, 1]): "
            "a Gaussian policy starts with actions of about that size."
        )
    assert np.all(np.isfinite([space.low, space.high])), (
        f"Continuous action space must have a finite lower and upper bound, got {space}"
    )
    if space.dtype != np.float32:
        _advise(
            f"Your action space has dtype {space.dtype}, we recommend using np.float32 to avoid cast errors."
        )


def _is_goal_env(env: gym.Env[Any, Any]) -> bool:
    # unwrapped: some wrappers define compute_reward too.
    return hasattr(env.unwrapped, "compute_reward")


def _check_nan(env: gym.Env[Any, Any]) -> None:
    vec_env = VecCheckNan(DummyVecEnv([lambda: env]))
    vec_env.reset()
    for _ in range(10):
        vec_env.step(np.array([env.action_space.sample()]))


def _check_bounds(obs: np.ndarray, space: spaces.Box, method: str) -> None:
    bad = np.argwhere((obs < space.low) | (obs > space.high))
    if len(bad) == 0:
        return
    lines = [
        f"Expected: {space.low[index]} <= obs[{','.join(map(str, index))}] <= {space.high[index]}, "
        f"actual value: {obs[index]} "
        for index in map(tuple, bad[:_MAX_LISTED].tolist())
    ]
    if len(bad) > _MAX_LISTED:
        lines.append(f"... and {len(bad) - _MAX_LISTED} more")
    raise AssertionError(
        f"The observation returned by the `{method}()` method does not match the bounds "
        f"of the given observation space {space}. \n{len(bad)} invalid indices: \n" + "\n".join(lines)
    )


def _check_array(obs: np.ndarray, space: spaces.Space[Any], method: str) -> None:
    start = f"The observation returned by the `{method}()` method does not match"
    assert space.shape == obs.shape, (
        f"{start} the shape of the given observation space {space}. "
        f"Expected: {space.shape}, actual shape: {obs.shape}"
    )
    assert space.dtype is None or np.can_cast(obs.dtype, space.dtype), (
        f"{start} the data type (cannot cast) of the given observation space {space}. "
        f"Expected: {space.dtype}, actual dtype: {obs.dtype}"
    )
    if isinstance(space, spaces.Box):
        _check_bounds(obs, space, method)


def _check_obs(obs: Any, space: spaces.Space[Any], method: str) -> None:
    if not isinstance(space, spaces.Tuple):
        assert not isinstance(obs, tuple), (
            f"The observation returned by the `{method}()` method should be a single value, not a tuple"
        )
    if isinstance(space, spaces.Discrete):
        assert np.issubdtype(type(obs), np.integer), (
            f"The observation returned by `{method}()` method must be an int, got {type(obs)}"
        )
    elif not isinstance(space, (spaces.Dict, spaces.Tuple)):
        assert isinstance(obs, np.ndarray), (
            f"The observation returned by `{method}()` method must be a numpy array, got {type(obs)}"
        )
    if isinstance(obs, np.ndarray):
        _check_array(obs, space, method)
    assert space.contains(obs), (
        f"The observation returned by the `{method}()` method "
        f"does not match the given observation space {space}"
    )


def _check_dict_obs(obs: Any, space: spaces.Dict, method: str) -> None:
    assert isinstance(obs, dict), (
        f"The observation returned by `{method}()` must be a dictionary, got {type(obs)}"
    )
    assert obs.keys() == space.spaces.keys(), (
        f"The observation keys returned by `{method}()` must match the observation "
        f"space keys: {list(obs)} != {list(space.spaces)}"
    )
    for key, subspace in space.spaces.items():
        try:
            _check_obs(obs[key], subspace, method)
        except AssertionError as error:
            raise AssertionError(f"Error while checking key={key}: {error}") from error


def _check_any_obs(obs: Any, env: gym.Env[Any, Any], method: str) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        _check_obs(obs, space, method)
        return
    if _is_goal_env(env):
        _check_goal_keys(space, method)
    _check_dict_obs(obs, space, method)


def _check_goal_keys(space: spaces.Dict, method: str) -> None:
    keys = list(space.spaces)
    assert len(keys) >= 3, (
        "A goal conditioned env must contain at least 3 observation keys: `observation`, `achieved_goal`, "
        f"and `desired_goal`. The current observation contains {len(keys)} keys: {keys}"
    )
    for key in _GOAL_KEYS:
        assert key in keys, (
            f"The observation returned by the `{method}()` method of a goal-conditioned env requires "
            f"the '{key}' key to be part of the observation dictionary. Current keys are {keys}"
        )


def _check_goal_reward(obs: dict[str, Any], env: Any, reward: float, info: dict[str, Any]) -> None:
    # HER calls compute_reward with a batch, so single and batched calls must agree.
    achieved, desired = (obs[key] for key in _GOAL_KEYS)
    single = env.unwrapped.compute_reward(achieved, desired, info)
    assert reward == single, (
        f"The reward was not computed with `compute_reward()`: step() gave {reward}, it gives {single}"
    )

    def batch(goal: Any) -> np.ndarray:
        goals = np.array([goal, goal])
        return goals.reshape(2, 1) if goals.ndim == 1 else goals

    rewards = env.unwrapped.compute_reward(batch(achieved), batch(desired), np.array([info, info]))
    assert rewards.shape == (2,), (
        f"Unexpected shape for vectorized computation of reward: {rewards.shape} != (2,)"
    )
    assert rewards[0] == reward, (
        f"Vectorized computation of reward differs from single computation: {rewards[0]} != {reward}"
    )


def _check_reset(env: gym.Env[Any, Any]) -> None:
    result = env.reset()
    assert isinstance(result, tuple), f"`reset()` must return a tuple (obs, info), got {type(result)}"
    assert len(result) == 2, f"`reset()` must return a tuple of size 2 (obs, info), not {len(result)}"
    obs, info = result
    assert isinstance(info, dict), (
        f"The second element of the tuple return by `reset()` must be a dictionary not {info}"
    )
    _check_any_obs(obs, env, "reset")


def _check_step(env: gym.Env[Any, Any]) -> None:
    result = env.step(env.action_space.sample())
    assert len(result) == 5, (
        "The `step()` method must return five values: "
        f"obs, reward, terminated, truncated, info. Actual: {len(result)} values returned."
    )
    obs, reward, terminated, truncated, info = result
    # An int is cast to float later.
    assert isinstance(reward, (float, int)), (
        f"The reward returned by `step()` must be a float, got {type(reward)}"
    )
    assert isinstance(terminated, bool), f"The `terminated` signal must be a boolean, got {type(terminated)}"
    assert isinstance(truncated, bool), f"The `truncated` signal must be a boolean, got {type(truncated)}"
    assert isinstance(info, dict), (
        f"The `info` returned by `step()` must be a python dictionary, got {type(info)}"
    )
    _check_any_obs(obs, env, "step")
    if _is_goal_env(env):
        _check_goal_reward(obs, env, float(reward), info)


def _check_spaces(env: gym.Env[Any, Any]) -> None:
    see = "cf. https://gymnasium.farama.org/api/spaces/"
    for name, role in (("observation_space", "observation"), ("action_space", "action")):
        assert hasattr(env, name), f"You must specify an {role} space ({see})"
        assert isinstance(getattr(env, name), spaces.Space), (
            f"The {role} space must inherit from gymnasium.spaces ({see})"
        )
    if _is_goal_env(env):
        print(
            "We detected your env to be a GoalEnv because `env.compute_reward()` was defined.\n"
            "If it's not the case, please rename `env.compute_reward()` "
            "to something else to avoid False positives."
        )
        assert isinstance(env.observation_space, spaces.Dict), (
            "Goal conditioned envs require the observation space to be gymnasium.spaces.Dict, "
            f"got {env.observation_space}.\n"
            "Note: if your env is not a GoalEnv, please rename `env.compute_reward()`."
        )


def _check_render(env: gym.Env[Any, Any], warn: bool = False) -> None:
    if warn and env.metadata.get("render_modes") is None:
        warnings.warn(
            "No render modes was declared in the environment "
            "(env.metadata['render_modes'] is None or not defined), "
            "you may have trouble when calling `.render()`",
            stacklevel=3,
        )
    if env.render_mode:
        env.render()
    env.close()


def _check_for_algorithms(env: gym.Env[Any, Any]) -> bool:
    """
    :return: True if the returned observations cannot be checked
    """
    skip = _check_unsupported_observation(env.observation_space)
    _check_unsupported_action(env.action_space)
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if isinstance(part, spaces.Box):
            _check_box_observation(part, key)
    if isinstance(env.action_space, spaces.Box):
        _check_box_action(env.action_space)
    return skip


def check_env(env: gym.Env[Any, Any], warn: bool = True, skip_render_check: bool = True) -> None:
    """
    Check that an environment follows Gymnasium's interface and, with ``warn``, that it works with the
    algorithms of this package. It is reset and stepped a few times.

    :param env: the environment
    :param warn: also give advice, as warnings
    :param skip_render_check: do not call ``render()`` and ``close()``
    :raises AssertionError: the interface is violated; the message says where
    :raises TypeError: ``reset()`` takes no ``seed``
    """
    assert isinstance(env, gym.Env), (
        "Your environment must inherit from the gymnasium.Env class "
        f"cf. https://gymnasium.farama.org/api/env/, got {type(env)}"
    )
    _check_spaces(env)
    try:
        env.reset(seed=0)
    except TypeError as error:
        raise TypeError("The reset() method must accept a `seed` parameter") from error
    if warn and _check_for_algorithms(env):
        return
    _check_reset(env)
    _check_step(env)
    if not skip_render_check:
        _check_render(env, warn)
    try:
        check_for_nested_spaces(env.observation_space)
        # DummyVecEnv supports neither nested observations nor Dict actions; the warnings above say so.
        _check_nan(env)
    except NotImplementedError:
        return
