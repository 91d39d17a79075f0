"""Soft Actor-Critic."""

from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.distributions import SquashedDiagGaussianDistribution
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged
from mlx_baselines3.common.nn.layers import Module
from mlx_baselines3.common.nn.packed_optimizer import Arrays, ParameterOptimizer
from mlx_baselines3.common.nn.random_numbers import standard_normal
from mlx_baselines3.common.noise import ActionNoise
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.compiled_update import GradientStep
from mlx_baselines3.common.training.device_choice import on_own_device
from mlx_baselines3.common.training.native_actor_critic import NativeActorCriticLearning, UpdateInputs
from mlx_baselines3.common.training.updater import Trained
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import get_parameters_by_name as get_parameters_by_name
from mlx_baselines3.common.utils import polyak_update as polyak_update
from mlx_baselines3.sac import losses
from mlx_baselines3.sac.policies import Actor, CnnPolicy, MlpPolicy, MultiInputPolicy, SACPolicy

SelfSAC = TypeVar("SelfSAC", bound="SAC")


class EntropyCoefficient(Module):
    """
    The learned entropy coefficient.

    :param initial: its initial value
    """

    def __init__(self, initial: float):
        super().__init__()
        self.log_ent_coef = mx.log(mx.full((1,), initial))


class SAC(OffPolicyAlgorithm):
    """
    Soft Actor-Critic, https://arxiv.org/abs/1801.01290, with twin critics and a learned entropy coefficient,
    https://arxiv.org/abs/1812.05905.

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
    :param ent_coef: weight of the entropy in the reward; "auto" learns it, "auto_0.1" starts at 0.1
    :param target_update_interval: gradient steps between two updates of the target networks
    :param target_entropy: target of the learned entropy coefficient, in nats; "auto": minus the number of
        action components
    :param use_sde: state-dependent exploration (gSDE) instead of independent noise
    :param sde_sample_freq: number of steps between draws of gSDE's noise matrix; -1: once per rollout
    :param use_sde_at_warmup: use gSDE instead of uniform sampling before learning starts
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
    :raises ValueError: if ``ent_coef`` or ``target_entropy`` is neither a number nor "auto"
    """

    # What is logged of an update, in this order.
    _metric_names = ("ent_coef", "actor_loss", "critic_loss", "ent_coef_loss")

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SACPolicy
    actor: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic
    target_entropy: Any

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
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
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
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
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        self.target_entropy = target_entropy
        self.ent_coef = ent_coef
        self.target_update_interval = target_update_interval
        self.ent_coef_optimizer: ParameterOptimizer | None = None
        self._entropy_coefficient: EntropyCoefficient | None = None
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    @property
    def _base(self) -> type[OffPolicyAlgorithm]:
        """:return: the class of this package whose gradient step is taken, unless a user has overridden it"""
        return SAC

    def _setup_model(self) -> None:
        super()._setup_model()
        self._create_aliases()
        if self.target_entropy == "auto":
            self.target_entropy = -np.prod(self.action_space.shape or ())
        self.target_entropy = _number("target_entropy", self.target_entropy)
        auto, _, initial = str(self.ent_coef).partition("_")
        if auto == "auto":
            value = _number("ent_coef", initial or 1.0)
            assert value > 0.0, (
                f"The initial value of ent_coef must be greater than 0, got {self.ent_coef!r}."
            )
            self._entropy_coefficient = EntropyCoefficient(value)
            self.ent_coef_optimizer = ParameterOptimizer(
                self._entropy_coefficient, optim.Adam, self.lr_schedule(1)
            )
        else:
            self.ent_coef_tensor = mx.array(_number("ent_coef", self.ent_coef))

    def _create_aliases(self) -> None:
        self.actor = self.policy.actor
        self.critic = self.policy.critic
        self.critic_target = self.policy.critic_target

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "ent_coef_optimizer" and isinstance(value, optim.Optimizer):
            assert self._entropy_coefficient is not None, (
                f"ent_coef={self.ent_coef!r} is not learned: make the model with ent_coef='auto'."
            )
            value = ParameterOptimizer.around(self._entropy_coefficient, value)
        super().__setattr__(name, value)

    @property
    def log_ent_coef(self) -> mx.array | None:
        """:return: (1,) logarithm of the learned entropy coefficient, or None if it is not learned"""
        return None if self._entropy_coefficient is None else self._entropy_coefficient.log_ent_coef

    @log_ent_coef.setter
    def log_ent_coef(self, value: mx.array) -> None:
        assert self._entropy_coefficient is not None, (
            f"ent_coef={self.ent_coef!r} is not learned: set `ent_coef_tensor`, or make the model with "
            "ent_coef='auto'."
        )
        self._entropy_coefficient.log_ent_coef = mx.array(value, dtype=mx.float32).reshape(1)

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, follow: Any) -> Arrays:
        """
        One gradient step: critics, actor, entropy coefficient, target networks.

        :param step: the step that is being traced
        :param batch: transitions, and ``noise`` (2, …) for the actions at both observations
        :param settings: scalars
        :param follow: whether the target networks are updated
        :return: SB3's metrics
        """
        coefficient = self._entropy_coefficient
        ent_coef = settings["ent_coef"] if coefficient is None else mx.exp(coefficient.log_ent_coef).squeeze()
        obs = batch["observations"]
        target = self._target(batch, settings, ent_coef)
        shared = self.policy.shared_features(obs, self.actor)

        def critic_loss() -> tuple[mx.array, None]:
            return self._critic_loss(self.critic(obs, batch["actions"], **shared), target), None

        metrics = {"ent_coef": ent_coef}
        metrics["critic_loss"], _ = step.descend("critic", critic_loss)
        metrics["actor_loss"], log_prob = step.descend("actor", lambda: self._actor_loss(batch, ent_coef))

        def ent_coef_loss() -> tuple[mx.array, None]:
            assert coefficient is not None
            loss = losses.ent_coef_loss(coefficient.log_ent_coef, log_prob, settings["target_entropy"])
            return loss, None

        if coefficient is not None:
            metrics["ent_coef_loss"], _ = step.descend("ent_coef", ent_coef_loss)
        if follow:
            step.follow("critic_target", settings["tau"])
        return metrics

    def _actor_loss(self, batch: Arrays, ent_coef: mx.array) -> tuple[mx.array, mx.array]:
        """:return: the actor's loss, and (batch, 1) log likelihoods of the current policy's actions"""
        obs = batch["observations"]
        features = self.policy.shared_features(obs, self.actor)
        actions, log_prob = self.actor.action_log_prob(obs, batch["noise"][:1].squeeze(0), **features)
        log_prob = log_prob.reshape(-1, 1)
        q_values = self._value(self.critic(obs, actions, **features))
        return losses.actor_loss(log_prob, q_values, ent_coef), log_prob

    def _value(self, outputs: Any) -> mx.array:
        """:return: (batch, 1) what the critics' outputs say of an action"""
        return losses.smallest(outputs)

    def _critic_loss(self, outputs: Any, target: mx.array) -> mx.array:
        """:return: the loss of the critics, scalar"""
        return losses.critic_loss(outputs, target)

    def _target(self, batch: Arrays, settings: Arrays, ent_coef: mx.array) -> mx.array:
        """:return: (batch, 1) targets of the critics"""
        next_obs = batch["next_observations"]
        next_actions, next_log_prob = self.actor.action_log_prob(next_obs, batch["noise"][1:].squeeze(0))
        return losses.soft_target(
            batch["rewards"],
            batch["dones"],
            batch.get("discounts", settings["gamma"]),
            losses.smallest(self.critic_target(next_obs, next_actions)),
            next_log_prob.reshape(-1, 1),
            ent_coef,
        )

    def _noise(self, gradient_steps: int, batch_size: int) -> mx.array:
        """
        :return: (gradient_steps, 2, …) standard normals, for the actions at the observations and at the
            next ones; with gSDE both use one exploration matrix
        """
        shape = self.actor.noise_shape(batch_size)
        if not self.use_sde:
            return standard_normal((gradient_steps, 2, *shape))
        matrices = standard_normal((gradient_steps, 1, *shape))
        return mx.broadcast_to(matrices, (gradient_steps, 2, *shape))

    def _trained(self) -> Trained:
        networks, optimizers, targets, _ = super()._trained()
        if self._entropy_coefficient is not None and self.ent_coef_optimizer is not None:
            networks = {**networks, "ent_coef": self._entropy_coefficient}
            optimizers = {**optimizers, "ent_coef": self.ent_coef_optimizer}
        return Trained(networks, optimizers, targets)

    def _check_native(self, base: type[OffPolicyAlgorithm]) -> None:
        """
        :raises NotNative: the actor's loss, or what it is made of, is not what Rust knows
        """
        check_unchanged(self, base, ("_actor_loss", "_critic_loss", "_value"))
        check_unchanged(self.policy, SACPolicy, ("shared_features", "update_networks"))
        check_unchanged(self.actor, Actor, ("action_log_prob", "noise_shape"))
        dist = self.actor.action_dist
        # For other distributions the policy's blueprint gives the reason.
        if isinstance(dist, SquashedDiagGaussianDistribution):
            check_unchanged(
                dist, SquashedDiagGaussianDistribution, ("log_prob", "log_prob_from_params", "sample")
            )
            if dist.epsilon != SquashedDiagGaussianDistribution(1).epsilon:
                raise NotNative(f"the squashed distribution's epsilon is {dist.epsilon}")

    def _native_update(self, base: type[OffPolicyAlgorithm]) -> Any:
        self._check_native(base)
        return super()._native_update(base)

    def _optimizers(self) -> list[ParameterOptimizer]:
        """:return: all of them"""
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        return optimizers if self.ent_coef_optimizer is None else [*optimizers, self.ent_coef_optimizer]

    def _update_inputs(self, gradient_steps: int, batch_size: int) -> UpdateInputs:
        settings = {"gamma": self.gamma, "tau": self.tau, "target_entropy": self.target_entropy}
        if self.ent_coef_optimizer is None:
            settings["ent_coef"] = self.ent_coef_tensor.item()
        noise = self._noise(gradient_steps, batch_size)
        flags = [(True, i % self.target_update_interval == 0) for i in range(gradient_steps)]
        return UpdateInputs(settings, noise, flags)

    def _native_learning(self, log_interval: int | None) -> NativeActorCriticLearning:
        return NativeActorCriticLearning(self, self._base, log_interval)

    @on_own_device
    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
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
        metrics = self._updater.take_steps(self, self._base, gradient_steps, batch_size, *inputs)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in self._metric_names:
            if name in metrics:
                self.logger.record(f"train/{name}", metrics[name].mean())

    def learn(
        self: SelfSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "SAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSAC:
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
        return [
            *super()._excluded_save_params(),
            "actor",
            "critic",
            "critic_target",
            "_entropy_coefficient",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", "actor.optimizer", "critic.optimizer"]
        if self.ent_coef_optimizer is None:
            return state_dicts, ["ent_coef_tensor"]
        return [*state_dicts, "ent_coef_optimizer"], ["log_ent_coef"]


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be a number or 'auto', got {value!r}.") from error
