"""From Gymnasium's and EnvPool's infos, one dictionary of arrays, to one dictionary for each environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def split_infos(infos: Mapping[str, Any] | Sequence[Any], n_envs: int) -> list[dict[str, Any]]:
    """
    Give every environment its own info. Gymnasium marks by an array ``_key`` of booleans who has a ``key``;
    without one, as in EnvPool, all have it. What is no array of one entry for each belongs to all. SuperSuit
    has a list of dictionaries already.

    :param infos: name -> ``(n_envs, ...)`` array, list or tuple, or a dictionary of them; or ``n_envs``
        dictionaries
    :param n_envs: number of environments
    :return: one dictionary for each
    """
    if not isinstance(infos, Mapping):
        given = list(infos)
        if len(given) == n_envs and all(isinstance(info, Mapping) for info in given):
            # Copies, because several environments may share one empty dictionary.
            return [dict(info) for info in given]
        # A reset of SuperSuit's processes gives a list for each process, numbered anew in each.
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
    Take the info of a same-step reset apart. It is that of the new episode and holds that of the old one.

    :param info: one environment's info of the step that ended its episode
    :return: info of the last step of the episode, last observation, info of the reset
    :raises ValueError: if the last observation is not there
    """
    fresh = dict(info)
    # Gymnasium 0.29 spells the names out.
    last_obs = fresh.pop("final_obs", fresh.pop("final_observation", None))
    last_info = fresh.pop("final_info", None)
    if last_obs is None:
        raise ValueError(
            "The vector environment resets within the step that ends an episode, but its info has no "
            f"'final_obs', only {sorted(info)}: the last observation of the episode is lost. "
            "If it resets in the step after, let it say so: metadata['autoreset_mode']."
        )
    return dict(last_info or {}), last_obs, fresh
