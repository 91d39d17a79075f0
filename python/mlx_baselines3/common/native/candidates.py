"""Many policies of one shape, each evaluated on native environments, over the cores."""

from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3 import _native
from mlx_baselines3.common.monitor import Monitor
from mlx_baselines3.common.native.actor import native_actor
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.interrupts import interrupts_allowed
from mlx_baselines3.common.native.layers import Layer
from mlx_baselines3.common.nn.layers import named_parameters
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.common.vec_env.native_vec_env import stepped_in_rust

__all__ = ["play_candidates"]


def _plans(policy: Any, layers: tuple[Layer, ...]) -> "list[_native.TrainableLayer]":
    """The layers, with the places of their parameters in ``policy.parameters_to_vector()``."""
    starts, start = {}, 0
    for name, array in named_parameters(policy).items():
        starts[name] = start
        start += array.size
    paths: dict[int, list[str]] = {}
    for path, module in policy.named_modules():
        paths.setdefault(id(module), []).append(path)

    def part(linear: Any) -> "_native.LayerPart":
        found = paths.get(id(linear), [])
        if len(found) != 1:
            raise NotNative("a layer of the policy is in several places")
        bias = starts[f"{found[0]}.bias"] if "bias" in linear else None
        outputs = linear.weight.shape[0]
        return {"outputs": outputs, "weights": starts[f"{found[0]}.weight"], "bias": bias}

    return [
        {
            "inputs": layer.linears[0].weight.shape[1],
            "parts": [part(linear) for linear in layer.linears],
            "activation": layer.activation,
            "parameter": layer.parameter,
        }
        for layer in layers
    ]


def play_candidates(
    policy: Any, env: VecEnv, weights: np.ndarray, n_eval_episodes: int
) -> list[list[dict[str, Any]]]:
    """
    What ``evaluate_policy`` gives for one policy after the other.

    :param policy: a policy of the shape of all
    :param env: one native environment
    :param weights: (candidates, parameters) float32, each as ``parameters_to_vector`` gives them
    :param n_eval_episodes: episodes of each
    :return: for each its episodes, as Monitor reports them
    :raises NotNative: something else than Rust decides about a step
    :raises ValueError: an action is not finite
    """
    core = stepped_in_rust(env)
    if core is None:
        raise NotNative("the environment is not native, or a wrapper has to see each step")
    if env.num_envs != 1:
        raise NotNative("there are several environments")
    if not env.env_is_wrapped(Monitor)[0]:
        raise NotNative("Monitor does not report the episodes")
    actor = native_actor(policy)
    plan = actor.plan
    if plan.features or plan.keys or plan.codes:
        raise NotNative("the policy has a features extractor")
    low = high = np.empty(0, np.float32)
    space = env.action_space
    if isinstance(space, spaces.Box):
        low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
    candidates: _native.Candidates = {
        "layers": _plans(policy, plan.layers),
        "parameters": np.ascontiguousarray(weights, np.float32),
        "episodes": n_eval_episodes,
        "bounds": {"low": low, "high": high},
        "squashed": bool(policy.squash_output),
    }
    obs = np.ascontiguousarray(env.reset(), np.float32).ravel()
    with actor.lent() as lent, interrupts_allowed():
        return _native.evaluate_candidates(core, lent, obs, candidates)
