"""Network and optimizer states as safetensors; nested ones with their structure in the metadata."""

import json
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.formats import safetensors as _safetensors
from mlx_baselines3.common.formats.archive import ModelFileError, bounded_json
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder
from mlx_baselines3.common.formats.names import UnknownName

_STRUCTURE = "structure"


def dump_tree(tree: dict[Any, Any]) -> bytes:
    """
    Write a dict of arrays, or a tree of dicts, lists, tuples, numbers and strings with arrays as leaves.

    A flat dict keeps its names, so that any safetensors reader shows them. The arrays of a tree get dotted
    names, and the metadata stores its structure.

    :param tree: the state of a network or an optimizer
    :return: the contents of a safetensors file
    :raises TypeError: if it holds something else, or an array of a dtype that safetensors does not have
    """
    if all(type(key) is str and isinstance(value, (mx.array, np.ndarray)) for key, value in tree.items()):
        return _safetensors.dumps(tree)
    tensors: dict[str, _safetensors.Tensor] = {}

    def store(path: str, tensor: _safetensors.Tensor) -> str:
        name = path.lstrip(".")
        while name in tensors or name == "__metadata__":
            name += "_"
        tensors[name] = tensor
        return name

    structure = Encoder(store).encode(tree)
    return _safetensors.dumps(tensors, {_STRUCTURE: json.dumps(structure, allow_nan=False)})


def load_tree(contents: bytes, label: str, available: int | None = None) -> dict[Any, Any]:
    """
    Read the output of :func:`dump_tree`.

    :param contents: the contents of a safetensors file
    :param label: name of the file in error messages
    :param available: length in bytes of the archive that it comes from, if it was packed there
    :return: the same tree, with ``mx.array`` leaves, or ``np.ndarray`` for 64-bit floats
    :raises ModelFileError: if it is corrupted
    """
    available = len(contents) if available is None else available
    tensors, metadata = _safetensors.loads(contents, label, available)
    if _STRUCTURE not in metadata:
        return dict(tensors)
    try:
        structure = bounded_json(metadata[_STRUCTURE], available, "it is")
        tree = Decoder(tensors).decode(structure)
    except UnknownName as error:
        raise ModelFileError(f"{label}: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{label}: the structure is corrupted ({error}).") from error
    if not isinstance(tree, dict):
        raise ModelFileError(f"{label}: holds a {type(tree).__name__}, expected a table.")
    return tree
