"""Models for other programs: SB3 itself, and whatever runs ONNX."""

import io
import pathlib

from mlx_baselines3.common.formats import vec_normalize
from mlx_baselines3.common.formats.sb3.values import NotInSB3
from mlx_baselines3.common.saving.to_sb3 import export_sb3
from mlx_baselines3.common.vec_env import VecNormalize
from mlx_baselines3.export.onnx import export_onnx
from mlx_baselines3.export.onnx_graph import NotInONNX

__all__ = ["NotInONNX", "NotInSB3", "export_onnx", "export_sb3", "export_vec_normalize"]


def export_vec_normalize(env: VecNormalize, path: str | pathlib.Path | io.BufferedIOBase) -> None:
    """
    Write the statistics and settings of a ``VecNormalize`` as SB3 saves them: SB3's
    ``VecNormalize.load(path, venv)`` reads the file.

    :param env: the wrapper
    :param path: the file or an open binary file
    :raises NotInSB3: if it holds something that SB3 has no counterpart of
    """
    vec_normalize.export_vec_normalize(env, path, VecNormalize)
