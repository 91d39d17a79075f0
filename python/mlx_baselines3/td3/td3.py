"""Twin Delayed Deep Deterministic Policy Gradient."""

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import mlx.core as mx
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.packed_optimizer import Arrays, ParameterOptimizer
from mlx_baselines3.common.noise import ActionNoise
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.preprocessing import get_action_dim
from mlx_baselines3.common.training.compiled_update import GradientStep
from mlx_baselines3.common.training.device_choice import on_own_device
from mlx_baselines3.common.training.native_actor_critic import NativeActorCriticLearning, UpdateInputs
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import get_parameters_by_name as get_parameters_by_name
from mlx_baselines3.common.utils import polyak_update as polyak_update
from mlx_baselines3.td3 import losses
from mlx_baselines3.td3.policies import Actor, CnnPolicy, MlpPolicy, MultiInputPolicy, TD3Policy

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "np")

SelfTD3 = TypeVar("SelfTD3", bound="TD3")


class TD3(OffPolicyAlgorithm):
    """
    Twin Delayed DDPG, https://arxiv.org/abs/1802.09477.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: of all networks: a number, or a function of the remaining progress (1 at the
        start, 0 at the end)
    :param buffer_size: transitions that the replay buffer holds
    :param learning_starts: steps to collect with random actions before the first update
    :param batch_size: transitions per gradient step
    :param tau: coefficient of the Polyak update of the target networks, between 0 and 1
    :param gamma: discount factor
    :param train_freq: steps of each environment between two updates, or ``(n, "step")`` or
        ``(n, "episode")``
    :param gradient_steps: gradient steps per update; -1: as many as steps were collected
    :param action_noise: noise added to the actions while collecting
    :param replay_buffer_class: class of the replay buffer; chosen by the observation space if None
    :param replay_buffer_kwargs: further arguments of it
    :param optimize_memory_usage: keep each observation once instead of twice
    :param n_steps: number of steps of the n-step returns
    :param policy_delay: gradient steps of the critics per gradient step of the actor and update of the target
        networks
    :param target_policy_noise: standard deviation of the noise that smooths the target
    :param target_noise_clip: largest absolute value of that noise
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
    """

    # What is logged of an update, in this order.
    _metric_names = ("actor_loss", "critic_loss")

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: TD3Policy
    actor: Actor
    actor_target: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
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
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        self.policy_delay = policy_delay
        self.target_noise_clip = target_noise_clip
        self.target_policy_noise = target_policy_noise
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self._create_aliases()

    def _create_aliases(self) -> None:
        self.actor = self.policy.actor
        self.actor_target = self.policy.actor_target
        self.critic = self.policy.critic
        self.critic_target = self.policy.critic_target

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, delayed: Any) -> Arrays:
        """
        One gradient step of the critics and, if due, of the actor and the target networks.

        :param step: the step that is being traced
        :param batch: transitions, and ``noise`` (batch, action_dim) that smooths the target
        :param settings: scalars
        :param delayed: whether actor and target networks are updated too
        :return: SB3's metrics
        """
        obs = batch["observations"]
        target = self._target(batch, settings)
        shared = self.policy.shared_features(obs, self.actor)

        def critic_loss() -> tuple[mx.array, None]:
            return losses.critic_loss(self.critic(obs, batch["actions"], **shared), target), None

        def actor_loss() -> tuple[mx.array, None]:
            features = self.policy.shared_features(obs, self.actor)
            return losses.actor_loss(
                self.critic.q1_forward(obs, self.actor(obs, **features), **features)
            ), None

        metrics = {}
        metrics["critic_loss"], _ = step.descend("critic", critic_loss)
        if delayed:
            metrics["actor_loss"], _ = step.descend("actor", actor_loss)
            for slow_copy in self.policy.update_networks()[1]:
                step.follow(slow_copy, settings["tau"])
        return metrics

    def _target(self, batch: Arrays, settings: Arrays) -> mx.array:
        """:return: (batch, 1) targets of the critics"""
        next_obs = batch["next_observations"]
        shared = self.policy.shared_features(next_obs, self.actor_target)
        next_actions = losses.smoothed(
            self.actor_target(next_obs, **shared),
            batch["noise"],
            settings["target_policy_noise"],
            settings["target_noise_clip"],
        )
        return losses.td_target(
            batch["rewards"],
            batch["dones"],
            batch.get("discounts", settings["gamma"]),
            losses.smallest(self.critic_target(next_obs, next_actions, **shared)),
        )

    def _noise(self, gradient_steps: int, batch_size: int) -> mx.array:
        """:return: (gradient_steps, batch_size, action_dim) standard normals"""
        return mx.random.normal((gradient_steps, batch_size, get_action_dim(self.action_space)))

    def _native_update(self, base: type[OffPolicyAlgorithm]) -> Any:
        check_unchanged(self.policy, TD3Policy, ("shared_features", "update_networks"))
        return super()._native_update(base)

    def _optimizers(self) -> list[ParameterOptimizer]:
        """:return: all of them"""
        return [self.actor.optimizer, self.critic.optimizer]

    def _update_inputs(self, gradient_steps: int, batch_size: int) -> UpdateInputs:
        settings = {
            "gamma": self.gamma,
            "tau": self.tau,
            "target_policy_noise": self.target_policy_noise,
            "target_noise_clip": self.target_noise_clip,
        }
        first = self._n_updates + 1
        noise = self._noise(gradient_steps, batch_size)
        delayed = [i % self.policy_delay == 0 for i in range(first, first + gradient_steps)]
        return UpdateInputs(settings, noise, [(now, now) for now in delayed])

    def _native_learning(self, log_interval: int | None) -> NativeActorCriticLearning:
        return NativeActorCriticLearning(self, TD3, log_interval)

    @on_own_device
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update all networks with transitions from the replay buffer.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions per gradient step
        """
        if gradient_steps < 1:
            return
        self.policy.set_training_mode(True)
        self._create_aliases()
        self.policy.settle_optimizers()
        self._update_learning_rate(self._optimizers())
        inputs = self._update_inputs(gradient_steps, batch_size)
        metrics = self._updater.take_steps(self, TD3, gradient_steps, batch_size, *inputs)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in self._metric_names:
            if name in metrics:
                self.logger.record(f"train/{name}", metrics[name].mean())

    def learn(
        self: SelfTD3,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "TD3",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTD3:
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
        return [*super()._excluded_save_params(), "actor", "critic", "actor_target", "critic_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
