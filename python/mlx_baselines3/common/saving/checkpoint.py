"""
Checkpoints: model files that also hold the run, so that another process goes on exactly.

A checkpoint is a model file with a folder ``checkpoint`` in it, so ``load`` reads it too. The folder has
``run`` (random generators, exploration matrices, what was logged so far), ``env`` (native environments and
the wrappers around them) and the rollout or replay buffer, which is streamed.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import warnings
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlx_baselines3.common._model import Model
from mlx_baselines3.common.formats.archive import (
    ArchiveReader,
    Content,
    ModelFileError,
    bounded_json,
    printable,
)
from mlx_baselines3.common.formats.paths import open_path
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.saving import model as model_io
from mlx_baselines3.common.saving.buffer_stream import read_buffer, write_buffer
from mlx_baselines3.common.saving.env_record import env_record, rebuild, restore_env
from mlx_baselines3.common.saving.run_record import RunRecord, run_record
from mlx_baselines3.common.vec_env.abstract import GymEnv

__all__ = ["load_checkpoint", "save_checkpoint"]

Algorithm = TypeVar("Algorithm", bound=Model)
_RUN, _ENV = "checkpoint/run", "checkpoint/env"
_BUFFERS = ("replay_buffer", "rollout_buffer")


def save_checkpoint(
    model: Model,
    path: str | pathlib.Path | io.BufferedIOBase,
    within_learn: bool = False,
    allow_pickle: bool = False,
) -> None:
    """
    Write a checkpoint; see :meth:`BaseAlgorithm.save_checkpoint`.

    :param model: the algorithm
    :param path: the file
    :param within_learn: whether its ``learn`` is to be gone on with
    :param allow_pickle: pickle what JSON cannot express
    """
    lost: list[str] = []
    buffers: dict[str, Content] = {}
    for name in _BUFFERS:
        buffer = getattr(model, name, None)
        # A rollout buffer is empty between two rollouts.
        if buffer is not None and (name == "replay_buffer" or buffer.size() > 0):
            buffers[f"checkpoint/{name}.safetensors"] = write_buffer(buffer, lost, name)
    env = env_record(model.env, lost) if model.env is not None else None
    run = {**run_record(model, within_learn, lost), "lost": lost}
    extra = {_RUN: json.dumps(run).encode(), _ENV: json.dumps(env).encode(), **buffers}
    model_io.save(model, path, None, None, allow_pickle, extra)


def load_checkpoint(
    cls: type[Algorithm],
    path: str | pathlib.Path | io.BufferedIOBase,
    env: GymEnv | None = None,
    device: mx.Device | str = "auto",
    custom_objects: dict[str, Any] | None = None,
    allow_pickle: bool = False,
    changes: dict[str, Any] | None = None,
    monitor_dir: str | None = None,
) -> Algorithm:
    """
    Go on from a checkpoint; see :meth:`BaseAlgorithm.load_checkpoint`.

    :param cls: the algorithm's class
    :param path: the file
    :param env: environments like those of the checkpoint; None makes native ones
    :param device: device to compute on
    :param custom_objects: values to use instead of stored ones
    :param allow_pickle: open pickles that are in the file
    :param changes: attributes to change
    :param monitor_dir: folder with the run's monitor files, to go on with
    :return: the model
    :raises ModelFileError: if it is not a checkpoint, or is damaged
    :raises ValueError: if it is another algorithm's, or ``env`` is needed or does not fit
    """
    stream = open_path(path, "r", suffix="zip")
    with contextlib.nullcontext(stream) if stream is path else stream:
        label = str(path) if isinstance(path, (str, pathlib.Path)) else "the checkpoint"
        archive = ArchiveReader(stream, label)
        run, envs = _tables(archive)
        if run.get("algorithm") != cls.__name__:
            raise ValueError(
                f"{label} is a checkpoint of {run.get('algorithm')!s:.80}, not of {cls.__name__}."
            )
        record = RunRecord(run)
        if env is None and envs is not None:
            env = rebuild(envs, monitor_dir)
        stream.seek(0)
        model = model_io.load(
            *(cls, stream, env, device, custom_objects, False, False, changes or {}, allow_pickle)
        )
        _read_buffers(model, archive)
    lost = list(run.get("lost", ()))
    if model.env is not None and envs is not None and not restore_env(model.env, envs):
        _start_new_episodes(model)
        lost.append(f"the running episodes of {envs['names'][-1].rpartition(':')[2]}, which start anew")
    with ModelCall(model):
        record.restore_generators(model)
    model._resumed = record
    if lost:
        warnings.warn(printable(f"Not part of the checkpoint: {', '.join(map(str, lost))}."), stacklevel=3)
    return model


def _read_buffers(model: Model, archive: ArchiveReader) -> None:
    for name in _BUFFERS:
        entry, buffer = f"checkpoint/{name}.safetensors", getattr(model, name, None)
        if entry in archive.names and buffer is not None:
            fixed = _fixed(buffer)
            read_buffer(buffer, archive, entry)
            _check_buffer(buffer, fixed, f"{archive.label}: {entry}")


def _fixed(buffer: Any) -> dict[str, Any]:
    """What the model's own attributes decide about a buffer, and no other entry of the file."""
    fixed: dict[str, Any] = {}
    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray):
            # A rollout that was flattened for its minibatches has the same numbers in another shape.
            fixed[name] = value.size, value.dtype
        elif isinstance(value, dict):
            fixed[name] = {key: getattr(part, "size", None) for key, part in value.items()}
        elif isinstance(value, (int, str, tuple)) and not isinstance(value, bool) and name != "pos":
            fixed[name] = value
    return fixed


def _check_buffer(buffer: Any, fixed: dict[str, Any], label: str) -> None:
    present = _fixed(buffer)
    for name, value in fixed.items():
        # Rollouts without dead steps have no array of them.
        if name in present and present[name] != value:
            raise ModelFileError(
                f"{label}: {name} is {present[name]!s:.80}, but the model has {value!s:.80}."
            )
    rolls = not hasattr(buffer, "next_observations") and hasattr(buffer, "advantages")
    if not 0 <= buffer.pos < buffer.buffer_size + rolls:
        raise ModelFileError(f"{label}: pos is {buffer.pos}, but the buffer has {buffer.buffer_size} rows.")
    for name in ("ep_start", "ep_length", "_current_ep_start"):
        rows = getattr(buffer, name, None)
        if rows is not None and rows.size and not 0 <= rows.min() <= rows.max() <= buffer.buffer_size:
            raise ModelFileError(f"{label}: {name} has rows that the buffer does not have.")


def _tables(archive: ArchiveReader) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if _RUN not in archive.names:
        raise ModelFileError(
            f"{archive.label} is no checkpoint: save_checkpoint() did not write it. Try load()."
        )
    try:
        run, envs = (bounded_json(archive.text(name), archive.length, f"{name} is") for name in (_RUN, _ENV))
    except ModelFileError as error:
        raise ModelFileError(f"{archive.label}: {error}") from error
    lost = run.get("lost", []) if isinstance(run, dict) else None
    if (
        not isinstance(lost, list)
        or type(run.get("algorithm")) is not str
        or not all(type(item) is str for item in lost)
        or not (envs is None or _is_env_record(envs))
    ):
        raise ModelFileError(f"{archive.label}: the record of the run is damaged.")
    return run, envs


def _is_env_record(envs: Any) -> bool:
    if not isinstance(envs, dict) or type(envs.get("n_envs")) is not int or envs["n_envs"] < 1:
        return False
    names, layers = envs.get("names"), envs.get("layers")
    if not isinstance(names, list) or not isinstance(layers, list) or len(names) != len(layers) + 1:
        return False
    return all(isinstance(name, str) for name in names)


def _start_new_episodes(model: Model) -> None:
    """The environments cannot go on with their episodes: the replay buffer's last ones end here."""
    model._last_obs = None
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None or buffer.size() == 0:
        return
    if hasattr(buffer, "truncate_last_trajectory"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            buffer.truncate_last_trajectory()
    else:
        buffer._break_off()
