"""The version of this package, which the Rust crate holds."""

from mlx_baselines3._native import __version__

__all__ = ["__version__"]
