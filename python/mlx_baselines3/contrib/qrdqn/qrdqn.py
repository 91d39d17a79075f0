"""Quantile Regression Deep Q-Network."""

from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import mlx.optimizers as optim
from mlx.nn.layers.base import Module

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.training.compiled_update import GradientStep
from mlx_baselines3.common.training.native_learning import NativeQLearning
from mlx_baselines3.common.training.native_off_policy import NativeQUpdate
from mlx_baselines3.common.training.updater import Trained
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.contrib.common.utils import quantile_huber_loss
from mlx_baselines3.contrib.qrdqn import losses
from mlx_baselines3.contrib.qrdqn.policies import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    QRDQNPolicy,
    QuantileNetwork,
)
from mlx_baselines3.dqn.dqn import DQN

SelfQRDQN = TypeVar("SelfQRDQN", bound="QRDQN")


class QRDQN(DQN):
    """
    Quantile Regression Deep Q-Network, https://arxiv.org/abs/1710.10044: DQN whose network gives quantiles of
    the return instead of its mean. The hyperparameters are the paper's for Atari, except for
    ``learning_starts``.

    As in sb3-contrib, without an ``optimizer_class`` in ``policy_kwargs`` the optimizer is Adam with
    ``eps=0.01 / batch_size``, and ``optimizer_kwargs`` given without a class are replaced by that.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param buffer_size: transitions that the replay buffer holds
    :param learning_starts: environment steps before the first update; actions are random until then
    :param batch_size: transitions per gradient step
    :param tau: coefficient of the Polyak update of the target network; 1 copies
    :param gamma: discount factor
    :param train_freq: steps between two updates, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: gradient steps per update; -1: as many as environment steps were collected
    :param replay_buffer_class: class of the replay buffer; chosen by the observation space if None
    :param replay_buffer_kwargs: further arguments of it
    :param optimize_memory_usage: keep every observation once instead of twice
    :param n_steps: number of steps of the n-step returns
    :param target_update_interval: environment steps between two updates of the target network
    :param exploration_fraction: fraction of the training over which the exploration rate decreases
    :param exploration_initial_eps: probability of a random action at the start
    :param exploration_final_eps: probability of a random action after that
    :param max_grad_norm: largest 2-norm of the gradient; None does not clip it
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: QRDQNPolicy
    quantile_net: QuantileNetwork
    quantile_net_target: QuantileNetwork
    n_quantiles: int

    def __init__(
        self,
        policy: str | type[QRDQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 5e-5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 10000,
        exploration_fraction: float = 0.005,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.01,
        max_grad_norm: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: mx.Device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        policy_kwargs = dict(policy_kwargs or {})
        if "optimizer_class" not in policy_kwargs:
            # The paper's for batches of 32.
            optimizer = {"optimizer_class": optim.Adam, "optimizer_kwargs": {"eps": 0.01 / batch_size}}
            policy_kwargs.update(optimizer)
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            replay_buffer_class,
            replay_buffer_kwargs,
            optimize_memory_usage,
            n_steps,
            target_update_interval,
            exploration_fraction,
            exploration_initial_eps,
            exploration_final_eps,
            max_grad_norm,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
            _init_setup_model,
        )

    def _create_aliases(self) -> None:
        self.quantile_net = self.policy.quantile_net
        self.quantile_net_target = self.policy.quantile_net_target
        self.n_quantiles = self.policy.n_quantiles

    def _online_and_target(self) -> tuple[Module, Module]:
        return self.quantile_net, self.quantile_net_target

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, variant: None) -> Arrays:
        """One gradient step of the quantile network; see :class:`CompiledUpdate`."""
        target = losses.quantile_target(
            batch["rewards"],
            batch["dones"],
            batch.get("discounts", settings["gamma"]),
            self.quantile_net_target(batch["next_observations"]),
        )

        def loss() -> tuple[mx.array, None]:
            quantiles = self.quantile_net(batch["observations"])
            return quantile_huber_loss(losses.quantiles_of_actions(quantiles, batch["actions"]), target), None

        value, _ = step.descend("quantile_net", loss, settings.get("max_grad_norm"))
        return {"loss": value}

    def _trained(self) -> Trained:
        networks = {"quantile_net": self.quantile_net, "quantile_net_target": self.quantile_net_target}
        # The target network moves between updates, see `_on_step`.
        return Trained(networks, {"quantile_net": self.policy.optimizer}, {})

    def _native_update(self, base: type[OffPolicyAlgorithm]) -> NativeQUpdate:
        check_unchanged(self, QRDQN, ("_gradient_step", "_batches"))
        plan = blueprint(self.policy)
        networks = self._online_and_target()
        return NativeQUpdate(*networks, self.policy.optimizer, plan, "quantile_net", self.n_quantiles)

    def _native_learning(self, log_interval: int | None) -> NativeQLearning:
        return NativeQLearning(self, QRDQN, log_interval)

    def learn(
        self: SelfQRDQN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "QRDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfQRDQN:
        """
        Train. See :meth:`BaseAlgorithm.learn`.

        :param total_timesteps: environment steps of all environments together
        :param callback: called at every step
        :param log_interval: episodes between two log entries
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

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "quantile_net", "quantile_net_target"]
