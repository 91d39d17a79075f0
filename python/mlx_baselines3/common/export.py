"""Public alias of :mod:`mlx_baselines3.export`."""

from mlx_baselines3.export import NotInONNX, NotInSB3, export_onnx, export_sb3, export_vec_normalize

__all__ = ["NotInONNX", "NotInSB3", "export_onnx", "export_sb3", "export_vec_normalize"]
