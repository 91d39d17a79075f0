"""
Statistics and settings of ``VecNormalize`` in a file: an archive of JSON and safetensors, or SB3's pickle.

The archive holds ``vec_normalize/attributes`` and, for the arrays in there,
``vec_normalize/arrays.safetensors``. ``VecNormalize`` reads and writes its files itself, so this module knows
its attributes and is given the class.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import warnings
from collections.abc import Callable
from typing import IO, Any, TypeVar

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import (
    ArchiveReader,
    Content,
    ModelFileError,
    atomic_open,
    bounded_json,
    printable,
    write_entries,
)
from mlx_baselines3.common.formats.classes import check_attribute, class_of
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.formats.names import UnknownName, path_of
from mlx_baselines3.common.formats.paths import open_path, starts_as_archive
from mlx_baselines3.common.formats.sb3.constructors import CONSTRUCTORS, DAMAGE, own_path, resolve
from mlx_baselines3.common.formats.sb3.pickle_reader import Evaluator, Global, Node, Source, Table, parse
from mlx_baselines3.common.formats.sb3.pickle_writer import NewObject, write_to
from mlx_baselines3.common.formats.sb3.values import NotInSB3, encode
from mlx_baselines3.common.formats.version import check_format, version_entries
from mlx_baselines3.common.running_mean_std import RunningMeanStd

__all__ = ["export_vec_normalize", "load_vec_normalize", "save_vec_normalize"]

Wrapper = TypeVar("Wrapper")

_FOLDER = "vec_normalize/"
_ATTRIBUTES, _ARRAYS = f"{_FOLDER}attributes", f"{_FOLDER}arrays.safetensors"
_BUDGET, _SLACK = 4, 2**20
# Belong to the environments, which a loaded wrapper gets anew, or follow from the rest.
_SKIPPED = {
    *("venv", "class_attributes", "returns", "obs_spaces", "metadata", "render_mode", "num_envs"),
    *("reset_infos", "_seeds", "_options"),
}
_FLAGS = ("training", "norm_obs", "norm_reward")
_NUMBERS = ("clip_obs", "clip_reward", "gamma", "epsilon")
_NEEDED = ("observation_space", "ret_rms", *_FLAGS, *_NUMBERS)
_KNOWN = {*_NEEDED, "action_space", "obs_rms", "norm_obs_keys", "old_obs", "old_reward"}

FileOrStream = str | pathlib.Path | io.BufferedIOBase


def save_vec_normalize(env: Any, path: FileOrStream) -> None:
    """
    Write statistics and settings as an archive. A file given by its path is replaced as a whole.

    :param env: the ``VecNormalize``
    :param path: the file, under the very name given, or an open binary file
    :raises ValueError: if its class cannot be found again by its import path, or a space cannot be kept
    """
    arrays: dict[str, np.ndarray] = {}

    def store(place: str, array: Any) -> str:
        if not isinstance(array, np.ndarray) or not _safetensors.is_storable(array.dtype):
            raise Unencodable(f"{place} is not an array of numbers")
        arrays[place] = array
        return place

    lost: list[str] = []
    state = {name: value for name, value in env.__getstate__().items() if name not in _SKIPPED}
    try:
        parts = {
            "class": path_of(type(env)),
            "attributes": _encoded(state, Encoder(store), lost),
            "lost": lost,
        }
    except (UnknownName, Unencodable) as error:
        raise ValueError(f"A {type(env).__name__} cannot be kept in a file: {error}.") from error
    if lost:
        warnings.warn(f"Not kept in the file of {type(env).__name__}: {', '.join(lost)}.", stacklevel=3)
    entries: dict[str, Content] = {
        _ATTRIBUTES: json.dumps(parts, indent=4, allow_nan=False).encode(),
        _ARRAYS: _safetensors.pieces(arrays, {}),
        **version_entries(),
    }
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path) as stream:
            write_entries(stream, entries)
    else:
        write_entries(open_path(path, "w"), entries)


def export_vec_normalize(env: Any, path: FileOrStream, base: type) -> None:
    """
    Write statistics and settings as SB3 saves them: SB3's ``VecNormalize.load(path, venv)`` reads the file.

    :param env: the ``VecNormalize``
    :param path: the file or an open binary file
    :param base: ``VecNormalize``
    :raises NotInSB3: if the wrapper is of another class, or holds something that SB3 has no counterpart of
    """
    skipped = ("venv", "class_attributes", "returns", "obs_spaces", "metadata")
    if type(env) is not base:
        raise NotInSB3(f"a {type(env).__name__} is not SB3's VecNormalize, but a class of its own")
    state = {key: encode(value) for key, value in vars(env).items() if key not in skipped}
    if isinstance(vars(env)["observation_space"], spaces.Dict):
        state["obs_spaces"] = state["observation_space"].state["spaces"]
    wrapper = NewObject(Global("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"), (), state)
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path) as stream:
            write_to(stream, wrapper)
    else:
        write_to(open_path(path, "w"), wrapper)


def _encoded(state: dict[str, Any], encoder: Encoder, lost: list[str]) -> dict[str, Any]:
    fields = {}
    for name, value in state.items():
        try:
            fields[name] = encoder.encode(value, name)
        except Unencodable as error:
            if name in _NEEDED:
                raise
            lost.append(f"{name} ({error})")
    return fields


def load_vec_normalize(path: FileOrStream, base: type[Wrapper]) -> Wrapper:
    """
    Read what this package or SB3 saved, without executing anything that is in the file. Its contents decide
    how it is read, not its suffix.

    :param path: the file or an open binary file
    :param base: ``VecNormalize``; what the file holds is of this class or derived from it
    :return: the wrapper, without an environment
    :raises ModelFileError: if it is damaged, holds something else, or needs a class that is not imported
    :raises FileNotFoundError: if there is no such file
    """
    stream = open_path(path, "r")
    label = str(path) if isinstance(path, (str, pathlib.Path)) else "the file of VecNormalize"
    with contextlib.nullcontext(stream) if stream is path else stream:
        archive = ArchiveReader(stream, label) if starts_as_archive(stream, label) else None
        try:
            return _from_archive(archive, base) if archive is not None else _from_pickle(stream, base)
        except (*DAMAGE, UnknownName, MemoryError, AssertionError) as error:
            said = str(error) if isinstance(error, (ModelFileError, UnknownName)) else f"{error!r:.200}"
            text = said if said.startswith(label) else f"{label} holds no sound VecNormalize: {said}"
            raise ModelFileError(f"{text.rstrip('.')}.") from error


def _from_archive(archive: ArchiveReader, base: type[Wrapper]) -> Wrapper:
    if _ATTRIBUTES not in archive.names:
        raise ModelFileError("it is an archive, but `VecNormalize.save` did not write it")
    check_format(archive)
    parts = bounded_json(archive.text(_ATTRIBUTES), archive.length, f"{_ATTRIBUTES} is")
    label = f"{archive.label}: {_ARRAYS}"
    arrays = _safetensors.load_arrays(archive.read(_ARRAYS), label, archive.length)
    decoder = Decoder(arrays)
    if not isinstance(parts, dict) or not isinstance(parts.get("attributes"), dict):
        raise ModelFileError(f"{archive.label}: {_ATTRIBUTES} is not a table")
    kind = class_of(parts["class"], base)
    if parts.get("lost"):
        lost = ", ".join(map(str, parts["lost"]))
        warnings.warn(printable(f"Not part of {archive.label}: {lost:.1000}."), stacklevel=4)
    fields = parts["attributes"]
    return _assembled(kind, base, list(fields), lambda name: decoder.decode(fields[name]))


def _from_pickle(stream: IO[bytes], base: type[Wrapper]) -> Wrapper:
    source = Source(stream)
    budget = _BUDGET * source.left + _SLACK
    root = parse(source)
    if not isinstance(root, Node) or not isinstance(root.callee, Global) or not isinstance(root.state, Table):
        raise ModelFileError(f"it is the pickle of {root if isinstance(root, Node) else type(root).__name__}")
    evaluate = Evaluator(CONSTRUCTORS, resolve, budget)
    fields = {key: value for key, value in root.state.pairs if isinstance(key, str)}
    kind = class_of(own_path(root.callee), base)
    return _assembled(kind, base, list(fields), lambda name: evaluate(fields[name]))


def _assembled(kind: Any, base: type[Wrapper], names: list[str], value_of: Callable[[str], Any]) -> Wrapper:
    """
    :param kind: the wrapper's class
    :param base: ``VecNormalize``
    :param names: attributes that the file has
    :param value_of: gives the value of one
    """
    own = kind is base
    state = {}
    for name in names:
        if name in _SKIPPED or (own and name not in _KNOWN):
            continue
        state[name] = value = value_of(name)
        check_attribute(kind, name, value)
    _check(state)
    space = state["observation_space"]
    # Files from before SB3 1.6 have no keys.
    state.setdefault("norm_obs_keys", list(space.spaces) if isinstance(space, spaces.Dict) else None)
    state["obs_spaces"] = space.spaces if isinstance(space, spaces.Dict) else None
    made: Any = object.__new__(kind)
    made.__setstate__(state)
    wrapper: Wrapper = made
    return wrapper


def _check(state: dict[str, Any]) -> None:
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise ModelFileError(f"it lacks {', '.join(missing)}")
    for name in _FLAGS:
        if not isinstance(state[name], (bool, np.bool_)):
            raise ModelFileError(f"{name} is {state[name]!r:.40}, expected True or False")
    for name in _NUMBERS:
        _check_number(name, state[name])
    if not isinstance(state.get("action_space"), (spaces.Space, type(None))):
        raise ModelFileError("action_space is not a space")
    _check_statistics("ret_rms", state["ret_rms"], ())
    if state["norm_obs"]:
        _check_observations(state)
    for name in ("old_obs", "old_reward"):
        old = state.get(name)
        for part in old.values() if isinstance(old, dict) else [old]:
            if not (part is None or isinstance(part, np.ndarray)):
                raise ModelFileError(f"{name} is a {type(part).__name__}, expected an array")


def _check_number(name: str, value: Any) -> None:
    numeric = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not numeric:
        raise ModelFileError(f"{name} is {value!r:.40}, expected a number")


def _check_observations(state: dict[str, Any]) -> None:
    space, statistics = state["observation_space"], state.get("obs_rms")
    if isinstance(space, spaces.Dict):
        keys = state.get("norm_obs_keys", list(space.spaces))
        if not isinstance(statistics, dict) or not isinstance(keys, list) or set(keys) != set(statistics):
            raise ModelFileError("the statistics are not those of the keys to be normalised")
        for key in keys:
            if key not in space.spaces:
                raise ModelFileError(f"there is no observation {key!r:.40} to be normalised")
            _check_statistics(f"obs_rms[{key!r:.40}]", statistics[key], space[key].shape)
    elif isinstance(space, spaces.Box):
        if state.get("norm_obs_keys") is not None:
            raise ModelFileError("there are keys to be normalised, but no Dict space")
        _check_statistics("obs_rms", statistics, space.shape)
    else:
        raise ModelFileError(f"observations of {space!r:.80} cannot be normalised")


def _check_statistics(name: str, statistics: Any, shape: tuple[int, ...] | None) -> None:
    if not isinstance(statistics, RunningMeanStd):
        raise ModelFileError(f"{name} is a {type(statistics).__name__}, expected a RunningMeanStd")
    for part in ("mean", "var"):
        array = vars(statistics).get(part)
        # A scalar where there is one number, once it was updated.
        if not isinstance(array, (np.ndarray, np.floating, float)) or np.shape(array) != shape:
            raise ModelFileError(f"{name}.{part} is not an array of shape {shape}")
        if np.asarray(array).dtype.kind != "f":
            raise ModelFileError(f"{name}.{part} does not hold floating-point numbers")
        if part == "var" and np.any(np.asarray(array) < 0):
            raise ModelFileError(f"{name}.var holds a negative number")
    _check_number(f"{name}.count", vars(statistics).get("count"))
