"""Proximal Policy Optimization."""

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import mlx.core as mx
from gymnasium import spaces

from mlx_baselines3._lazy_names import lazy_names
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.on_policy_algorithm import BaseCallback
from mlx_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm as OnPolicyAlgorithm
from mlx_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.native_rollout_learning import NativeRolloutLearning
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import FloatSchedule as FloatSchedule
from mlx_baselines3.common.utils import explained_variance as explained_variance
from mlx_baselines3.ppo.base import BasePPO

if not TYPE_CHECKING:
    __getattr__ = lazy_names(globals(), "np")

SelfPPO = TypeVar("SelfPPO", bound="PPO")


class PPO(BasePPO):
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

    batch_size: int

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
        self._warn_of_remainder()
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _warn_of_remainder(self) -> None:
        if self.env is None:
            return
        sizes = f"n_steps={self.n_steps} and n_envs={self.env.num_envs}"
        buffer_size = self.env.num_envs * self.n_steps
        if remainder := buffer_size % self.batch_size:
            warnings.warn(
                f"You have specified a mini-batch size of {self.batch_size}, but because the `RolloutBuffer` "
                f"is of size `n_steps * n_envs = {buffer_size}`, after every "
                f"{buffer_size // self.batch_size} untruncated mini-batches, there will be a truncated "
                f"mini-batch of size {remainder}. "
                f"A `batch_size` that divides `n_steps * n_envs` ({sizes}) avoids it.",
                stacklevel=4,
            )

    def _native_learning(self, callback: BaseCallback, log_interval: int | None) -> NativeRolloutLearning:
        return NativeRolloutLearning(self, PPO, callback, log_interval)

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
