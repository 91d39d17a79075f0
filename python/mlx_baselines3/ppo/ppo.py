"""Proximal Policy Optimization."""

import warnings
from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.cuda.nvrtc import usable
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.on_policy_algorithm import BaseCallback, OnPolicyAlgorithm
from mlx_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.device_choice import on_own_device
from mlx_baselines3.common.training.native_rollout_learning import NativeRolloutLearning
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import FloatSchedule
from mlx_baselines3.common.utils import explained_variance as explained_variance
from mlx_baselines3.ppo import losses
from mlx_baselines3.ppo.fused_losses import surrogate

SelfPPO = TypeVar("SelfPPO", bound="PPO")


class PPO(OnPolicyAlgorithm):
    """
    Proximal Policy Optimization with a clipped objective, https://arxiv.org/abs/1707.06347.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param n_steps: steps of each environment per rollout
    :param batch_size: size of a minibatch
    :param n_epochs: passes over each rollout
    :param gamma: discount factor
    :param gae_lambda: trade-off between bias (0) and variance (1) of the advantage estimate
    :param clip_range: bound on the change of an action's probability ratio, a number or a function of the
        remaining progress
    :param clip_range_vf: bound on the change of the value function, in units of the reward; None does not
        clip it
    :param normalize_advantage: normalise the advantages of each minibatch
    :param ent_coef: weight of the entropy in the loss
    :param vf_coef: weight of the value loss
    :param max_grad_norm: largest 2-norm of the gradient
    :param use_sde: state-dependent exploration (gSDE)
    :param sde_sample_freq: number of steps between draws of gSDE's noise matrix; -1: once per rollout
    :param rollout_buffer_class: class of the rollout buffer; chosen by the observation space if None
    :param rollout_buffer_kwargs: further arguments of it
    :param target_kl: end the update once the approximate KL divergence exceeds 1.5 times this, in nats; None
        never does
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
    :raises AssertionError: if ``batch_size`` or ``n_steps * n_envs`` is 1 and advantages are normalised
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: mx.Device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(
                spaces.Box,
                spaces.Discrete,
                spaces.MultiDiscrete,
                spaces.MultiBinary,
            ),
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self._check_sizes()
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _check_sizes(self) -> None:
        if self.normalize_advantage:
            assert self.batch_size > 1, (
                f"`batch_size` must be greater than 1 to normalise advantages, got {self.batch_size}. "
                "Pass `normalize_advantage=False` for minibatches of one."
            )
        if self.env is None:
            return
        sizes = f"n_steps={self.n_steps} and n_envs={self.env.num_envs}"
        buffer_size = self.env.num_envs * self.n_steps
        assert buffer_size > 1 or not self.normalize_advantage, (
            f"`n_steps * n_envs` must be greater than 1 to normalise advantages, got {sizes}"
        )
        if remainder := buffer_size % self.batch_size:
            warnings.warn(
                f"You have specified a mini-batch size of {self.batch_size}, but because the `RolloutBuffer` "
                f"is of size `n_steps * n_envs = {buffer_size}`, after every "
                f"{buffer_size // self.batch_size} untruncated mini-batches, there will be a truncated "
                f"mini-batch of size {remainder}. "
                f"A `batch_size` that divides `n_steps * n_envs` ({sizes}) avoids it.",
                stacklevel=4,
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

    def _loss(self, batch: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        """The PPO objective on one minibatch, with SB3's metrics."""
        values, log_prob, entropy = self.policy.evaluate_actions(batch["observations"], batch["actions"])
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

    def _native_learning(self, callback: BaseCallback, log_interval: int | None) -> NativeRolloutLearning:
        return NativeRolloutLearning(self, PPO, callback, log_interval)

    @on_own_device
    def train(self) -> None:
        """Update the policy with the rollout that was just collected."""
        self.policy.set_training_mode(True)
        self.policy.settle_optimizers()
        self._update_learning_rate(self.policy.optimizer)
        settings = self._settings(self._current_progress_remaining)
        epochs = self._updater.take_epochs(self, PPO, settings, self.batch_size, self.n_epochs)
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

    def learn(
        self: SelfPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "PPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPPO:
        """
        Train. See :meth:`BaseAlgorithm.learn`.

        :param total_timesteps: environment steps, rounded up to whole rollouts
        :param callback: called at every step
        :param log_interval: rollouts between two log entries
        :param tb_log_name: name of the run for tensorboard
        :param reset_num_timesteps: start counting at zero
        :param progress_bar: show one (needs tqdm and rich)
        :return: self
        """
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
