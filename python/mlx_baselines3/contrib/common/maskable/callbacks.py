"""Evaluation with action masks during training."""

from typing import Any

from mlx_baselines3.common.callbacks import EvalCallback
from mlx_baselines3.contrib.common.maskable.evaluation import evaluate_policy

__all__ = ["MaskableEvalCallback"]


class MaskableEvalCallback(EvalCallback):
    """
    :class:`EvalCallback` whose evaluations take only actions that the environments allow.

    :param args: as for :class:`EvalCallback`
    :param use_masking: ask the environments which actions they allow
    :param kwargs: as for :class:`EvalCallback`
    """

    def __init__(self, *args: Any, use_masking: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.use_masking = use_masking

    def _evaluate(self, **options: Any) -> Any:
        return evaluate_policy(self.model, self.eval_env, use_masking=self.use_masking, **options)
