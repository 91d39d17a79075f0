"""Export of models to SB3 and ONNX."""

from mlx_baselines3.common.formats.sb3.values import NotInSB3
from mlx_baselines3.common.saving.to_sb3 import export_sb3, export_vec_normalize
from mlx_baselines3.export.onnx import export_onnx
from mlx_baselines3.export.onnx_graph import NotInONNX

__all__ = ["NotInONNX", "NotInSB3", "export_onnx", "export_sb3", "export_vec_normalize"]
