"""CrossQ: SAC without target networks, with batch renormalization."""

from typing import Any, ClassVar, TypeVar

import mlx.core as mx

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.noise import ActionNoise
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.compiled_update import GradientStep
from mlx_baselines3.common.training.native_actor_critic import UpdateInputs
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.contrib.crossq.policies import Actor, CrossQCritic, CrossQPolicy, MlpPolicy
from mlx_baselines3.sac import losses
from mlx_baselines3.sac.sac import SAC

SelfCrossQ = TypeVar("SelfCrossQ", bound="CrossQ")


class CrossQ(SAC):
    """
    CrossQ, https://openreview.net/forum?id=PczQtTsTIX: SAC whose critics see the present and the next
    observations in one batch that is renormalized together, so that they need no target networks.

    :param policy: "MlpPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: of all networks: a number, or a function of the remaining progress (1 at the
        start, 0 at the end)
    :param buffer_size: transitions that the replay buffer holds
    :param learning_starts: steps to collect with random actions before the first update
    :param batch_size: transitions per gradient step
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
    :param target_entropy: target of the learned entropy coefficient, in nats; "auto": minus the number of
        action components
    :param policy_delay: the actor learns in every so many gradient steps of the critics
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

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy}
    policy: CrossQPolicy
    actor: Actor
    critic: CrossQCritic

    def __init__(
        self,
        policy: str | type[CrossQPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        policy_delay: int = 3,
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
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
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
            tau=1.0,
            _init_setup_model=False,
        )
        # Of target networks, which there are none of.
        del self.target_update_interval
        self.policy_delay = policy_delay
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    @property
    def _base(self) -> type[OffPolicyAlgorithm]:
        return CrossQ

    def _create_aliases(self) -> None:
        self.actor = self.policy.actor
        self.critic = self.policy.critic

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, delayed: Any) -> Arrays:
        """
        One gradient step of the critics and, if due, of the actor and the entropy coefficient.

        :param step: the step that is being traced
        :param batch: transitions, and ``noise`` (2, …) for the actions at both observations
        :param settings: scalars
        :param delayed: whether the actor is updated too
        :return: sb3-contrib's metrics
        """
        coefficient = self._entropy_coefficient
        ent_coef = settings["ent_coef"] if coefficient is None else mx.exp(coefficient.log_ent_coef).squeeze()
        metrics = {"ent_coef": ent_coef}
        self.actor.set_bn_training_mode(False)
        next_obs, noise = batch["next_observations"], batch["noise"][1:].squeeze(0)
        drawn = self.actor.action_log_prob(next_obs, noise)
        metrics["critic_loss"], _ = step.descend(
            "critic", lambda: (self._joint_loss(batch, settings, drawn, ent_coef), None)
        )
        if not delayed:
            return metrics
        metrics["actor_loss"], log_prob = step.descend("actor", lambda: self._actor_loss(batch, ent_coef))

        def ent_coef_loss() -> tuple[mx.array, None]:
            assert coefficient is not None
            loss = losses.ent_coef_loss(coefficient.log_ent_coef, log_prob, settings["target_entropy"])
            return loss, None

        if coefficient is not None:
            metrics["ent_coef_loss"], _ = step.descend("ent_coef", ent_coef_loss)
        return metrics

    def _joint_loss(
        self, batch: Arrays, settings: Arrays, drawn: tuple[mx.array, mx.array], ent_coef: mx.array
    ) -> mx.array:
        """:return: the loss of the critics, whose own next values are the targets, without a gradient"""
        next_actions, next_log_prob = drawn
        rows = len(batch["rewards"])
        observations = mx.concatenate([batch["observations"], batch["next_observations"]])
        actions = mx.concatenate([batch["actions"], next_actions])
        self.critic.set_bn_training_mode(True)
        values = self.critic(observations, actions)
        self.critic.set_bn_training_mode(False)
        target = losses.soft_target(
            batch["rewards"],
            batch["dones"],
            batch.get("discounts", settings["gamma"]),
            self._value([of_critic[rows:] for of_critic in values]),
            next_log_prob.reshape(-1, 1),
            ent_coef,
        )
        return self._critic_loss([of_critic[:rows] for of_critic in values], mx.stop_gradient(target))

    def _actor_loss(self, batch: Arrays, ent_coef: mx.array) -> tuple[mx.array, mx.array]:
        obs = batch["observations"]
        self.actor.set_bn_training_mode(True)
        actions, log_prob = self.actor.action_log_prob(obs, batch["noise"][:1].squeeze(0))
        self.actor.set_bn_training_mode(False)
        log_prob = log_prob.reshape(-1, 1)
        return losses.actor_loss(log_prob, self._value(self.critic(obs, actions)), ent_coef), log_prob

    def _native_update(self, base: type[OffPolicyAlgorithm]) -> Any:
        raise NotNative("batch renormalization has no native gradient")

    def _update_inputs(self, gradient_steps: int, batch_size: int) -> UpdateInputs:
        settings = {"gamma": self.gamma, "target_entropy": self.target_entropy}
        if self.ent_coef_optimizer is None:
            settings["ent_coef"] = self.ent_coef_tensor.item()
        noise = self._noise(gradient_steps, batch_size)
        first = self._n_updates + 1
        delayed = [i % self.policy_delay == 0 for i in range(first, first + gradient_steps)]
        return UpdateInputs(settings, noise, [(now, now) for now in delayed])

    def learn(
        self: SelfCrossQ,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "CrossQ",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCrossQ:
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
