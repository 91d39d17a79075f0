"""Trust Region Policy Optimization."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import mlx.core as mx
import numpy as np
from gymnasium import spaces
from mlx.utils import tree_map

from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.distributions import Distribution, kl_divergence
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import NotNative, check_rollout_buffer, check_unchanged
from mlx_baselines3.common.nn.layers import bound, named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import Arrays
from mlx_baselines3.common.nn.sums import mean
from mlx_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from mlx_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from mlx_baselines3.common.policies.evaluated import ModelCall
from mlx_baselines3.common.training.compiled_update import GradientStep
from mlx_baselines3.common.training.device_choice import on_own_device
from mlx_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from mlx_baselines3.contrib.common.utils import conjugate_gradient_solver, flat_grad
from mlx_baselines3.contrib.trpo import losses
from mlx_baselines3.contrib.trpo.native_critic import NativeCriticUpdate
from mlx_baselines3.contrib.trpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

SelfTRPO = TypeVar("SelfTRPO", bound="TRPO")


class PolicyStep(NamedTuple):
    """
    What became of the policy in an update.

    :param objective: the surrogate objective after the step, or before it if none was accepted
    :param kl: mean divergence from the policy before; 0 if no step was accepted
    :param tries: step sizes that were tried
    :param is_accepted: whether the policy has changed
    """

    objective: float
    kl: float
    tries: int
    is_accepted: bool


class TRPO(OnPolicyAlgorithm):
    """
    Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477: the largest step along the natural
    gradient that keeps the mean divergence of the actions' distributions below ``target_kl``.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: a Gymnasium environment, a VecEnv or the id of a registered environment
    :param learning_rate: of the value function: a number, or a function of the remaining progress (1 at the
        start, 0 at the end)
    :param n_steps: steps of each environment per update
    :param batch_size: rows of a gradient step of the value function
    :param gamma: discount factor
    :param cg_max_steps: iterations of the conjugate gradient method
    :param cg_damping: multiple of the vector that is added to products with the Hessian
    :param line_search_shrinking_factor: by which a step that is refused is shortened
    :param line_search_max_iter: step sizes to try
    :param n_critic_updates: passes of the value function over the rollout
    :param gae_lambda: lambda of generalized advantage estimation
    :param use_sde: state-dependent exploration (gSDE) instead of independent noise
    :param sde_sample_freq: steps between draws of gSDE's noise matrix; -1: once per rollout
    :param rollout_buffer_class: class of the rollout buffer; chosen by the observation space if None
    :param rollout_buffer_kwargs: further arguments of it
    :param normalize_advantage: normalise the advantages of a rollout
    :param target_kl: largest mean divergence of an update
    :param sub_sampling_factor: let the policy learn from every so manieth row alone
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

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float = 0.01,
        sub_sampling_factor: int = 1,
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
            # There is no bonus of entropy, and the value function has its own steps.
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=0.0,
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
        self.normalize_advantage = normalize_advantage
        self.batch_size = batch_size
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.target_kl = target_kl
        self.n_critic_updates = n_critic_updates
        self.sub_sampling_factor = sub_sampling_factor
        self._check_sizes()
        if _init_setup_model:
            with ModelCall(self):
                self._setup_model()

    def _check_sizes(self) -> None:
        assert self.sub_sampling_factor >= 1, (
            f"`sub_sampling_factor` must be at least 1, got {self.sub_sampling_factor}."
        )
        if self.env is None:
            return
        buffer_size = self.env.num_envs * self.n_steps
        sizes = f"n_steps={self.n_steps} and n_envs={self.env.num_envs}"
        assert buffer_size > 1 or not self.normalize_advantage, (
            f"`n_steps * n_envs` must be greater than 1 to normalise advantages, got {sizes}"
        )
        if remainder := buffer_size % self.batch_size:
            warnings.warn(
                f"You have specified a mini-batch size of {self.batch_size}, but because the `RolloutBuffer` "
                f"is of size `n_steps * n_envs = {buffer_size}`, after every "
                f"{buffer_size // self.batch_size} untruncated mini-batches, there will be a truncated "
                f"mini-batch of size {remainder}. "
                f"A `batch_size` that divides `n_steps * n_envs` ({sizes}) avoids it.",
                stacklevel=3,
            )

    def _actor_names(self) -> list[str]:
        """:return: names of the parameters that the actions' distributions depend on, in their order"""
        apart = not getattr(self.policy, "share_features_extractor", True)
        return [
            name
            for name in self.policy.optimizer.names
            # sb3-contrib's rule; an extractor of the critic's own does not change the policy either.
            if "value" not in name and not (apart and name.startswith("vf_features_extractor."))
        ]

    def _distribution(
        self, names: Sequence[str], params: Sequence[mx.array], observations: Any
    ) -> Distribution:
        """:return: the distributions of the actions with other parameters of the actor"""
        with bound(self.policy, dict(zip(names, params, strict=True))):
            found = self.policy.get_distribution(observations)
        # The policy has one object, which the next call changes; its copy would be without arrays.
        own: Distribution = object.__new__(type(found))
        vars(own).update(vars(found))
        return own

    def _policy_batch(self) -> Arrays:
        """:return: what the policy learns from"""
        ((data, rows),) = next(iter(self._epochs(None, 1)))
        rows = rows[:: self.sub_sampling_factor]
        batch: Arrays = tree_map(lambda array: array[rows], data)
        return self._by_name(batch)

    def _cg_noise(self, size: int) -> mx.array:
        """:return: (size,) standard normals, for the first guess of the conjugate gradients"""
        return mx.random.normal((size,))

    def hessian_vector_product(
        self,
        params: Sequence[mx.array],
        grad_kl: Callable[[list[mx.array]], mx.array],
        vector: mx.array,
        retain_graph: bool = True,
    ) -> mx.array:
        """
        The product of a vector with the Hessian of the divergence, which is the Fisher information matrix,
        damped by ``cg_damping``.

        :param params: parameters of the actor
        :param grad_kl: gives the flat gradient of the divergence at such parameters, which is a function here
            because MLX differentiates functions
        :param vector: (total size,)
        :param retain_graph: for compatibility with sb3-contrib
        :return: (total size,)
        """
        return flat_grad(lambda at: mx.inner(grad_kl(at), vector), params) + self.cg_damping * vector

    def _update_policy(self) -> PolicyStep:
        batch, names = self._policy_batch(), self._actor_names()
        observations, actions = batch["observations"], batch["actions"]
        advantages = batch["advantages"]
        if self.normalize_advantage:
            advantages = losses.normalize(advantages)
        arrays = named_parameters(self.policy)
        params = [arrays[name] for name in names]
        old = self._distribution(names, params, observations)

        def objective(at: Sequence[mx.array]) -> tuple[mx.array, mx.array]:
            new = self._distribution(names, at, observations)
            value = losses.surrogate(advantages, new.log_prob(actions), batch["log_probs"])
            return value, mean(kl_divergence(new, old))

        def grad_kl(at: list[mx.array]) -> mx.array:
            return flat_grad(lambda at: objective(at)[1], at)

        def product(vector: mx.array) -> mx.array:
            result = self.hessian_vector_product(params, grad_kl, vector)
            mx.eval(result)
            return result

        gradient = flat_grad(lambda at: objective(at)[0], params)
        noise = self._cg_noise(gradient.size)
        direction = conjugate_gradient_solver(product, gradient, self.cg_max_steps, noise=noise)
        step_size = mx.sqrt(2 * self.target_kl / mx.inner(direction, product(direction)))
        return self._search(names, params, objective, step_size * direction)

    def _search(
        self,
        names: Sequence[str],
        params: Sequence[mx.array],
        objective: Callable[[Sequence[mx.array]], tuple[mx.array, mx.array]],
        step: mx.array,
    ) -> PolicyStep:
        """Shorten a step until it improves the objective within the trust region."""
        before = _number(objective(params)[0])
        ends: list[int] = np.cumsum([param.size for param in params])[:-1].tolist()
        parts = [part.reshape(param.shape) for part, param in zip(mx.split(step, ends), params, strict=True)]
        share = 1.0
        for tried in range(self.line_search_max_iter):
            new = [param + share * part for param, part in zip(params, parts, strict=True)]
            value, kl = map(_number, objective(new))
            # Neither holds of nan.
            if kl < self.target_kl and value > before:
                set_named_parameters(self.policy, dict(zip(names, new, strict=True)))
                return PolicyStep(value, kl, tried + 1, True)
            share *= self.line_search_shrinking_factor
        return PolicyStep(before, 0.0, self.line_search_max_iter, False)

    def _loss(self, batch: Arrays, settings: Arrays) -> tuple[mx.array, Arrays]:
        """The loss of the value function. What the actor uses, too, is a constant to it."""
        arrays = named_parameters(self.policy)
        fixed = {name: mx.stop_gradient(arrays[name]) for name in self._actor_names()}
        with bound(self.policy, fixed):
            values = self.policy.predict_values(batch["observations"]).flatten()
        loss = losses.value_loss(values, batch["returns"])
        return loss, {"value_loss": loss}

    def _gradient_step(self, step: GradientStep, batch: Arrays, settings: Arrays, variant: None) -> Arrays:
        batch = self._by_name(batch)
        _, metrics = step.descend("policy", lambda: self._loss(batch, settings))
        return {"loss": metrics["value_loss"], **metrics}

    def _native_update(self, base: type[OnPolicyAlgorithm]) -> NativeCriticUpdate:
        check_unchanged(self, base, ("_loss", "_gradient_step", "_epochs", "_actor_names"))
        check_rollout_buffer(self.rollout_buffer)
        plan = blueprint(self.policy)
        if plan.shares_features():
            raise NotNative("actor and critic share a features extractor, which the critic may not train")
        return NativeCriticUpdate(self.policy, self.policy.optimizer, plan)

    def _update_critic(self) -> list[dict[str, np.ndarray]]:
        names = self._actor_names()
        arrays = named_parameters(self.policy)
        kept = {name: arrays[name] for name in names}
        epochs = self._updater.take_epochs(self, TRPO, {}, self.batch_size, self.n_critic_updates)
        # Their gradient was 0, but moments of an earlier training or a decay of weights may have moved them.
        set_named_parameters(self.policy, kept)
        return epochs

    @on_own_device
    def train(self) -> None:
        """Update policy and value function with the rollout that was just collected."""
        self.policy.set_training_mode(True)
        self.policy.settle_optimizers()
        self._update_learning_rate(self.policy.optimizer)
        taken = self._update_policy()
        epochs = self._update_critic()
        self._n_updates += 1
        self.logger.record("train/policy_objective", taken.objective)
        if epochs:
            value_losses = np.concatenate([epoch["value_loss"] for epoch in epochs])
            self.logger.record("train/value_loss", value_losses.mean())
        self.logger.record("train/kl_divergence_loss", taken.kl)
        self._record_fit()
        self.logger.record("train/is_line_search_success", float(taken.is_accepted))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def learn(
        self: SelfTRPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTRPO:
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


def _number(scalar: mx.array) -> float:
    number: Any = scalar.item()
    return float(number)
