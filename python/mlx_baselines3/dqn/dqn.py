"""Deep Q-Network."""

import warnings
from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces
from mlx.nn.layers.base import Module

from mlx_baselines3.common.buffers import ReplayBuffer
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import check_unchanged
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.compiled_update import GradientStep
from mlx_baselines3.common.training.device_choice import on_own_device
from mlx_baselines3.common.training.native_learning import NativeQLearning
from mlx_baselines3.common.training.native_off_policy import NativeQUpdate
from mlx_baselines3.common.training.target_networks import follow
from mlx_baselines3.common.training.updater import Trained
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import LinearSchedule, get_parameters_by_name
from mlx_baselines3.common.utils import polyak_update as polyak_update
from mlx_baselines3.dqn import losses
from mlx_baselines3.dqn.policies import CnnPolicy, DQNPolicy, MlpPolicy, MultiInputPolicy, QNetwork

SelfDQN = TypeVar("SelfDQN", bound="DQN")


class DQN(OffPolicyAlgorithm):
    """
    Deep Q-Network, https://arxiv.org/abs/1312.5602 and https://www.nature.com/articles/nature14236. The
    hyperparameters are those of the latter, except for optimizer and learning rate.

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
    exploration_schedule: Schedule
    q_net: QNetwork
    q_net_target: QNetwork
    policy: DQNPolicy

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
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
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float | None = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: mx.Device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
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
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Discrete,),
        )
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_fraction = exploration_fraction
        self.target_update_interval = target_update_interval
        self.max_grad_norm = max_grad_norm
        self.exploration_rate = 0.0
        # Steps of all environments together; one call of their `step` counts once.
        self._n_calls = 0
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self._create_aliases()
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )
        if 1 < self.n_envs > self.target_update_interval:
            warnings.warn(
                "The number of environments used is greater than the target network update interval "
                f"({self.n_envs} > {self.target_update_interval}), therefore the target network will be "
                f"updated after each call to env.step() which corresponds to {self.n_envs} steps.",
                stacklevel=3,
            )

    def _create_aliases(self) -> None:
        self.q_net = self.policy.q_net
        self.q_net_target = self.policy.q_net_target

    def _online_and_target(self) -> tuple[Module, Module]:
        """:return: the network that learns, and its target network"""
        return self.q_net, self.q_net_target

    @property
    def batch_norm_stats(self) -> list[mx.array]:
        """:return: running statistics of the network's batch normalisations"""
        return get_parameters_by_name(self._online_and_target()[0], ["running_"])

    @property
    def batch_norm_stats_target(self) -> list[mx.array]:
        """:return: the same of the target network"""
        return get_parameters_by_name(self._online_and_target()[1], ["running_"])

    def _on_step(self) -> None:
        """Update the target network when it is due, and the exploration rate."""
        self._n_calls += 1
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            follow(*self._online_and_target(), self.tau)
        self._update_exploration_rate()

    def _update_exploration_rate(self) -> None:
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def _random_steps(self, count: int, n_envs: int, learning_starts: int) -> list[bool]:
        """Whether each of the next steps takes a random action; draws :meth:`predict`'s random numbers."""
        random = super()._random_steps(count, n_envs, learning_starts)
        first = sum(random)
        for i, drawn in enumerate(np.random.rand(count - first).tolist(), start=first):  # noqa: NPY002
            # The exploration rate that `_on_step` will have set at that step.
            rate = self.exploration_rate
            if i > 0:
                rate = self.exploration_schedule(self.progress_at(self.num_timesteps + i * n_envs))
            random[i] = not drawn >= rate
        return random

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, variant: None) -> Arrays:
        """One gradient step of the Q network; see :class:`CompiledUpdate`."""
        discounts = batch.get("discounts", settings["gamma"])
        next_q_values = self.q_net_target(batch["next_observations"])
        target = losses.td_target(batch["rewards"], batch["dones"], discounts, next_q_values)

        def loss() -> tuple[mx.array, None]:
            q_values = losses.q_of_actions(self.q_net(batch["observations"]), batch["actions"])
            return losses.huber_loss(q_values, target), None

        value, _ = step.descend("q_net", loss, settings.get("max_grad_norm"))
        return {"loss": value}

    def _trained(self) -> Trained:
        networks = {"q_net": self.q_net, "q_net_target": self.q_net_target}
        # The target network moves between updates, see `_on_step`.
        return Trained(networks, {"q_net": self.policy.optimizer}, {})

    def _native_update(self, base: type[OffPolicyAlgorithm]) -> NativeQUpdate:
        check_unchanged(self, base, ("_gradient_step", "_batches"))
        return NativeQUpdate(self.q_net, self.q_net_target, self.policy.optimizer, blueprint(self.policy))

    def _native_learning(self, log_interval: int | None) -> NativeQLearning:
        return NativeQLearning(self, DQN, log_interval)

    @on_own_device
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update the Q network with transitions from the replay buffer.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions per gradient step
        """
        if gradient_steps < 1:
            return
        self.policy.set_training_mode(True)
        self._create_aliases()
        self.policy.settle_optimizers()
        self._update_learning_rate(self.policy.optimizer)
        settings = {"gamma": self.gamma}
        if self.max_grad_norm is not None:
            settings["max_grad_norm"] = self.max_grad_norm
        metrics = self._updater.take_steps(self, DQN, gradient_steps, batch_size, settings)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", metrics["loss"].mean())

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose epsilon-greedy actions for one observation or a batch: random ones with the probability
        ``exploration_rate``, else the greedy ones.

        :param observation: one observation or a batch
        :param state: returned unchanged (used by recurrent policies)
        :param episode_start: not used (used by recurrent policies)
        :param deterministic: always take the greedy actions
        :return: one action or a batch of them, and ``state``
        """
        # NumPy's global generator, as in SB3: one seed gives the same sequence in both.
        if deterministic or np.random.rand() >= self.exploration_rate:  # noqa: NPY002
            return self.policy.predict(observation, state, episode_start, deterministic)
        if not self.policy.is_vectorized_observation(observation):
            return np.array(self.action_space.sample()), state
        rows = next(iter(observation.values())) if isinstance(observation, dict) else observation
        return np.array([self.action_space.sample() for _ in range(rows.shape[0])]), state

    def learn(
        self: SelfDQN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDQN:
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
        return [*super()._excluded_save_params(), "q_net", "q_net_target"]
