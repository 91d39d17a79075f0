"""Proximal Policy Optimization with recurrent policies."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.callbacks.base import is_noop
from mlx_baselines3.common.native.eligibility import NotNative, check_unchanged, mlx_infers
from mlx_baselines3.common.native.rollouts import actions_for_env
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.nn.threads import tracing
from mlx_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from mlx_baselines3.common.policies import BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.compiled_update import Minibatch
from mlx_baselines3.common.training.dead_steps import dead_mask
from mlx_baselines3.common.training.native_on_policy import NativeOnPolicyUpdate
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import obs_as_tensor
from mlx_baselines3.common.vec_env import VecEnv
from mlx_baselines3.contrib.common.recurrent.buffers import (
    STATES,
    RecurrentDictRolloutBuffer,
    RecurrentRolloutBuffer,
    Sequences,
)
from mlx_baselines3.contrib.common.recurrent.native_memory import NativeMemory, native_memory
from mlx_baselines3.contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from mlx_baselines3.contrib.common.recurrent.type_aliases import RNNStates
from mlx_baselines3.contrib.ppo_recurrent.losses import masked_mean, normalize
from mlx_baselines3.contrib.ppo_recurrent.native_update import NativeRecurrentUpdate
from mlx_baselines3.contrib.ppo_recurrent.policies import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy
from mlx_baselines3.ppo.base import BasePPO

SelfRecurrentPPO = TypeVar("SelfRecurrentPPO", bound="RecurrentPPO")


class RecurrentPPO(BasePPO):
    """
    PPO (https://arxiv.org/abs/1707.06347) with an LSTM in the policy, for environments that show only a part
    of their state.

    The gradient goes back through all steps of an episode that are in the same minibatch. A minibatch of a
    single step leaves its advantage as it is, where sb3-contrib divides by a deviation that is not a number.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param n_steps: steps of each environment per rollout
    :param batch_size: steps of a minibatch, without padding; None takes the whole rollout at once
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
    :param target_kl: end the update once the approximate KL divergence exceeds 1.5 times this, in nats; None
        never does
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
    :raises ValueError: the policy has no memory
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": MlpLstmPolicy,
        "CnnLstmPolicy": CnnLstmPolicy,
        "MultiInputLstmPolicy": MultiInputLstmPolicy,
    }
    policy: RecurrentActorCriticPolicy
    rollout_buffer: RecurrentRolloutBuffer
    # The states after the last step.
    _last_lstm_states: RNNStates | None = None
    # What acts in Rust, in the present rollout.
    _native: NativeMemory | None = None

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int | None = 128,
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
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
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
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, RecurrentActorCriticPolicy):
            raise ValueError(
                f"Policy must subclass RecurrentActorCriticPolicy, got {self.policy_class.__name__}: "
                "RecurrentPPO needs a policy with a memory."
            )
        super()._setup_model()
        layers, _, hidden = self.policy.lstm_hidden_state_shape
        zeros = mx.zeros((layers, self.n_envs, hidden))
        self._last_lstm_states = RNNStates((zeros, zeros), (zeros, zeros))

    def _make_rollout_buffer(self) -> RecurrentRolloutBuffer:
        is_dict = isinstance(self.observation_space, spaces.Dict)
        layers, _, hidden = self.policy.lstm_hidden_state_shape
        return (RecurrentDictRolloutBuffer if is_dict else RecurrentRolloutBuffer)(
            self.n_steps,
            self.observation_space,
            self.action_space,
            (self.n_steps, layers, self.n_envs, hidden),
            self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
        )

    # Callbacks get the local variables of `_collect_step_by_step`: the names that those of sb3-contrib's
    # `collect_rollouts` have too are a contract.

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Step the environments with the present policy and fill a rollout buffer.

        :param env: the training environments
        :param callback: called at every step, and at both ends of the rollout
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps of each environment
        :return: False if the callback stopped the training, True otherwise
        """
        assert isinstance(rollout_buffer, RecurrentRolloutBuffer), (
            f"{type(rollout_buffer).__name__} doesn't support recurrent policy: it is no "
            "RecurrentRolloutBuffer."
        )
        assert self._last_obs is not None, "No previous observation was provided"
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        check_integers(self._last_obs, self.observation_space, "environment")
        try:
            self._native = native_memory(self.policy)
            self._native.actor.reseed()
        except NotNative as reason:
            self._native = None
            self._explain_once(mlx_infers(reason))
        return self._collect_step_by_step(env, callback, rollout_buffer, n_rollout_steps)

    def _infer(self) -> tuple[Any, Any, Any, RNNStates]:
        """:return: actions of NumPy, values, log-probabilities, and the states after the step"""
        states: Any = self._last_lstm_states
        if self._native is not None:
            obs: Any = self._last_obs
            starts = self._last_episode_starts
            actions, values, log_probs, *native_states = self._native.infer(obs, states, starts)
            after: Any = RNNStates(*native_states)  # type: ignore[arg-type]
            return actions.reshape(-1, *(self.action_space.shape or ())), values, log_probs, after
        obs_tensor = obs_as_tensor(self._last_obs, self.device)
        episode_starts = mx.array(np.asarray(self._last_episode_starts, np.float32))
        # The distribution is the policy's only one: not while another thread predicts.
        with tracing:
            actions, values, log_probs, after = self.policy(obs_tensor, states, episode_starts)
        # One evaluation for all; each is then only copied out.
        mx.eval(actions, values, log_probs, after)
        return to_numpy(actions), values, log_probs, after

    def _values(self, obs: Any, states: Any, starts: Any) -> np.ndarray:
        """:return: (batch, 1) values of observations, with the critic's states before them"""
        if self._native is not None:
            return self._native.values(obs, states, starts)
        tensor = obs_as_tensor(obs, self.device)
        values = self.policy.predict_values(tensor, states, mx.array(np.asarray(starts, np.float32)))
        return to_numpy(values)

    def _collect_step_by_step(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RecurrentRolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """As :meth:`collect_rollouts`, once it is known who acts."""
        n_steps = 0
        dead: list[tuple[int, int]] = []
        lstm_states = self._last_lstm_states
        new_obs: Any = self._last_obs
        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            actions, values, log_probs, lstm_states = self._infer()
            clipped_actions = actions_for_env(self.policy, self.action_space, actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            check_integers(new_obs, self.observation_space, "environment")
            self.num_timesteps += env.num_envs

            if self._native is not None and not is_noop(callback):
                values, log_probs = to_mlx(values), to_mlx(log_probs)
                obs_tensor = obs_as_tensor(self._last_obs, self.device)
            callback.update_locals(locals())
            if not callback.on_step():
                return False

            self._update_info_buffer(infos, dones)
            n_steps += 1
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            dead += [(n_steps - 1, i) for i in self._bootstrap_with(lstm_states, rewards, dones, infos)]
            stored = (self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
            rollout_buffer.add(*stored, lstm_states=self._last_lstm_states)  # type: ignore[arg-type]
            self._last_obs = new_obs
            self._last_episode_starts = dones
            self._last_lstm_states = lstm_states

        rollout_buffer.dead_steps = dead_mask(dead, (n_rollout_steps, env.num_envs))
        values = to_mlx(self._values(new_obs, lstm_states.vf, dones))  # type: ignore[union-attr]
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap_with(
        self, states: RNNStates, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> list[int]:
        """
        As :meth:`_bootstrap_timeouts`, with the critic's states after the step.

        :return: the environments whose step only reset
        """
        dead = []
        for i in np.flatnonzero(dones).tolist():
            if "autoreset_step" in infos[i]:
                dead.append(i)
            terminal_obs = infos[i].get("terminal_observation")
            if terminal_obs is not None and infos[i].get("TimeLimit.truncated", False):
                own = states.vf[0][:, i : i + 1], states.vf[1][:, i : i + 1]
                if isinstance(terminal_obs, dict):
                    obs: Any = {key: np.asarray(part)[None] for key, part in terminal_obs.items()}
                else:
                    obs = np.asarray(terminal_obs)[None]
                rewards[i] += self.gamma * self._values(obs, own, np.zeros(1))[0, 0]
        return dead

    def _known(self) -> type[OnPolicyAlgorithm]:
        return RecurrentPPO

    def _native_update(self, base: type[OnPolicyAlgorithm]) -> NativeOnPolicyUpdate:
        check_unchanged(self, base, self._decisive)
        return NativeRecurrentUpdate(self.policy, self.policy.optimizer, self.n_steps)

    def _epochs(self, batch_size: int | None, n_epochs: int) -> Iterator[Iterable[Minibatch]]:
        buffer = self.rollout_buffer
        buffer.flatten()
        check_integers(buffer.observations, self.observation_space)
        env_change = buffer.env_change()
        for _ in range(n_epochs):
            parts = [buffer.sequences(rows, env_change) for rows in buffer.minibatches(batch_size)]
            yield map(self._padded, parts)

    def _padded(self, part: Sequences) -> Arrays:
        """A minibatch of sequences, with padding, as MLX has it."""
        buffer, rows = self.rollout_buffer, part.rows.reshape(-1)
        names = {
            "values": "values",
            "log_probs": "log_probs",
            "advantages": "advantages",
            "returns": "returns",
        }
        batch: dict[str, Any] = {name: to_mlx(getattr(buffer, name)[rows].reshape(-1)) for name in names}
        actions = buffer.actions[rows]
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.reshape(-1).astype(np.int32)
        batch["actions"] = to_mlx(actions.astype(np.int32 if actions.dtype.kind in "iub" else np.float32))
        observations = buffer.observations
        if isinstance(observations, dict):
            batch["observations"] = {key: to_mlx(column[rows]) for key, column in observations.items()}
        else:
            batch["observations"] = to_mlx(observations[rows])
        batch["episode_starts"] = to_mlx(
            np.where(part.is_real, buffer.episode_starts[part.rows, 0], 0).reshape(-1)
        )
        batch["mask"] = to_mlx(part.is_real.reshape(-1))
        for name in STATES:
            column = getattr(buffer, name)
            states = np.zeros((len(part.rows), *column.shape[1:]), np.float32)
            states[: len(part.starts)] = column[part.starts]
            batch[name] = to_mlx(np.ascontiguousarray(states.swapaxes(0, 1)))
        return batch

    def _evaluate(self, batch: Arrays) -> tuple[mx.array, mx.array, mx.array | None]:
        hidden_pi, cell_pi, hidden_vf, cell_vf = (batch[name] for name in STATES)
        states = RNNStates((hidden_pi, cell_pi), (hidden_vf, cell_vf))
        return self.policy.evaluate_actions(
            batch["observations"], batch["actions"], states, batch["episode_starts"]
        )

    def _loss(self, batch: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        """The PPO objective on the steps of one minibatch, with SB3's metrics."""
        values, log_prob, entropy = self._evaluate(batch)
        mask, clip_range = batch["mask"], settings["clip_range"]
        advantages = batch["advantages"]
        if self.normalize_advantage:
            advantages = normalize(advantages, mask)
        # What the networks say of padding must not become infinite.
        log_ratio = mx.where(mask, log_prob - batch["log_probs"], 0.0)
        ratio = mx.exp(log_ratio)
        clipped = mx.clip(ratio, 1 - clip_range, 1 + clip_range)
        values = values.flatten()
        if "clip_range_vf" in settings:
            bound = settings["clip_range_vf"]
            values = batch["values"] + mx.clip(values - batch["values"], -bound, bound)
        # Without a closed form, minus the log likelihood estimates the entropy.
        entropies = -log_prob if entropy is None else entropy
        metrics = {
            "entropy_loss": -masked_mean(entropies, mask),
            "policy_gradient_loss": -masked_mean(mx.minimum(advantages * ratio, advantages * clipped), mask),
            "value_loss": masked_mean(mx.square(batch["returns"] - values), mask),
            "approx_kl": masked_mean((ratio - 1) - log_ratio, mask),
            "clip_fraction": masked_mean((mx.abs(ratio - 1) > clip_range).astype(mx.float32), mask),
        }
        metrics["loss"] = (
            metrics["policy_gradient_loss"]
            + settings["ent_coef"] * metrics["entropy_loss"]
            + settings["vf_coef"] * metrics["value_loss"]
        )
        return self._with_stop(metrics, settings)

    def learn(
        self: SelfRecurrentPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRecurrentPPO:
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

    def _memory(self) -> dict[str, np.ndarray]:
        states = self._last_lstm_states
        assert states is not None
        arrays = (*states.pi, *states.vf)
        return {name: to_numpy(array) for name, array in zip(STATES, arrays, strict=True)}

    def _set_memory(self, memory: dict[str, np.ndarray]) -> None:
        pi, vf = (tuple(to_mlx(memory[name]) for name in names) for names in (STATES[:2], STATES[2:]))
        self._last_lstm_states = RNNStates(pi, vf)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_lstm_states", "_native"]
