"""Truncated Quantile Critics."""

from typing import Any, ClassVar, TypeVar

import mlx.core as mx

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.noise import ActionNoise
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.native_off_policy import NativeActorCriticUpdate
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.contrib.common.utils import quantile_huber_loss
from mlx_baselines3.contrib.tqc import losses
from mlx_baselines3.contrib.tqc.policies import (
    Actor,
    CnnPolicy,
    Critic,
    MlpPolicy,
    MultiInputPolicy,
    TQCPolicy,
)
from mlx_baselines3.sac.sac import SAC

SelfTQC = TypeVar("SelfTQC", bound="TQC")


class TQC(SAC):
    """
    Truncated Quantile Critics, https://arxiv.org/abs/2005.04269: SAC whose critics give quantiles of the
    return. The largest ones of all target critics together are dropped, which keeps them from
    overestimating; the actor follows the mean of all.

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
    :param top_quantiles_to_drop_per_net: so many of the largest quantiles are dropped from the targets, for
        each critic: the more, the less optimistic
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

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: TQCPolicy
    actor: Actor
    critic: Critic
    critic_target: Critic

    def __init__(
        self,
        policy: str | type[TQCPolicy],
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
        top_quantiles_to_drop_per_net: int = 2,
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
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.top_quantiles_to_drop_per_net = top_quantiles_to_drop_per_net
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    @property
    def _base(self) -> type[OffPolicyAlgorithm]:
        return TQC

    def _setup_model(self) -> None:
        super()._setup_model()
        self._kept_quantiles()

    def _kept_quantiles(self) -> int:
        """
        :return: number of the quantiles of all critics that targets are made of
        :raises ValueError: none is left, or a negative number is dropped
        """
        each, count, dropped = (
            self.critic.n_quantiles,
            self.critic.n_critics,
            self.top_quantiles_to_drop_per_net,
        )
        if not 0 <= dropped < each:
            raise ValueError(
                f"`top_quantiles_to_drop_per_net` is {dropped}, expected 0 to {each - 1}: each critic gives "
                f"n_quantiles={each} quantiles, and one at least must be left."
            )
        return (each - dropped) * count

    def _target(self, batch: Arrays, settings: Arrays, ent_coef: mx.array) -> mx.array:
        """:return: (batch, 1, kept) targets of the critics"""
        next_obs = batch["next_observations"]
        next_actions, next_log_prob = self.actor.action_log_prob(next_obs, batch["noise"][1:].squeeze(0))
        return losses.truncated_target(
            batch["rewards"],
            batch["dones"],
            batch.get("discounts", settings["gamma"]),
            self.critic_target(next_obs, next_actions),
            self._kept_quantiles(),
            next_log_prob.reshape(-1, 1),
            ent_coef,
        )

    def _value(self, outputs: mx.array) -> mx.array:
        return outputs.mean(axis=2).mean(axis=1, keepdims=True)

    def _critic_loss(self, outputs: mx.array, target: mx.array) -> mx.array:
        return quantile_huber_loss(outputs, target, sum_over_quantiles=False)

    def _native_update(self, base: type[OffPolicyAlgorithm]) -> NativeActorCriticUpdate:
        self._check_native(base)
        check_unchanged(self, base, ("_gradient_step", "_target", "_batches", "_kept_quantiles"))
        networks, optimizers, _, _ = self._trained()
        quantiles = self.critic.n_quantiles, self._kept_quantiles()
        return NativeActorCriticUpdate(networks, optimizers, blueprint(self.policy), Critic, quantiles)

    def learn(
        self: SelfTQC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "TQC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTQC:
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
