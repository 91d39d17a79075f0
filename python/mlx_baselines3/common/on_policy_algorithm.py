"""What PPO and A2C share: collect a rollout with the present policy, then learn from it."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.base_class import BaseAlgorithm as BaseAlgorithm
from mlx_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from mlx_baselines3.common.callbacks import BaseCallback as BaseCallback
from mlx_baselines3.common.callbacks.base import is_noop, released_on_error, steps_until_needed
from mlx_baselines3.common.native.actor import NativeActor, blueprint
from mlx_baselines3.common.native.eligibility import (
    NotNative,
    check_rollout_buffer,
    check_unchanged,
    is_shipped,
)
from mlx_baselines3.common.native.rollouts import NativeRollout, Steps, actions_for_env, choose_actor
from mlx_baselines3.common.nn.integer_observations import check_integers
from mlx_baselines3.common.nn.interop import all_to_mlx, to_numpy
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.nn.threads import tracing
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.preprocessing import is_image_space
from mlx_baselines3.common.training.compiled_update import GradientStep, Minibatch
from mlx_baselines3.common.training.dead_steps import dead_mask, warn_of_own_minibatches
from mlx_baselines3.common.training.native_on_policy import NativeOnPolicyUpdate
from mlx_baselines3.common.training.native_rollout_learning import NativeRolloutLearning
from mlx_baselines3.common.training.updater import Trained, Updater
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.common.utils import explained_variance
from mlx_baselines3.common.utils import obs_as_tensor as obs_as_tensor
from mlx_baselines3.common.utils import safe_mean as safe_mean
from mlx_baselines3.common.vec_env import VecEnv as VecEnv

SelfOnPolicyAlgorithm = TypeVar("SelfOnPolicyAlgorithm", bound="OnPolicyAlgorithm")
# What there is one number of for each row of a minibatch.
_SCALARS = ("values", "log_probs", "advantages", "returns")


class OnPolicyAlgorithm(BaseAlgorithm):
    """
    Base of PPO and A2C.

    :param policy: name or class of the policy
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: a number, or a function of the remaining progress (1 at the start, 0 at the end)
    :param n_steps: steps of each environment per rollout
    :param gamma: discount factor
    :param gae_lambda: trade-off between bias (0) and variance (1) of the advantage estimate
    :param ent_coef: weight of the entropy in the loss
    :param vf_coef: weight of the value loss
    :param max_grad_norm: largest 2-norm of the gradient
    :param use_sde: state-dependent exploration (gSDE)
    :param sde_sample_freq: number of steps between draws of gSDE's noise matrix; -1: once per rollout
    :param rollout_buffer_class: class of the rollout buffer; chosen by the observation space if None
    :param rollout_buffer_kwargs: further arguments of it
    :param stats_window_size: number of episodes that the logged means are taken over
    :param tensorboard_log: folder for tensorboard; None writes nothing
    :param monitor_wrapper: wrap a single environment in a Monitor
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 quiet, 1 information, 2 debugging
    :param seed: seed of all random generators
    :param device: "auto", "cpu", "gpu" or an ``mx.Device``
    :param _init_setup_model: build the networks at once
    :param supported_action_spaces: action spaces that the algorithm can use
    """

    rollout_buffer: RolloutBuffer
    policy: ActorCriticPolicy
    normalize_advantage: bool
    # Fields of the buffer's samples besides SB3's.
    _extra_samples: ClassVar[tuple[str, ...]] = ()
    # Methods that a subclass may override, so that Rust does not know the gradient step.
    _decisive: ClassVar[tuple[str, ...]] = ("_loss", "_gradient_step", "_epochs")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule,
        n_steps: int,
        gamma: float,
        gae_lambda: float,
        ent_coef: float,
        vf_coef: float,
        max_grad_norm: float,
        use_sde: bool,
        sde_sample_freq: int,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        monitor_wrapper: bool = True,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: mx.Device | str = "auto",
        _init_setup_model: bool = True,
        supported_action_spaces: tuple[type[spaces.Space[Any]], ...] | None = None,
    ):
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            support_multi_env=True,
            monitor_wrapper=monitor_wrapper,
            seed=seed,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            supported_action_spaces=supported_action_spaces,
        )
        self.n_steps = n_steps
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.ent_coef = ent_coef
        self.vf_coef = vf_coef
        self.max_grad_norm = max_grad_norm
        self.rollout_buffer_class = rollout_buffer_class
        self.rollout_buffer_kwargs = rollout_buffer_kwargs or {}
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        with mx.stream(self.device):
            policy = self.policy_class(
                self.observation_space,
                self.action_space,
                self.lr_schedule,
                **self._policy_arguments(),
            )
        rows = self.n_steps * self.n_envs
        self.policy = self._settle_device(policy, min(getattr(self, "batch_size", None) or rows, rows))
        self.rollout_buffer = self._make_rollout_buffer()
        self._updater = Updater()
        self._maybe_recommend_cpu()

    def _policy_arguments(self) -> dict[str, Any]:
        """:return: arguments of the policy's class after its spaces and the learning rate"""
        return {"use_sde": self.use_sde, **self.policy_kwargs}

    def _make_rollout_buffer(self) -> RolloutBuffer:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = DictRolloutBuffer if is_dict else RolloutBuffer
        return self.rollout_buffer_class(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            **self.rollout_buffer_kwargs,
        )

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        """
        Warn that small networks are faster on the CPU, where the user chose the GPU.

        :param mlp_class_name: name of the policy class that the advice is for
        """
        name = self.policy_class.__name__
        if self.device.type != mx.cpu and name == mlp_class_name and not self._chooses_device:
            warnings.warn(
                f"You are trying to run {type(self).__name__} on the GPU. {name} is a small network, "
                "usually faster on the CPU: pass `device='cpu'`.",
                UserWarning,
                stacklevel=4,
            )

    # Callbacks get the local variables of the next two methods: the names that SB3's have too are a contract.

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
        assert self._last_obs is not None, "No previous observation was provided"
        assert self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        n_steps = 0
        dead: list[tuple[int, int]] = []
        new_obs: Any = self._last_obs
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        check_integers(new_obs, self.observation_space, "environment")
        actor = self._native_actor(rollout_buffer)
        if actor is not None:
            return self._collect_natively(actor, env, callback, rollout_buffer, n_rollout_steps)

        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            obs_tensor = obs_as_tensor(self._last_obs, self.device)
            # The distribution is the policy's only one: not while another thread predicts.
            with tracing:
                actions, values, log_probs = self.policy(obs_tensor)
            # One evaluation for all three; each is then only copied out.
            mx.eval(actions, values, log_probs)
            actions = to_numpy(actions)
            clipped_actions = actions_for_env(self.policy, self.action_space, actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            check_integers(new_obs, self.observation_space, "environment")
            self.num_timesteps += env.num_envs

            callback.update_locals(locals())
            if not callback.on_step():
                return False

            self._update_info_buffer(infos, dones)
            n_steps += 1
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            dead += [(n_steps - 1, i) for i in self._bootstrap_timeouts(rewards, dones, infos)]
            rollout_buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
            self._last_obs = new_obs
            self._last_episode_starts = dones

        rollout_buffer.dead_steps = dead_mask(dead, (n_rollout_steps, env.num_envs))
        values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _collect_natively(
        self,
        actor: NativeActor,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """As :meth:`collect_rollouts`, with actions from the native actor."""
        n_steps = 0
        rollout = self._native_rollout(actor, env, rollout_buffer)
        self._explain_once(rollout.why_not_fused())
        while n_steps < n_rollout_steps:
            until_seen = min(steps_until_needed(callback), n_rollout_steps - n_steps)
            steps = self._take_native_steps(rollout, env, callback, until_seen)
            actions, clipped_actions, new_obs, rewards, dones, infos = steps.last
            estimates = None
            if steps.n_steps == until_seen and not is_noop(callback):
                obs_tensor = obs_as_tensor(steps.seen[0], self.device)
                estimates = rollout.estimate(steps)
                values, log_probs = estimates.values, estimates.log_probs

            callback.update_locals(locals())
            continue_training, seen = self._ask(callback, steps)
            if not continue_training:
                return False

            self._update_info_buffer(infos, dones)
            n_steps += steps.n_steps
            rollout.record(steps, seen, estimates)
            self._last_obs = new_obs
            self._last_episode_starts = dones

        rollout_buffer.dead_steps = dead_mask(rollout.dead, (n_rollout_steps, env.num_envs))
        values = rollout.complete(new_obs)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _native_rollout(
        self, actor: NativeActor, env: VecEnv, rollout_buffer: RolloutBuffer
    ) -> NativeRollout:
        return NativeRollout(actor, self.policy, env, rollout_buffer, self.gamma, self.sde_sample_freq)

    def _native_actor(self, rollout_buffer: RolloutBuffer) -> NativeActor | None:
        """The native actor with the present weights; None, and a line that says why, where MLX acts."""
        chosen = choose_actor(self.policy, rollout_buffer)
        if isinstance(chosen, str):
            self._explain_once(chosen)
            return None
        return chosen

    def _take_native_steps(
        self, rollout: NativeRollout, env: VecEnv, callback: BaseCallback, count: int
    ) -> Steps:
        """
        Take and count steps; what ended before the last one is in the statistics when the callback runs.

        :raises BaseException: what a signal's handler has raised; the steps before it are accounted for, and
            the next rollout begins where the environments are
        """
        if rollout.is_fused:
            # Copies, which follow the environments: what callbacks hold stays as it is.
            self._last_obs = np.array(self._last_obs, np.float32)
            self._last_episode_starts = np.array(self._last_episode_starts, bool)
        assert self._last_episode_starts is not None
        steps = rollout.take_steps((self._last_obs, self._last_episode_starts), count)
        unseen = steps.n_steps - (steps.error is None)
        if steps.earlier_episodes:
            assert self.ep_info_buffer is not None
            # Only the latest are kept; a large rollout has tens of thousands.
            kept = self.ep_info_buffer.maxlen if is_shipped(type(self)._update_info_buffer) else None
            latest = steps.earlier_episodes if kept is None else steps.earlier_episodes[-kept:]
            self._update_info_buffer([{"episode": entry} for entry in latest])
        self.num_timesteps += env.num_envs * unseen
        if unseen:
            callback._pass_steps(unseen)
        if steps.error is not None:
            raise steps.error
        self.num_timesteps += env.num_envs
        return steps

    def _ask(self, callback: BaseCallback, steps: Steps) -> tuple[bool, tuple[Any, Any]]:
        """
        Call the callback, to which the last observation is the one before the step, as in SB3.

        :return: whether to go on; and the observations before the step and whether they begin an episode, as
            the callback leaves them
        """
        after = steps.last[2], steps.last[4]
        self._last_obs, self._last_episode_starts = steps.seen
        try:
            continue_training = callback.on_step()
            seen = self._last_obs, self._last_episode_starts
        finally:
            # Whatever ends the rollout here, the next one goes on where the environments are.
            self._last_obs, self._last_episode_starts = after
        return continue_training, seen

    def _bootstrap_timeouts(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> list[int]:
        """
        Where the time limit cut an episode short, the value of its last observation stands for the
        rewards that were not collected (https://arxiv.org/abs/1712.00378).

        :return: the environments whose step only reset
        """
        dead = []
        for i in np.flatnonzero(dones).tolist():
            if "autoreset_step" in infos[i]:
                dead.append(i)
            terminal_obs = infos[i].get("terminal_observation")
            if terminal_obs is not None and infos[i].get("TimeLimit.truncated", False):
                value = self.policy.predict_values(self.policy.obs_to_tensor(terminal_obs)[0])
                rewards[i] += self.gamma * to_numpy(value)[0, 0]
        return dead

    def _rollout_arrays(self) -> Arrays:
        """The whole rollout as MLX arrays, environment after environment; copied once per update."""
        return self._arrays_of(self.rollout_buffer.flattened())

    def _arrays_of(self, columns: dict[str, Any]) -> Arrays:
        """Columns of a rollout as MLX has them; on a GPU in few arrays, since each costs a gather."""
        actions, observations = columns.pop("actions"), columns.pop("observations")
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.reshape(-1).astype(np.int32)
        check_integers(observations, self.observation_space)
        rest = {name: columns.pop(name).reshape(-1) for name in _SCALARS}
        on_gpu = self.device.type == mx.gpu
        if on_gpu:
            rest = {"scalars": np.stack([rest[name] for name in _SCALARS], axis=1)}
        rest |= columns
        keys = [*observations] if isinstance(observations, dict) else []
        seen = [*observations.values()] if keys else [observations]
        arrays = all_to_mlx([actions, *rest.values(), *seen])
        seen, found = arrays[1 + len(rest) :], dict(zip(rest, arrays[1:], strict=False))
        found["actions"] = arrays[0]
        if keys:
            found["observations"] = dict(zip(keys, seen, strict=True))  # type: ignore[assignment]
        elif on_gpu and is_image_space(self.observation_space) and seen[0].ndim == 4:
            # Turned once, as MLX convolves.
            found["images"] = mx.contiguous(seen[0].transpose(0, 2, 3, 1))
        else:
            found["observations"] = seen[0]
        return found

    def _epochs(self, batch_size: int | None, n_epochs: int) -> Iterator[Iterable[Minibatch]]:
        """
        Passes over the rollout, each in an order of its own.

        :param batch_size: rows of a minibatch; None takes all at once
        :param n_epochs: number of passes
        :return: for each pass, pairs of a data set and the rows to take from it
        """
        buffer = self.rollout_buffer
        if type(buffer).get not in (RolloutBuffer.get, DictRolloutBuffer.get):
            yield from (self._custom_minibatches(batch_size) for _ in range(n_epochs))
            return
        # A GPU takes the rows as they lie; to bring the environments together is a copy.
        as_stored = self.device.type == mx.gpu and "_rows_are_plain" in vars(type(buffer))
        data = self._arrays_of(buffer.as_stored()) if as_stored else self._rollout_arrays()
        for _ in range(n_epochs):
            # NumPy's global generator, as SB3 shuffles: one seed gives both the same minibatches.
            (order,) = all_to_mlx([buffer.shuffled_rows().astype(np.uint32)])
            order = buffer.places(order) if as_stored else order
            size = batch_size or order.size
            yield [(data, order[start : start + size]) for start in range(0, order.size, size)]

    def _custom_minibatches(self, batch_size: int | None) -> Iterator[Minibatch]:
        """Minibatches of a user's own buffer class, which decides itself what its ``get`` yields."""
        n_rows = 0
        for samples in self.rollout_buffer.get(batch_size):
            actions = samples.actions
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.astype(mx.int32).flatten()
            batch = {
                "observations": samples.observations,
                "actions": actions,
                "values": samples.old_values,
                "log_probs": samples.old_log_prob,
                "advantages": samples.advantages,
                "returns": samples.returns,
                **{name: getattr(samples, name) for name in self._extra_samples},
            }
            n_rows += samples.advantages.shape[0]
            yield batch, mx.arange(samples.advantages.shape[0])
        warn_of_own_minibatches(self.rollout_buffer, n_rows)

    def _trained(self) -> Trained:
        """:return: what an update reads and changes"""
        return Trained(
            {"policy": self.policy}, {"policy": self.policy.optimizer}, {}, (type(self.rollout_buffer),)
        )

    def _native_update(self, base: type["OnPolicyAlgorithm"]) -> Any:
        """
        :param base: the algorithm whose gradient step Rust knows
        :return: the gradient steps in Rust, or on a GPU in a kernel of their own
        :raises NotNative: the loss, the minibatches or the policy are not those that Rust knows
        """
        check_unchanged(self, base, self._decisive)
        check_rollout_buffer(self.rollout_buffer)
        if self.device.type != mx.gpu:
            return NativeOnPolicyUpdate(self.policy, self.policy.optimizer, blueprint(self.policy))
        if hasattr(self.rollout_buffer, "action_masks"):
            raise NotNative("there is no CUDA kernel for whole gradient steps with masks")
        # What describes the kernel is a tenth of the time that importing the package takes.
        from mlx_baselines3.common.training.program_on_policy import ProgramOnPolicyUpdate

        return ProgramOnPolicyUpdate(self.policy, self.policy.optimizer, blueprint(self.policy))

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, variant: None) -> Arrays:
        """Descend on the loss of one minibatch; see :class:`CompiledUpdate`."""
        batch = self._by_name(batch)
        loss, metrics = step.descend("policy", lambda: self._loss(batch, settings), settings["max_grad_norm"])
        return {"loss": loss, **metrics}

    @staticmethod
    def _by_name(batch: Arrays) -> Arrays:
        """:return: a minibatch of :meth:`_arrays_of` with each column by its name"""
        if "scalars" in batch:
            # One gather has brought all of them; a column is one view.
            batch = dict(batch)
            rows, width = (scalars := batch["scalars"]).shape
            for i, name in enumerate(_SCALARS):
                batch[name] = mx.as_strided(scalars, (rows,), (width,), i)
        if "images" in batch:
            batch = dict(batch)
            batch["observations"] = batch.pop("images").transpose(0, 3, 1, 2)
        return batch

    def _loss(self, batch: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        """
        The objective on one minibatch. Each algorithm has its own.

        :param batch: the minibatch
        :param settings: scalars
        :return: the loss, and SB3's metrics; a condition ``stop`` among them ends the update
        """
        raise NotImplementedError

    def _settings(self, progress: float) -> dict[str, float]:
        """
        :param progress: the progress that remains
        :return: scalars of the loss that may change between updates; they enter the compiled step as arrays
        """
        return {"ent_coef": self.ent_coef, "vf_coef": self.vf_coef, "max_grad_norm": self.max_grad_norm}

    def _log_update(self, epochs: list[dict[str, np.ndarray]], settings: dict[str, float]) -> None:
        """
        Record SB3's keys. Each algorithm has its own.

        :param epochs: the metrics of every minibatch, a dictionary per epoch
        :param settings: those of the update
        """
        raise NotImplementedError

    def _record_fit(self) -> None:
        """Record how well the values explain the returns, and the width of the action noise."""
        buffer = self.rollout_buffer
        values, returns = buffer.values.flatten(), buffer.returns.flatten()
        if (dead := getattr(buffer, "dead_steps", None)) is not None:
            rows, live = buffer.flattened(), ~dead.T.reshape(-1)
            values, returns = rows["values"][live], rows["returns"][live]
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", mx.exp(self.policy.log_std).mean().item())

    def train(self) -> None:
        """
        Learn from the rollout in the buffer. Each algorithm has its own.

        :raises NotImplementedError: always
        """
        raise NotImplementedError

    def _collect(self, callback: BaseCallback) -> bool:
        """:return: whether the training goes on after one rollout"""
        assert self.env is not None
        return self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps)

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write one log entry.

        :param iteration: number of the rollout; 0 omits it
        """
        if iteration > 0:
            self.logger.record("time/iterations", iteration, exclude="tensorboard")
        self._record_progress()
        self.logger.dump(step=self.num_timesteps)

    def learn(
        self: SelfOnPolicyAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "OnPolicyAlgorithm",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOnPolicyAlgorithm:
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
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        # Not 0 after a checkpoint that was taken inside `learn`.
        iteration = (self.num_timesteps - self._num_timesteps_at_start) // (self.n_steps * self.env.num_envs)
        with released_on_error(callback):
            callback.on_training_start(locals(), globals())
            with ModelCall(self), mx.stream(self.device):
                learning = self._native_learning(callback, log_interval)
                while self.num_timesteps < total_timesteps:
                    if (made := self._iterate_natively(learning, callback, iteration)) > 0:
                        iteration += made
                        continue
                    if not self._collect(callback):
                        break
                    iteration += 1
                    self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                    if log_interval is not None and iteration % log_interval == 0:
                        self.dump_logs(iteration)
                    with self._compile_notice:
                        self.train()
            callback.on_training_end()
        return self

    def _native_learning(
        self, callback: BaseCallback, log_interval: int | None
    ) -> NativeRolloutLearning | None:
        """:return: what takes whole iterations in Rust, if there is such a thing"""
        return None

    def _iterate_natively(
        self, learning: NativeRolloutLearning | None, callback: BaseCallback, iteration: int
    ) -> int:
        """:return: iterations that Rust has taken; 0 if the next one is Python's"""
        if learning is None or (unseen := self._unseen_steps(callback)) is None:
            return 0
        return learning.run(unseen, iteration)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
