"""
Model files: a zip of JSON and safetensors that is read without executing anything.

``data`` is JSON, every entry of ``params`` is a safetensors file, and two small entries give the version of
this package and of the format. It contains pickles only if the user requests them with ``allow_pickle=True``,
both when saving and when loading. SB3's files are detected and read by
:mod:`~mlx_baselines3.common.formats.sb3.zip`.

``data`` supports numbers, strings, None, lists, tuples, dicts, sets, deques, bytes, NumPy and MLX arrays,
scalars and dtypes, Gymnasium's spaces with their random generators, this package's schedules, action noise
and enumerations, classes (by import path) in the slots that accept them, and schedules of custom classes
whose attributes are numbers, strings and booleans. See :mod:`~mlx_baselines3.common.formats.slots`.

Import paths in a file are looked up only in modules that are already imported and in this package's
algorithms. What a file says never decides what is imported.
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

    :param obj: the root object
    :param attr: for instance ``"actor.optimizer"``
    :param args: a default for each step
    :return: the attribute
    :raises AttributeError: if it does not exist, without a default
    """
    return functools.reduce(lambda owner, name: getattr(owner, name, *args), attr.split("."), obj)


def recursive_setattr(obj: Any, attr: str, val: Any) -> None:
    """
    ``setattr`` that follows dots.

    :param obj: the root object
    :param attr: for instance ``"actor.optimizer"``
    :param val: the new value
    :raises AttributeError: if an intermediate attribute does not exist
    """
    owner, _, name = attr.rpartition(".")
    setattr(recursive_getattr(obj, owner) if owner else obj, name, val)


def is_json_serializable(item: Any) -> bool:
    """
    Whether JSON can express a value directly.

    :param item: anything
    :return: whether ``json.dumps`` accepts it
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
    Save a model. A file given by its path is replaced atomically.

    :param save_path: a path (``.zip`` is added if it has no suffix) or a binary stream open for writing
    :param data: attributes, see :func:`data_to_json`
    :param params: states of networks and optimizers by name: arrays by name, or nested dicts and lists of
        arrays, numbers and strings
    :param pytorch_variables: further arrays by name
    :param verbose: 0 for no output, 2 warns about a replaced file
    :param allow_pickle: see :func:`data_to_json`
    :param extra: further entries by name: bytes, or an iterator of pieces
    :raises ValueError: if a name in ``params`` cannot be a file name
    :raises TypeError: if ``params`` contains anything but arrays, numbers and strings
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
    Pickle an object. A file given by its path is replaced atomically.

    :param path: a path (``.pkl`` is added if it has no suffix) or a binary stream open for writing
    :param obj: the object
    :param verbose: 0 for no output, 2 warns about a replaced file
    """
    if isinstance(path, (str, pathlib.Path)):
        with atomic_open(path, verbose, suffix="pkl") as stream:
            pickle.dump(obj, stream, protocol=pickle.HIGHEST_PROTOCOL)
    else:
        pickle.dump(obj, open_path(path, "w", verbose), protocol=pickle.HIGHEST_PROTOCOL)


def load_from_pkl(path: str | pathlib.Path | io.BufferedIOBase, verbose: int = 0) -> Any:
    """
    Unpickle an object. A pickle can run any code: open only files that you trust.

    :param path: a path (``.pkl`` is appended if it does not exist) or a binary stream open for reading
    :param verbose: 0 for no output, 2 warns if the suffix was needed
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
    Load a model saved by this package or SB3 (1.8 to 2.9), without executing anything in the file.

    :param load_path: a path (``.zip`` is appended if it does not exist) or a binary stream open for reading
    :param load_data: whether to read the attributes
    :param custom_objects: see :func:`json_to_data`
    :param device: must be a valid device; MLX arrays are not tied to one
    :param verbose: 0 for no output, 2 warns if the suffix was needed
    :param print_system_info: print the system on which the file was saved
    :param allow_pickle: see :func:`json_to_data`
    :return: attributes (None if absent or not requested), ``params`` and ``pytorch_variables`` (None if
        absent) as saved. Arrays are ``mx.array``, or ``np.ndarray`` for 64-bit floats. The optimizers of an
        SB3 file are torch's state dicts: ``{"state": {index: {...}}, "param_groups": [...]}``
    :raises ModelFileError: if it is not a model file, is corrupted, or was written in a newer format
    :raises FileNotFoundError: if the file does not exist
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
    """The entries of ``params``, with the variables under a separate name."""
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
        # Entries in a folder belong to a checkpoint, not to the model.
        if name.endswith(_TENSOR_SUFFIX) and "/" not in name
    }


def _print_system_info(archive: ArchiveReader) -> None:
    if "system_info.txt" in archive.names:
        print("== SAVED MODEL SYSTEM INFO ==")
        print(printable(archive.text("system_info.txt")))
    else:
        warnings.warn("The model file does not say on which system it was saved.", UserWarning, stacklevel=3)
