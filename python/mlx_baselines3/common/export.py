"""Models for other programs: SB3 itself, and whatever runs ONNX."""

from mlx_baselines3.common._onnx_export import export_onnx
from mlx_baselines3.common._onnx_graph import NotInONNX
from mlx_baselines3.common._sb3_export import export_sb3, export_vec_normalize
from mlx_baselines3.common._sb3_values import NotInSB3

__all__ = ["NotInONNX", "NotInSB3", "export_onnx", "export_sb3", "export_vec_normalize"]
