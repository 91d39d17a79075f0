"""Proximal Policy Optimization with masks of invalid actions."""

from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.native.actor import NativeActor
from mlx_baselines3.common.native.rollouts import NativeRollout
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.nn.interop import to_numpy
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.nn.threads import tracing
from mlx_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.dead_steps import dead_mask
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import obs_as_tensor
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from mlx_baselines3.contrib.common.maskable.policies import MaskableActorCriticPolicy
from mlx_baselines3.contrib.common.maskable.utils import MaskSource, check_masks, mask_groups, no_masks
from mlx_baselines3.contrib.ppo_mask.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from mlx_baselines3.ppo.base import BasePPO

SelfMaskablePPO = TypeVar("SelfMaskablePPO", bound="MaskablePPO")


class MaskablePPO(BasePPO):
    """
    PPO (https://arxiv.org/abs/1707.06347) whose policy takes only actions that the environment allows in its
    present state (https://arxiv.org/abs/2006.14171).

    The environment offers its mask by a method or an attribute ``action_masks``, or under that key in the
    infos of resets and steps (:class:`~mlx_baselines3.contrib.common.maskable.utils.MaskSource`): one boolean
    per choice, component after component of the action.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param n_steps: steps of each environment per rollout
    :param batch_size: size of a minibatch; None takes the whole rollout at once
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
    :param rollout_buffer_class: class of the rollout buffer, a MaskableRolloutBuffer; chosen by the
        observation space if None
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
    :raises AssertionError: ``batch_size`` or ``n_steps * n_envs`` is 1 and advantages are normalised, or the
        action space is none of Discrete, MultiDiscrete and MultiBinary
    :raises ValueError: the policy or the buffer class knows no masks
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: MaskableActorCriticPolicy
    rollout_buffer: MaskableRolloutBuffer
    _extra_samples = ("action_masks",)
    # (n_envs, choices) what the infos of the last step allow, where nothing else tells.
    _last_action_masks: np.ndarray | None = None
    # Of the present rollout.
    _masks: "_CheckedMasks | None" = None
    _use_masking = True

    def __init__(
        self,
        policy: str | type[MaskableActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int | None = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
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
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
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

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, MaskableActorCriticPolicy):
            raise ValueError(
                f"Policy must subclass MaskableActorCriticPolicy, got {self.policy_class.__name__}: "
                "MaskablePPO needs a policy that takes masks."
            )
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = MaskableDictRolloutBuffer if is_dict else MaskableRolloutBuffer
        if not issubclass(self.rollout_buffer_class, MaskableRolloutBuffer):
            raise ValueError(
                f"rollout_buffer_class is {self.rollout_buffer_class.__name__}, which stores no action "
                "masks: derive it from MaskableRolloutBuffer or MaskableDictRolloutBuffer."
            )
        super()._setup_model()

    def _policy_arguments(self) -> dict[str, Any]:
        return self.policy_kwargs

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self._last_action_masks = None
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions for one observation or a batch. See :meth:`MaskableActorCriticPolicy.predict`.

        :param observation: one observation or a batch
        :param state: returned unchanged (used by recurrent policies)
        :param episode_start: not used (used by recurrent policies)
        :param deterministic: return the most likely actions instead of samples
        :param action_masks: which choices are allowed, a mask for each observation; None allows all
        :return: one action or a batch of them, and ``state``
        :raises ValueError: a mask allows nothing or does not fit
        """
        return self.policy.predict(
            observation, state, episode_start, deterministic, action_masks=action_masks
        )

    # Callbacks get the local variables of `_collect_step_by_step`: the names that those of sb3-contrib's
    # `collect_rollouts` have too are a contract.

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """
        Step the environments with the present policy and fill a rollout buffer.

        :param env: the training environments
        :param callback: called at every step, and at both ends of the rollout
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps of each environment
        :param use_masking: ask the environments which actions they allow
        :return: False if the callback stopped the training, True otherwise
        :raises ValueError: the environments offer no masks, or one that allows nothing or does not fit
        """
        assert isinstance(rollout_buffer, MaskableRolloutBuffer), (
            f"{type(rollout_buffer).__name__} doesn't support action masking: it is no MaskableRolloutBuffer."
        )
        assert self._last_obs is not None, "No previous observation was provided"
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        self._masks = self._find_masks(env) if use_masking else None
        callback.on_rollout_start()
        check_integers(self._last_obs, self.observation_space, "environment")
        if (actor := self._native_actor(rollout_buffer)) is not None:
            return self._collect_natively(actor, env, callback, rollout_buffer, n_rollout_steps)
        return self._collect_step_by_step(env, callback, rollout_buffer, n_rollout_steps)

    def _collect_step_by_step(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: MaskableRolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """As :meth:`collect_rollouts`, with actions from MLX."""
        use_masking, action_masks = self._masks is not None, None
        n_steps = 0
        dead: list[tuple[int, int]] = []
        new_obs: Any = self._last_obs
        while n_steps < n_rollout_steps:
            obs_tensor = obs_as_tensor(self._last_obs, self.device)
            if self._masks is not None:
                action_masks = self._masks.now()
            # The distribution is the policy's only one: not while another thread predicts.
            with tracing:
                actions, values, log_probs = self.policy(obs_tensor, action_masks=action_masks)
            # One evaluation for all three; each is then only copied out.
            mx.eval(actions, values, log_probs)
            actions = to_numpy(actions)
            new_obs, rewards, dones, infos = env.step(actions)
            check_integers(new_obs, self.observation_space, "environment")
            self.num_timesteps += env.num_envs
            if self._masks is not None:
                self._masks.follow(dones, infos)

            callback.update_locals(locals())
            if not callback.on_step():
                return False

            self._update_info_buffer(infos, dones)
            n_steps += 1
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            dead += [(n_steps - 1, i) for i in self._bootstrap_timeouts(rewards, dones, infos)]
            stored = (self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
            rollout_buffer.add(*stored, action_masks=action_masks)
            self._last_obs = new_obs
            self._last_episode_starts = dones

        rollout_buffer.dead_steps = dead_mask(dead, (n_rollout_steps, env.num_envs))
        values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _native_rollout(
        self, actor: NativeActor, env: VecEnv, rollout_buffer: RolloutBuffer
    ) -> NativeRollout:
        return NativeRollout(
            actor, self.policy, env, rollout_buffer, self.gamma, self.sde_sample_freq, self._masks
        )

    def _find_masks(self, env: VecEnv) -> "_CheckedMasks":
        """
        :param env: the training environments
        :return: where they have their masks, as after the last step
        :raises ValueError: they have none
        """
        source = MaskSource(env)
        if self._last_action_masks is not None and source.kind in ("infos", None):
            source.go_on(self._last_action_masks)
        if source.kind is None:
            raise no_masks(env)
        return _CheckedMasks(self, source, env.num_envs)

    def _known(self) -> type[OnPolicyAlgorithm]:
        return MaskablePPO

    def _evaluate(self, batch: Arrays) -> tuple[mx.array, mx.array, mx.array | None]:
        masks = batch.get("action_masks")
        return self.policy.evaluate_actions(batch["observations"], batch["actions"], action_masks=masks)

    def _excluded_save_params(self) -> list[str]:
        # What is made anew for each rollout.
        return [*super()._excluded_save_params(), "_masks", "_use_masking"]

    def _collect(self, callback: BaseCallback) -> bool:
        assert self.env is not None
        return self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps, self._use_masking)

    def learn(  # type: ignore[override]  # as in sb3-contrib, use_masking comes before progress_bar
        self: SelfMaskablePPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MaskablePPO",
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaskablePPO:
        """
        Train. See :meth:`BaseAlgorithm.learn`.

        :param total_timesteps: environment steps, rounded up to whole rollouts
        :param callback: called at every step
        :param log_interval: rollouts between two log entries
        :param tb_log_name: name of the run for tensorboard
        :param reset_num_timesteps: start counting at zero
        :param use_masking: ask the environments which actions they allow
        :param progress_bar: show one (needs tqdm and rich)
        :return: self
        :raises ValueError: the environments offer no masks, or one that allows nothing or does not fit
        """
        self._use_masking = use_masking
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )


class _CheckedMasks:
    """
    What the training environments allow, checked before it is used.

    :param model: the algorithm, which remembers the masks of the last infos
    :param source: where the environments have them
    :param n_envs: number of environments
    """

    def __init__(self, model: MaskablePPO, source: MaskSource, n_envs: int):
        self._model, self._source, self._n_envs = model, source, n_envs
        self._groups = mask_groups(model.action_space)
        self.is_native = source.is_native

    def now(self) -> np.ndarray:
        """:return: (n_envs, choices) booleans: what is allowed in the next step"""
        return check_masks(self._source.masks(), self._groups, self._n_envs)

    def follow(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        To be called after each step.

        :param dones: (n_envs,) whether episodes have ended
        :param infos: one for each environment
        """
        self._source.follow(dones, infos)
        self._model._last_action_masks = self._source.seen
