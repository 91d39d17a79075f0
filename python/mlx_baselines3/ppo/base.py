"""What PPO and its relatives share: the clipped objective, and the update that logs SB3's keys."""

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.cuda.nvrtc import usable
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from mlx_baselines3.common.training.device_choice import on_own_device
from mlx_baselines3.common.type_aliases import Schedule
from mlx_baselines3.common.utils import FloatSchedule
from mlx_baselines3.ppo import losses
from mlx_baselines3.ppo.fused_losses import surrogate

__all__ = ["BasePPO"]


class BasePPO(OnPolicyAlgorithm):
    """
    An on-policy algorithm with the clipped objective of https://arxiv.org/abs/1707.06347. Subclasses set
    these attributes in their constructors, where they are explained.
    """

    batch_size: int | None
    n_epochs: int
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    target_kl: float | None
    _decisive = (*OnPolicyAlgorithm._decisive, "_evaluate")

    def _check_sizes(self) -> None:
        if self.normalize_advantage and self.batch_size is not None:
            assert self.batch_size > 1, (
                f"`batch_size` must be greater than 1 to normalise advantages, got {self.batch_size}. "
                "Pass `normalize_advantage=False` for minibatches of one."
            )
        if self.env is None:
            return
        buffer_size = self.env.num_envs * self.n_steps
        assert buffer_size > 1 or not self.normalize_advantage, (
            f"`n_steps * n_envs` must be greater than 1 to normalise advantages, got "
            f"n_steps={self.n_steps} and n_envs={self.env.num_envs}"
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            if isinstance(self.clip_range_vf, (float, int)):
                assert self.clip_range_vf > 0, (
                    f"`clip_range_vf` must be positive, got {self.clip_range_vf}; "
                    "pass `None` to not clip values."
                )
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _known(self) -> type[OnPolicyAlgorithm]:
        """:return: the class whose gradient step Rust knows, if no subclass changes it"""
        return BasePPO

    def _evaluate(self, batch: Arrays) -> tuple[mx.array, mx.array, mx.array | None]:
        """:return: what the policy says of a minibatch: values, log likelihoods and entropies"""
        return self.policy.evaluate_actions(batch["observations"], batch["actions"])

    def _loss(self, batch: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        """The PPO objective on one minibatch, with SB3's metrics."""
        values, log_prob, entropy = self._evaluate(batch)
        values = values.flatten()
        if usable() and "scalars" in batch and "clip_range_vf" not in settings and entropy is not None:
            weights = (settings["clip_range"], settings["ent_coef"], settings["vf_coef"])
            metrics = surrogate(
                (log_prob, entropy, values), batch["scalars"], weights, self.normalize_advantage
            )
            return self._with_stop(metrics, settings)
        advantages = batch["advantages"]
        if self.normalize_advantage:
            advantages = losses.normalize(advantages)
        log_ratio = log_prob - batch["log_probs"]
        ratio = mx.exp(log_ratio)
        if "clip_range_vf" in settings:
            values = losses.clipped_values(values, batch["values"], settings["clip_range_vf"])
        metrics = {
            "entropy_loss": losses.entropy_loss(entropy, log_prob),
            "policy_gradient_loss": losses.policy_loss(ratio, advantages, settings["clip_range"]),
            "value_loss": losses.value_loss(values, batch["returns"]),
            "approx_kl": losses.approximate_kl(ratio, log_ratio),
            "clip_fraction": losses.clip_fraction(ratio, settings["clip_range"]),
        }
        metrics["loss"] = (
            metrics["policy_gradient_loss"]
            + settings["ent_coef"] * metrics["entropy_loss"]
            + settings["vf_coef"] * metrics["value_loss"]
        )
        return self._with_stop(metrics, settings)

    @staticmethod
    def _with_stop(metrics: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        if "target_kl" in settings:
            metrics["stop"] = metrics["approx_kl"] > 1.5 * settings["target_kl"]
        return metrics.pop("loss"), metrics

    def _settings(self, progress: float) -> dict[str, float]:
        settings = {"clip_range": FloatSchedule(self.clip_range)(progress), **super()._settings(progress)}
        if self.clip_range_vf is not None:
            settings["clip_range_vf"] = FloatSchedule(self.clip_range_vf)(progress)
        if self.target_kl is not None:
            settings["target_kl"] = self.target_kl
        return settings

    @on_own_device
    def train(self) -> None:
        """Update the policy with the rollout that was just collected."""
        self.policy.set_training_mode(True)
        self.policy.settle_optimizers()
        self._update_learning_rate(self.policy.optimizer)
        settings = self._settings(self._current_progress_remaining)
        epochs = self._updater.take_epochs(self, self._known(), settings, self.batch_size, self.n_epochs)
        self._n_updates += len(epochs)
        self._log_update(epochs, settings)

    def _log_update(self, epochs: list[dict[str, np.ndarray]], settings: dict[str, float]) -> None:
        """Record SB3's keys from the metrics of every minibatch, a dictionary per epoch."""
        metrics = {name: np.concatenate([epoch[name] for epoch in epochs]) for name in epochs[0]}
        last_kl = epochs[-1]["approx_kl"]
        if self.target_kl is not None and last_kl[-1] > 1.5 * self.target_kl and self.verbose >= 1:
            print(f"Early stopping at step {len(epochs) - 1} due to reaching max kl: {last_kl[-1]:.2f}")
        for name in ("entropy_loss", "policy_gradient_loss", "value_loss"):
            self.logger.record(f"train/{name}", metrics[name].mean())
        # float32, unlike the other values: SB3's table prints it with all its digits.
        self.logger.record("train/approx_kl", np.float32(last_kl.mean()))
        self.logger.record("train/clip_fraction", metrics["clip_fraction"].mean())
        self.logger.record("train/loss", metrics["loss"][-1])
        self._record_fit()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", settings["clip_range"])
        if "clip_range_vf" in settings:
            self.logger.record("train/clip_range_vf", settings["clip_range_vf"])
