"""Conversion of Gymnasium's and EnvPool's infos, a dict of arrays, to one dict per environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def split_infos(infos: Mapping[str, Any] | Sequence[Any], n_envs: int) -> list[dict[str, Any]]:
    """
    Split infos by environment. Gymnasium marks the environments that have a ``key`` in a boolean array
    ``_key``; without it, as in EnvPool, all have it. Values that are not arrays with one entry per
    environment belong to all. SuperSuit already has a list of dicts.

    :param infos: name -> ``(n_envs, ...)`` array, list or tuple, or a dict of them; or ``n_envs`` dicts
    :param n_envs: number of environments
    :return: one dict per environment
    """
    if not isinstance(infos, Mapping):
        given = list(infos)
        if len(given) == n_envs and all(isinstance(info, Mapping) for info in given):
            # Copies, because several environments may share one empty dictionary.
            return [dict(info) for info in given]
        # SuperSuit's processes return one list per process at a reset, each numbered from 0.
        return [{} for _ in range(n_envs)]
    parts: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if isinstance(value, Mapping):
            values: Any = split_infos(value, n_envs)
        elif isinstance(value, np.ndarray | list | tuple) and len(np.shape(value)) and len(value) == n_envs:
            values = value
        else:
            values = [value] * n_envs
        for index, part in enumerate(parts):
            if mask is None or mask[index]:
                part[key] = values[index]
    return parts


def final_info(info: dict[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """
    Split the info of a same-step reset, which is that of the new episode and contains that of the old one.

    :param info: one environment's info of the step that ended its episode
    :return: info of the last step of the episode, last observation, info of the reset
    :raises ValueError: if the last observation is missing
    """
    fresh = dict(info)
    # Gymnasium 0.29 uses the long names.
    last_obs = fresh.pop("final_obs", fresh.pop("final_observation", None))
    last_info = fresh.pop("final_info", None)
    if last_obs is None:
        raise ValueError(
            "The vector environment resets within the step that ends an episode, but its info has no "
            f"'final_obs', only {sorted(info)}: the last observation of the episode is lost. "
            "If it resets in the next step, declare it in metadata['autoreset_mode']."
        )
    return dict(last_info or {}), last_obs, fresh
