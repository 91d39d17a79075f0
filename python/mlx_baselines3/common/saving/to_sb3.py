"""Models for SB3. Reached through :mod:`~mlx_baselines3.export`."""

from __future__ import annotations

import base64
import io
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.optimizers as optim
import numpy as np

from mlx_baselines3._system_info import get_system_info
from mlx_baselines3.common._model import Model
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.formats.archive import atomic_open, write_entries
from mlx_baselines3.common.formats.paths import open_path
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3.pickle_writer import write, write_to
from mlx_baselines3.common.formats.sb3.values import NotInSB3, encode, torch_kwargs
from mlx_baselines3.common.nn.layers import named_parameters
from mlx_baselines3.common.nn.optimizers import RMSpropTFLike
from mlx_baselines3.common.save_util import is_json_serializable, recursive_getattr
from mlx_baselines3.common.saving.sb3_buffer_nodes import encode_buffer

__all__ = ["SB3_VERSION", "export_replay_buffer", "export_sb3"]

# Whose layout is written, and whose interface the package has.
SB3_VERSION = "2.9.2"
_SWITCHES: dict[str, Any] = {"maximize": False, "foreach": None, "differentiable": False}
# Of each optimizer: torch's names of its running averages, its numbers, and the rest of what torch keeps.
# The first that an optimizer is an instance of counts, so subclasses come first.
_TORCH_LAYOUTS: tuple[tuple[type, dict[str, str], tuple[str, ...], dict[str, Any]], ...] = (
    (
        optim.AdamW,
        {"m": "exp_avg", "v": "exp_avg_sq"},
        ("betas", "eps", "weight_decay"),
        {"amsgrad": False, "capturable": False, "fused": None, "decoupled_weight_decay": True, **_SWITCHES},
    ),
    (
        optim.Adam,
        {"m": "exp_avg", "v": "exp_avg_sq"},
        ("betas", "eps"),
        {"weight_decay": 0, "amsgrad": False, "capturable": False, "fused": None, **_SWITCHES},
    ),
    (
        RMSpropTFLike,
        {"v": "square_avg", "momentum_buffer": "momentum_buffer", "grad_avg": "grad_avg"},
        ("alpha", "eps", "momentum", "centered", "weight_decay"),
        {},
    ),
    (
        optim.RMSprop,
        {"v": "square_avg"},
        ("alpha", "eps"),
        {"momentum": 0, "centered": False, "weight_decay": 0, "capturable": False, **_SWITCHES},
    ),
    (
        optim.SGD,
        {"v": "momentum_buffer"},
        ("momentum", "dampening", "weight_decay", "nesterov"),
        {"fused": None, **_SWITCHES},
    ),
)


def export_sb3(
    model: Model,
    path: str | pathlib.Path | io.BufferedIOBase,
    exclude: Iterable[str] | None = None,
    include: Iterable[str] | None = None,
) -> None:
    """
    Write a model as SB3 2.9 saves it: ``stable_baselines3.PPO.load(path)`` acts as this one does and goes on
    training, its optimizer's state included. torch is not needed here. As in SB3, functions of your own are
    pickled into the file.

    :param model: the algorithm
    :param path: the file (".zip" is added if there is no suffix) or an open binary file
    :param exclude: attributes to leave out besides the usual ones
    :param include: attributes to write although they are usually left out
    :raises NotInSB3: if the model has a part that torch or SB3 has no counterpart of, such as a network of
        your own; the text names it
    """
    objects, variables = model._get_torch_save_params()
    left_out = set(exclude or ()).union(model._excluded_save_params()).difference(include or ())
    left_out |= {name.split(".")[0] for name in objects + variables}
    data = {key: _entry(key, value) for key, value in vars(model).items() if key not in left_out}
    arrays = {name: np.asarray(recursive_getattr(model, name)) for name in variables}
    entries = {
        "data": json.dumps(data, indent=4).encode(),
        "pytorch_variables.pth": _torch_file.dumps(arrays),
        **{f"{name}.pth": _torch_file.dumps(_state(model, name)) for name in objects},
        "_stable_baselines3_version": SB3_VERSION.encode(),
        "system_info.txt": get_system_info(print_info=False)[1].encode(),
    }
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path, model.verbose, suffix="zip") as stream:
            write_entries(stream, entries)
    else:
        write_entries(open_path(path, "w", model.verbose), entries)


def export_replay_buffer(
    buffer: ReplayBuffer, path: str | pathlib.Path | io.BufferedIOBase, verbose: int = 0
) -> None:
    """
    Write a replay buffer as SB3 2.9 saves it: SB3's ``load_replay_buffer(path)`` reads the file. It is a
    pickle, without anything in it that needs this package.

    :param buffer: the replay buffer; what it keeps besides SB3's attributes is left out
    :param path: the file (".pkl" is added if there is no suffix) or an open binary file
    :param verbose: 2 to be told of a file that is replaced
    :raises NotInSB3: if SB3 has no counterpart of the buffer
    """
    node = encode_buffer(buffer)
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path, verbose, suffix="pkl") as stream:
            write_to(stream, node)
    else:
        write_to(open_path(path, "w", verbose), node)


def _entry(key: str, value: Any) -> Any:
    """What JSON has no words for is a pickle, as in SB3."""
    try:
        if key == "policy_kwargs":
            value = torch_kwargs(value)
        if is_json_serializable(value):
            return value
        pickled = write(encode(value))
    except NotInSB3 as error:
        raise NotInSB3(
            f"`{key}` cannot be given to SB3: {error}. exclude=['{key}'] leaves it out of the file."
        ) from error
    return {":type:": str(type(value)), ":serialized:": base64.b64encode(pickled).decode()}


def _state(model: Model, name: str) -> Mapping[str, Any]:
    owner = recursive_getattr(model, name)
    if not name.endswith("optimizer"):
        state: dict[str, Any] = owner.state_dict()
        return state
    foreign = 0
    if (
        name == "critic.optimizer"
        and hasattr(model.policy, "actor_target")
        and model.policy.share_features_extractor
    ):
        # SB3's TD3 counts the actor's extractor among the critics' parameters, without a state.
        foreign = len(named_parameters(model.policy.actor.features_extractor))
    return _optimizer_state(name, owner, foreign)


def _optimizer_state(name: str, owner: Any, foreign: int) -> dict[str, Any]:
    """torch's state dict of an optimizer, ``foreign`` parameters before its own."""
    optimizer = owner.optimizer
    layout = next((layout for layout in _TORCH_LAYOUTS if isinstance(optimizer, layout[0])), None)
    if layout is None:
        raise NotInSB3(f"`{name}` is a {type(optimizer).__name__}, whose state is not known to torch.")
    kind, slots, numbers, rest = layout
    arrays = owner.state_dict()
    step = int(np.asarray(arrays["step"]))
    group = {"lr": float(np.asarray(arrays["learning_rate"])), **rest}
    group |= {number: _plain(getattr(optimizer, number)) for number in numbers}
    states = {}
    # Without momentum torch's SGD keeps nothing, and before the first step no optimizer does.
    if step > 0 and not (kind is optim.SGD and optimizer.momentum == 0):
        states = {
            foreign + index: {
                "step": _steps(arrays, key) if kind is RMSpropTFLike else np.float32(_steps(arrays, key)),
                **{slots[slot]: arrays[f"{slot}.{key}"] for slot in slots if f"{slot}.{key}" in arrays},
            }
            for index, key in enumerate(owner.known_names)
        }
    group["params"] = list(range(foreign + len(owner.known_names)))
    return {"state": states, "param_groups": [group]}


def _steps(arrays: Mapping[str, Any], name: str) -> int:
    """torch counts the steps of each parameter by itself."""
    return int(np.asarray(arrays["step"])) - int(np.asarray(arrays.get(f"missed.{name}", 0)))


def _plain(number: Any) -> Any:
    return tuple(number) if isinstance(number, list) else number
