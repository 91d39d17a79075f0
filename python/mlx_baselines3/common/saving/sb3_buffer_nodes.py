"""Replay buffers as SB3 would pickle them: nodes for ``formats.sb3.pickle_writer``."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlx_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from mlx_baselines3.common.formats.sb3.pickle_writer import Global, NewObject, Node
from mlx_baselines3.common.formats.sb3.values import NotInSB3, encode, object_array
from mlx_baselines3.her import HerReplayBuffer

__all__ = ["encode_buffer"]

_BUFFERS, _HER = "stable_baselines3.common.buffers", "stable_baselines3.her.her_replay_buffer"
_NAMES = {
    ReplayBuffer: Global(_BUFFERS, "ReplayBuffer"),
    DictReplayBuffer: Global(_BUFFERS, "DictReplayBuffer"),
    NStepReplayBuffer: Global(_BUFFERS, "NStepReplayBuffer"),
    HerReplayBuffer: Global(_HER, "HerReplayBuffer"),
}
_ATTRIBUTES = (
    *("buffer_size", "observation_space", "action_space", "obs_shape", "action_dim", "pos", "full", "n_envs"),
    *("optimize_memory_usage", "handle_timeout_termination"),
    *("observations", "actions", "rewards", "dones", "timeouts"),
)
_OF_HER = (
    *("copy_info_dict", "goal_selection_strategy", "n_sampled_goal", "her_ratio"),
    *("ep_start", "ep_length", "_current_ep_start"),
)


def encode_buffer(buffer: ReplayBuffer) -> Node:
    """
    :param buffer: a replay buffer of this package
    :return: SB3's counterpart of it
    :raises NotInSB3: if there is none
    """
    kind = type(buffer)
    if kind not in _NAMES:
        raise NotInSB3(f"a {kind.__name__} is a custom class, not a buffer of SB3")
    names = [*_ATTRIBUTES]
    if not buffer.optimize_memory_usage:
        names.append("next_observations")
    elif kind is NStepReplayBuffer:
        raise NotInSB3("SB3's NStepReplayBuffer does not support optimize_memory_usage=True")
    names += ("n_steps", "gamma") if isinstance(buffer, NStepReplayBuffer) else ()
    names += _OF_HER if isinstance(buffer, HerReplayBuffer) else ()
    state = {name: encode(getattr(buffer, name)) for name in names}
    state["device"] = Node(Global("torch", "device"), ("cpu",))
    if isinstance(buffer, HerReplayBuffer):
        state["infos"] = _infos(buffer)
    return NewObject(_NAMES[kind], (), state)


def _infos(buffer: HerReplayBuffer) -> Node:
    """SB3 stores empty dicts for rows without infos, and without copy_info_dict."""
    nothing: dict[str, Any] = {}
    infos: Any = (
        buffer.infos if buffer.copy_info_dict else np.empty((buffer.buffer_size, buffer.n_envs), object)
    )
    items = [nothing if info is None else encode(info) for info in infos.reshape(-1)]
    return object_array(items, infos.shape)
