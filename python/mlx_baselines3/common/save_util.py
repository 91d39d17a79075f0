"""
Model files: a zip of JSON and safetensors that is read without executing anything.

``data`` is JSON, every entry of ``params`` is a safetensors file, and two small entries name the version of
this package and of the format. Nothing in it is a pickle unless the user asked for one, with
``allow_pickle=True``, both when saving and when loading. Files that SB3 wrote are recognised and read by
:mod:`~mlx_baselines3.common.formats.sb3.zip`.

Kept in ``data`` are numbers, texts, None, lists, tuples, dicts, sets, deques, bytes, NumPy and MLX arrays,
scalars and dtypes, Gymnasium's spaces with their random generators, this package's schedules, action noise
and enumerations, classes (by import path) in the places that take them, and schedules of a class of your own
whose attributes are numbers, strings and booleans. See :mod:`~mlx_baselines3.common.formats.slots`.

A path in a file is only looked up among the modules that are imported already; a file never causes an import.
"""

import contextlib
import functools
import io
import json
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3._system_info import get_system_info
from mlx_baselines3.common._types import TensorDict
from mlx_baselines3.common.formats.archive import (
    ArchiveReader,
    Content,
    ModelFileError,
    atomic_open,
    printable,
    write_entries,
)
from mlx_baselines3.common.formats.model_data import data_to_json, json_to_data, read_attributes
from mlx_baselines3.common.formats.paths import open_path, open_path_pathlib, open_path_str
from mlx_baselines3.common.formats.sb3 import zip as sb3_zip
from mlx_baselines3.common.formats.trees import dump_tree, load_tree
from mlx_baselines3.common.formats.version import check_format, version_entries
from mlx_baselines3.common.nn.devices import get_device

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "cloudpickle sb3")

__all__ = [
    "ModelFileError",
    "TensorDict",
    "data_to_json",
    "get_device",
    "get_system_info",
    "is_json_serializable",
    "json_to_data",
    "load_from_pkl",
    "load_from_zip_file",
    "open_path",
    "open_path_pathlib",
    "open_path_str",
    "recursive_getattr",
    "recursive_setattr",
    "save_to_pkl",
    "save_to_zip_file",
]

_TENSOR_SUFFIX = ".safetensors"
_VARIABLES = "variables"
_ENTRY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

ModelParts = tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any] | None]


def recursive_getattr(obj: Any, attr: str, *args: Any) -> Any:
    """
    ``getattr`` that follows dots.

    :param obj: where to start
    :param attr: for instance ``"actor.optimizer"``
    :param args: a default, for each of the steps
    :return: the attribute
    :raises AttributeError: if there is none, and no default
    """
    return functools.reduce(lambda owner, name: getattr(owner, name, *args), attr.split("."), obj)


def recursive_setattr(obj: Any, attr: str, val: Any) -> None:
    """
    ``setattr`` that follows dots.

    :param obj: where to start
    :param attr: for instance ``"actor.optimizer"``
    :param val: the new value
    :raises AttributeError: if there is nothing on the way to it
    """
    owner, _, name = attr.rpartition(".")
    setattr(recursive_getattr(obj, owner) if owner else obj, name, val)


def is_json_serializable(item: Any) -> bool:
    """
    Whether JSON can express a value by itself.

    :param item: anything
    :return: true if ``json.dumps`` takes it
    """
    try:
        json.dumps(item)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def save_to_zip_file(
    save_path: str | pathlib.Path | io.BufferedIOBase,
    data: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    pytorch_variables: dict[str, Any] | None = None,
    verbose: int = 0,
    allow_pickle: bool = False,
    extra: Mapping[str, Content] | None = None,
) -> None:
    """
    Save a model. A file given by its path is replaced as a whole: whatever happens, it is the old one or the
    new one.

    :param save_path: a path (``.zip`` is added if it has no suffix) or a binary stream open for writing
    :param data: attributes, see :func:`data_to_json`
    :param params: states of networks and optimizers by name: arrays by name, or nested dicts and lists of
        arrays, numbers and texts
    :param pytorch_variables: further arrays by name
    :param verbose: 0 for no output, 2 to be told of a file that is replaced
    :param allow_pickle: see :func:`data_to_json`
    :param extra: further entries by name: bytes, or pieces of them that are written as they come
    :raises ValueError: if a name in ``params`` cannot be a file name
    :raises TypeError: if ``params`` holds something else than arrays, numbers and texts
    """
    entries: dict[str, Content] = {}
    if data is not None:
        entries["data"] = data_to_json(data, allow_pickle).encode()
    if pytorch_variables is not None:
        entries[_VARIABLES + _TENSOR_SUFFIX] = dump_tree(pytorch_variables)
    for name, state in (params or {}).items():
        if not _ENTRY_NAME.fullmatch(name) or name == _VARIABLES:
            raise ValueError(
                f"'{name}' cannot name an entry of `params`: use letters, digits, '_', '-' and '.'."
            )
        entries[name + _TENSOR_SUFFIX] = dump_tree(state)
    entries |= {**version_entries(), **(extra or {})}
    if isinstance(save_path, (str, pathlib.Path)):
        with atomic_open(save_path, verbose, suffix="zip") as stream:
            write_entries(stream, entries)
    else:
        write_entries(open_path(save_path, "w", verbose), entries)


def save_to_pkl(path: str | pathlib.Path | io.BufferedIOBase, obj: Any, verbose: int = 0) -> None:
    """
    Pickle an object. A file given by its path is replaced as a whole, as in :func:`save_to_zip_file`.

    :param path: a path (``.pkl`` is added if it has no suffix) or a binary stream open for writing
    :param obj: the object
    :param verbose: 0 for no output, 2 to be told of a file that is replaced
    """
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path, verbose, suffix="pkl") as stream:
            pickle.dump(obj, stream, protocol=pickle.HIGHEST_PROTOCOL)
    else:
        pickle.dump(obj, open_path(path, "w", verbose), protocol=pickle.HIGHEST_PROTOCOL)


def load_from_pkl(path: str | pathlib.Path | io.BufferedIOBase, verbose: int = 0) -> Any:
    """
    Unpickle an object. A pickle can run any code: open only files that you trust.

    :param path: a path (tried with ``.pkl`` behind it if it is not there) or a binary stream open for reading
    :param verbose: 0 for no output, 2 to be told when the suffix was needed
    :return: the object
    """
    stream = open_path(path, "r", verbose, suffix="pkl")
    try:
        return pickle.load(stream)
    finally:
        if stream is not path:
            stream.close()


def load_from_zip_file(
    load_path: str | pathlib.Path | io.BufferedIOBase,
    load_data: bool = True,
    custom_objects: dict[str, Any] | None = None,
    device: mx.Device | str = "auto",
    verbose: int = 0,
    print_system_info: bool = False,
    allow_pickle: bool = False,
) -> ModelParts:
    """
    Load a model that this package or SB3 (1.8 to 2.9) saved, without executing anything that is in the file.

    :param load_path: a path (tried with ``.zip`` behind it if it is not there) or a binary stream open for
        reading
    :param load_data: whether to read the attributes
    :param custom_objects: see :func:`json_to_data`
    :param device: checked to be a device; arrays in MLX belong to none
    :param verbose: 0 for no output, 2 to be told when the suffix was needed
    :param print_system_info: print what the file says about the system on which it was saved
    :param allow_pickle: see :func:`json_to_data`
    :return: attributes (None if absent or not asked for), ``params`` and ``pytorch_variables`` (None if
        absent) as they were saved. Arrays are ``mx.array``, those of 64-bit floats ``np.ndarray``. The
        optimizers of an SB3 file are torch's state dicts: ``{"state": {index: {...}}, "param_groups":
        [...]}``
    :raises ModelFileError: if it is not a model file, is damaged, or was written in a newer format
    :raises FileNotFoundError: if there is no such file
    """
    get_device(device)
    stream = open_path(load_path, "r", verbose, suffix="zip")
    label = str(load_path) if isinstance(load_path, (str, pathlib.Path)) else "the model file"
    with contextlib.nullcontext(stream) if stream is load_path else stream:
        archive = ArchiveReader(stream, label)
        if print_system_info:
            _print_system_info(archive)
        tensors = _read_tensors(archive)
        variables = tensors.pop(_VARIABLES, None)
        wanted = load_data and "data" in archive.names
        data = read_attributes(archive, custom_objects, allow_pickle) if wanted else None
    return data, tensors, variables


def _read_tensors(archive: ArchiveReader) -> dict[str, Any]:
    """The entries of ``params``, and the variables among them under a name of their own."""
    if sb3_zip.is_sb3_archive(archive.names):
        return sb3_zip.read_tensors(archive, _VARIABLES)
    if "_mlx_baselines3_version" not in archive.names:
        raise ModelFileError(f"{archive.label} is a zip, but not of a model saved by mlx_baselines3 or SB3.")
    check_format(archive)
    return {
        name.removesuffix(_TENSOR_SUFFIX): load_tree(
            archive.read(name), f"{archive.label}: {name}", archive.length
        )
        for name in archive.names
        # What lies in a folder belongs to a checkpoint and not to the model.
        if name.endswith(_TENSOR_SUFFIX) and "/" not in name
    }


def _print_system_info(archive: ArchiveReader) -> None:
    if "system_info.txt" in archive.names:
        print("== SAVED MODEL SYSTEM INFO ==")
        print(printable(archive.text("system_info.txt")))
    else:
        warnings.warn("The model file does not say on which system it was saved.", UserWarning, stacklevel=3)
