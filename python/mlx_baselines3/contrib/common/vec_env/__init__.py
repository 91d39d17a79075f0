"""Evaluation of many policies at once, under sb3-contrib's names."""

from mlx_baselines3.contrib.common.vec_env.async_eval import AsyncEval

__all__ = ["AsyncEval"]
