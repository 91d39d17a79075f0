"""
Models that SB3 (1.8 to 2.9) saved, read without torch and without unpickling.

SB3's zip contains JSON, in which values that JSON cannot express are pickles, and one ``torch.save`` file per
state. Both are read by a small interpreter that converts the pickles' instructions to data and never calls
what they name: arrays, spaces, schedules, noise and the like are supported; torch's activations and
optimizers become MLX's, and SB3's classes this package's. Everything else is rejected by name.
"""

from collections.abc import Collection
from typing import Any

from mlx_baselines3.common.formats.archive import ArchiveReader, ModelFileError
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.sb3 import torch_file as _torch_file
from mlx_baselines3.common.formats.sb3.constructors import CONSTRUCTORS, DAMAGE, resolve
from mlx_baselines3.common.formats.sb3.pickle_reader import Evaluator, parse

__all__ = ["is_sb3_archive", "read_pickle", "read_tensors"]

_VERSION = "_stable_baselines3_version"
_SUFFIX = ".pth"
# "tensors.pth" until 0.9.
_VARIABLES = ("pytorch_variables.pth", "tensors.pth")
_SLACK = 2**20


def is_sb3_archive(names: Collection[str]) -> bool:
    """
    Distinguish SB3's files from this package's.

    :param names: names of the entries of a zip
    :return: whether SB3 wrote it
    """
    return _VERSION in names or any(name.endswith(_SUFFIX) for name in names)


def read_tensors(archive: ArchiveReader, variables: str) -> dict[str, Any]:
    """
    Read the states of networks and optimizers.

    :param archive: an SB3 file
    :param variables: the key of ``pytorch_variables`` in the result
    :return: by name: arrays by name for a network, torch's state dict (``{"state": {index: {...}},
        "param_groups": [...]}``) for an optimizer. The layouts are torch's: a linear weight is (out, in), a
        convolution OIHW
    :raises ModelFileError: if one of them is corrupted
    """
    states: dict[str, Any] = {}
    left = 8 * archive.length + 16 * _SLACK
    for entry in archive.names:
        if not entry.endswith(_SUFFIX):
            continue
        label = f"{archive.label}: {entry}"
        state = _torch_file.load(archive.read(entry), label, archive.length)
        if not isinstance(state, dict):
            raise ModelFileError(f"{label} holds a {type(state).__name__}, expected a table.")
        # Each may be somewhat larger than compressed, but there can be thousands of them.
        left -= _bytes_in(state)
        if left < 0:
            raise ModelFileError(f"{archive.label} claims far more data than the file has.")
        name = variables if entry in _VARIABLES else entry.removesuffix(_SUFFIX)
        if name in states:
            raise ModelFileError(f"{archive.label}: '{name}' occurs twice.")
        states[name] = dict(state)
    return states


def _bytes_in(state: Any) -> int:
    if isinstance(state, dict):
        return sum(map(_bytes_in, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(_bytes_in, state))
    return int(getattr(state, "nbytes", 0))


def read_pickle(pickled: bytes, available: int | None = None) -> Any:
    """
    Read one of the pickles in SB3's ``data``, as data.

    :param pickled: the pickle
    :param available: length in bytes of the file that it comes from, if it was compressed there
    :return: the value
    :raises UnknownName: if it is corrupted, or needs something unsupported; the message names it
    """
    evaluate = Evaluator(CONSTRUCTORS, resolve, 4 * len(pickled) + _SLACK)
    try:
        return evaluate(parse(pickled, available))
    except DAMAGE as error:
        raise UnknownName(f"its pickle is corrupted or of an unknown kind ({error!r:.200})") from error
