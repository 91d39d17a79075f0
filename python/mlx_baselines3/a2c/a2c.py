"""Advantage Actor Critic."""

from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3.a2c import losses
from mlx_baselines3.common.buffers import RolloutBuffer
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
from mlx_baselines3.common.utils import explained_variance as explained_variance

SelfA2C = TypeVar("SelfA2C", bound="A2C")


class A2C(OnPolicyAlgorithm):
    """
    Advantage Actor Critic, the synchronous variant of https://arxiv.org/abs/1602.01783: one gradient step on
    each rollout.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param n_steps: steps of each environment per rollout
    :param gamma: discount factor
    :param gae_lambda: trade-off between bias (0) and variance (1) of the advantage estimate; 1 is the
        paper's advantage
    :param ent_coef: weight of the entropy in the loss
    :param vf_coef: weight of the value loss
    :param max_grad_norm: largest 2-norm of the gradient
    :param rms_prop_eps: RMSprop's epsilon
    :param use_rms_prop: RMSprop, the paper's optimizer, instead of Adam; not if ``policy_kwargs`` names one
    :param use_sde: state-dependent exploration (gSDE)
    :param sde_sample_freq: number of steps between draws of gSDE's noise matrix; -1: once per rollout
    :param rollout_buffer_class: class of the rollout buffer; chosen by the observation space if None
    :param rollout_buffer_kwargs: further arguments of it
    :param normalize_advantage: normalise the advantages of each rollout
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
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
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
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
        self.normalize_advantage = normalize_advantage
        if use_rms_prop and "optimizer_class" not in self.policy_kwargs:
            self.policy_kwargs["optimizer_class"] = optim.RMSprop
            self.policy_kwargs["optimizer_kwargs"] = {"alpha": 0.99, "eps": rms_prop_eps, "weight_decay": 0}
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _loss(self, batch: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        """The A2C objective on one rollout, with SB3's metrics."""
        values, log_prob, entropy = self.policy.evaluate_actions(batch["observations"], batch["actions"])
        advantages = batch["advantages"]
        if self.normalize_advantage:
            advantages = losses.normalize(advantages)
        metrics = {
            "entropy_loss": losses.entropy_loss(entropy, log_prob),
            "policy_loss": losses.policy_loss(log_prob, advantages),
            "value_loss": losses.value_loss(values.flatten(), batch["returns"]),
        }
        loss = (
            metrics["policy_loss"]
            + settings["ent_coef"] * metrics["entropy_loss"]
            + settings["vf_coef"] * metrics["value_loss"]
        )
        return loss, metrics

    def _native_learning(self, callback: BaseCallback, log_interval: int | None) -> NativeRolloutLearning:
        return NativeRolloutLearning(self, A2C, callback, log_interval)

    @on_own_device
    def train(self) -> None:
        """Update the policy with the rollout that was just collected: one gradient step on all of it."""
        self.policy.set_training_mode(True)
        self.policy.settle_optimizers()
        self._update_learning_rate(self.policy.optimizer)
        settings = self._settings(self._current_progress_remaining)
        epochs = self._updater.take_epochs(self, A2C, settings, None, 1)
        self._n_updates += 1
        self._log_update(epochs, settings)

    def _log_update(self, epochs: list[dict[str, np.ndarray]], settings: dict[str, float]) -> None:
        (metrics,) = epochs
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in ("entropy_loss", "policy_loss", "value_loss"):
            self.logger.record(f"train/{name}", metrics[name][-1])
        self._record_fit()

    def learn(
        self: SelfA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "A2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfA2C:
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
