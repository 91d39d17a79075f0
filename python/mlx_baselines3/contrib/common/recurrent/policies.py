"""Policies of RecurrentPPO: an LSTM between the features and the networks of policy and value."""

from functools import singledispatch
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common._types import PyTorchObs, Schedule
from mlx_baselines3.common.distributions import Distribution
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.nn.layers import Linear, named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.nn.threads import computing, tracing
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    MlpExtractor,
    NatureCNN,
)
from mlx_baselines3.contrib.common.recurrent.lstm import LSTM
from mlx_baselines3.contrib.common.recurrent.type_aliases import RNNStates

__all__ = [
    "RecurrentActorCriticCnnPolicy",
    "RecurrentActorCriticPolicy",
    "RecurrentMultiInputActorCriticPolicy",
]

States = tuple[mx.array, mx.array]


@singledispatch
def predict_natively(
    policy: Any, observation: Any, deterministic: bool, state: Any, episode_start: Any, memory: list[Any]
) -> tuple[np.ndarray, bool] | None:
    """
    :param policy: a recurrent policy
    :param observation: one observation or a batch
    :param deterministic: the most likely actions instead of random ones
    :param state: hidden and cell states, or None
    :param episode_start: where new episodes begin, or None
    :param memory: receives both states after the step
    :return: (batch, action_dim) actions before clipping, and whether the observation was a batch; None if
        only MLX can tell
    :raises ValueError: a shape does not fit
    """
    return None


class RecurrentActorCriticPolicy(ActorCriticPolicy):
    """
    Policy and value function of RecurrentPPO: features extractor, LSTM, MLP.

    The critic has an LSTM of its own (the default), uses the actor's without training it (``shared_lstm``),
    or has a linear layer in its place (neither).

    :param observation_space: space of one observation
    :param action_space: space of one action
    :param lr_schedule: learning rate as a function of the remaining progress (1 at the start)
    :param net_arch: units of the hidden layers after the LSTM, one list for both or ``dict(pi=[…], vf=[…])``;
        two layers of 64 each by default, none after a NatureCNN
    :param activation_fn: class of the activations
    :param ortho_init: orthogonal initial weights, except for the LSTMs
    :param use_sde: state-dependent exploration
    :param log_std_init: initial log standard deviation of continuous actions
    :param full_std: with gSDE, one standard deviation per (feature, action) instead of per feature
    :param use_expln: with gSDE, ``expln`` instead of ``exp`` for the standard deviation
    :param squash_output: with gSDE, squash the actions with tanh
    :param features_extractor_class: class of the module that turns observations into features; by default
        the policy class's own ``default_features_extractor_class``
    :param features_extractor_kwargs: its arguments after the observation space
    :param share_features_extractor: one extractor for policy and value instead of two
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: an MLX optimizer
    :param optimizer_kwargs: its arguments, except for the learning rate; Adam's ``eps`` is 1e-5 by default
    :param lstm_hidden_size: numbers of a hidden state
    :param n_lstm_layers: layers of each LSTM
    :param shared_lstm: the critic uses the actor's LSTM, without a gradient
    :param enable_critic_lstm: the critic has an LSTM of its own
    :param lstm_kwargs: ``bias`` and ``dropout`` of the LSTMs
    :raises AssertionError: both ``shared_lstm`` and ``enable_critic_lstm``, or a shared LSTM without a shared
        features extractor
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[optim.Optimizer] = optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        lstm_kwargs: dict[str, Any] | None = None,
    ):
        assert not (shared_lstm and enable_critic_lstm), (
            "You must choose between shared LSTM, separate or no LSTM for the critic: shared_lstm=True needs "
            "enable_critic_lstm=False."
        )
        assert not (shared_lstm and not share_features_extractor), (
            "If the features extractor is not shared, the LSTM cannot be shared: pass shared_lstm=False or "
            "share_features_extractor=True."
        )
        self._lstm_sizes = {"hidden_size": lstm_hidden_size, "num_layers": n_lstm_layers}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            ortho_init,
            use_sde,
            log_std_init,
            full_std,
            use_expln,
            squash_output,
            features_extractor_class,
            features_extractor_kwargs,
            share_features_extractor,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
        )
        self.lstm_output_dim = lstm_hidden_size
        self.lstm_kwargs = lstm_kwargs or {}
        self.shared_lstm = shared_lstm
        self.enable_critic_lstm = enable_critic_lstm
        # For one observation (layers, 1, hidden).
        self.lstm_hidden_state_shape = (n_lstm_layers, 1, lstm_hidden_size)
        self.lstm_actor = self._make_lstm()
        self.critic: Linear | None = None
        self.lstm_critic: LSTM | None = None
        if enable_critic_lstm:
            self.lstm_critic = self._make_lstm()
        elif not shared_lstm:
            self.critic = Linear(self.features_dim, lstm_hidden_size)
        mx.eval(named_parameters(self))
        self.optimizer = ParameterOptimizer(self, self.optimizer_class, lr_schedule(1), self.optimizer_kwargs)

    def _make_lstm(self) -> LSTM:
        return LSTM(self.features_dim, **self._lstm_sizes, **self.lstm_kwargs)  # type: ignore[arg-type]

    def _build_mlp_extractor(self) -> None:
        width = self._lstm_sizes["hidden_size"]
        self.mlp_extractor = MlpExtractor(width, self.net_arch, self.activation_fn, self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        layers, _, hidden_size = self.lstm_hidden_state_shape
        return {
            **super()._get_constructor_parameters(),
            "lstm_hidden_size": hidden_size,
            "n_lstm_layers": layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }

    @staticmethod
    def _process_sequence(
        features: mx.array, lstm_states: Any, episode_starts: mx.array, lstm: LSTM
    ) -> tuple[mx.array, States]:
        """
        Run an LSTM over sequences.

        :param features: (n_seq * length, features) one sequence after the other
        :param lstm_states: hidden and cell states (layers, n_seq, hidden) before the first step
        :param episode_starts: (n_seq * length,) 1 where a new episode begins, and the states are zeros
        :param lstm: the LSTM
        :return: (n_seq * length, hidden) hidden states, and all states after the last step
        """
        n_seq = lstm_states[0].shape[1]
        steps = features.reshape(n_seq, -1, lstm.input_size).swapaxes(0, 1)
        keep = (1 - episode_starts.astype(mx.float32)).reshape(n_seq, -1).swapaxes(0, 1)
        hidden, after = lstm(steps, (lstm_states[0], lstm_states[1]), keep)
        return hidden.swapaxes(0, 1).reshape(-1, lstm.hidden_size), after

    def _recall(
        self, obs: PyTorchObs, lstm_states: RNNStates, episode_starts: mx.array
    ) -> tuple[mx.array, mx.array, RNNStates]:
        """:return: latent features of policy and value, and the states after the last step"""
        features = self.extract_features(obs)
        pi_features, vf_features = features if isinstance(features, tuple) else (features, features)
        latent_pi, after_pi = self._process_sequence(
            pi_features, lstm_states.pi, episode_starts, self.lstm_actor
        )
        if self.lstm_critic is not None:
            latent_vf, after_vf = self._process_sequence(
                vf_features, lstm_states.vf, episode_starts, self.lstm_critic
            )
        elif self.critic is None:
            # The actor's, which the values do not train.
            latent_vf, after_vf = mx.stop_gradient(latent_pi), after_pi
        else:
            latent_vf, after_vf = self.critic(vf_features), after_pi
        return (
            self.mlp_extractor.forward_actor(latent_pi),
            self.mlp_extractor.forward_critic(latent_vf),
            RNNStates(after_pi, after_vf),
        )

    def forward(  # type: ignore[override]  # as in sb3-contrib
        self, obs: PyTorchObs, lstm_states: RNNStates, episode_starts: mx.array, deterministic: bool = False
    ) -> tuple[mx.array, mx.array, mx.array, RNNStates]:
        """
        :param obs: (n_seq * length, ...) observations, one sequence after the other
        :param lstm_states: states before the first step, (layers, n_seq, hidden) each
        :param episode_starts: (n_seq * length,) 1 where a new episode begins
        :param deterministic: return the most likely actions instead of samples
        :return: actions, (n_seq * length, 1) values, (n_seq * length,) log likelihood of the actions, and the
            states after the last step
        """
        latent_pi, latent_vf, after = self._recall(obs, lstm_states, episode_starts)
        distribution = self._get_action_dist_from_latent(latent_pi)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        actions = actions.reshape((-1, *(self.action_space.shape or ())))
        return actions, self.value_net(latent_vf), log_prob, after

    def get_distribution(  # type: ignore[override]  # as in sb3-contrib
        self, obs: PyTorchObs, lstm_states: States, episode_starts: mx.array
    ) -> tuple[Distribution, States]:
        """
        :param obs: (n_seq * length, ...) observations, one sequence after the other
        :param lstm_states: the actor's states before the first step, (layers, n_seq, hidden) each
        :param episode_starts: (n_seq * length,) 1 where a new episode begins
        :return: the distribution of the actions, and the states after the last step
        """
        features = BasePolicy.extract_features(self, obs, self.pi_features_extractor)
        latent, after = self._process_sequence(features, lstm_states, episode_starts, self.lstm_actor)
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent)), after

    def predict_values(  # type: ignore[override]  # as in sb3-contrib
        self, obs: PyTorchObs, lstm_states: States, episode_starts: mx.array
    ) -> mx.array:
        """
        :param obs: (n_seq * length, ...) observations, one sequence after the other
        :param lstm_states: the critic's states before the first step, (layers, n_seq, hidden) each
        :param episode_starts: (n_seq * length,) 1 where a new episode begins
        :return: (n_seq * length, 1) values
        """
        features = BasePolicy.extract_features(self, obs, self.vf_features_extractor)
        if self.critic is not None:
            latent = self.critic(features)
        else:
            lstm = self.lstm_critic or self.lstm_actor
            latent, _ = self._process_sequence(features, lstm_states, episode_starts, lstm)
        return self.value_net(self.mlp_extractor.forward_critic(latent))

    def evaluate_actions(  # type: ignore[override]  # as in sb3-contrib
        self, obs: PyTorchObs, actions: mx.array, lstm_states: RNNStates, episode_starts: mx.array
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """
        :param obs: (n_seq * length, ...) observations, one sequence after the other
        :param actions: (n_seq * length, ...) actions
        :param lstm_states: states before the first step, (layers, n_seq, hidden) each
        :param episode_starts: (n_seq * length,) 1 where a new episode begins
        :return: (n_seq * length, 1) values, (n_seq * length,) log likelihood of the actions, and entropy of
            the distribution or None if there is no closed form
        """
        latent_pi, latent_vf, _ = self._recall(obs, lstm_states, episode_starts)
        distribution = self._get_action_dist_from_latent(latent_pi)
        return self.value_net(latent_vf), distribution.log_prob(actions), distribution.entropy()

    def _predict(  # type: ignore[override]  # as in sb3-contrib
        self,
        observation: PyTorchObs,
        lstm_states: States,
        episode_starts: mx.array,
        deterministic: bool = False,
    ) -> tuple[mx.array, States]:
        distribution, after = self.get_distribution(observation, lstm_states, episode_starts)
        return distribution.get_actions(deterministic=deterministic), after

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions for one observation or a batch.

        :param observation: one observation or a batch, a dictionary of them for a Dict space; images may
            be channel-first or channel-last
        :param state: what the last call returned; None begins anew
        :param episode_start: (batch,) whether a new episode begins, whose state is zeros; None: nowhere
        :param deterministic: return the most likely actions instead of samples
        :return: one action or a batch of them, inside the action space; and hidden and cell states
            (layers, batch, hidden) for the next call
        :raises ValueError: the observation does not fit the observation space, or the states or
            ``episode_start`` do not fit the observations
        """
        memory: list[Any] = []
        extras = {"state": state, "episode_start": episode_start, "memory": memory}
        actions = self._act_on(observation, deterministic, **extras)
        return actions, tuple(memory)

    def _pending(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> tuple[mx.array, bool]:
        # Another thread may be tracing an update of these networks.
        with computing(), mx.stream(self.device), tracing:
            batch, vectorized = self.obs_to_tensor(observation)
            n_rows = len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)
            states, starts = self.check_memory(extras["state"], extras["episode_start"], n_rows)
            before = to_mlx(states[0]), to_mlx(states[1])
            actions, after = self._predict(batch, before, to_mlx(starts), deterministic)
            extras["memory"] += map(to_numpy, after)
            return actions, vectorized

    def _choose_natively(
        self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool, **extras: Any
    ) -> tuple[np.ndarray, bool] | None:
        return predict_natively(self, observation, deterministic, **extras)

    def check_memory(
        self, state: Any, episode_start: Any, n_rows: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """
        :param state: hidden and cell states, or None
        :param episode_start: where new episodes begin, or None
        :param n_rows: number of observations
        :return: the states (layers, ``n_rows``, hidden), zeros if there are none, and (``n_rows``,) float32
            episode starts
        :raises ValueError: they do not fit
        """
        layers, _, hidden = self.lstm_hidden_state_shape
        shape = (layers, n_rows, hidden)
        parts = [np.zeros(shape, np.float32)] * 2 if state is None else [*state]
        if [np.shape(part) for part in parts] != [shape] * 2:
            raise ValueError(
                f"state has arrays of the shapes {[np.shape(part) for part in parts]}, expected two of "
                f"{shape}: "
                "(layers, observations, hidden size) for the hidden and the cell state. Pass what the "
                "last call "
                "of predict returned for as many observations, or None."
            )
        starts = np.zeros(n_rows) if episode_start is None else np.asarray(episode_start)
        if starts.size != n_rows:
            raise ValueError(
                f"episode_start has shape {starts.shape}, expected ({n_rows},): one flag per observation."
            )
        hidden_state, cell_state = (np.asarray(part, np.float32) for part in parts)
        return (hidden_state, cell_state), starts.reshape(-1).astype(np.float32)


class RecurrentActorCriticCnnPolicy(RecurrentActorCriticPolicy):
    """:class:`RecurrentActorCriticPolicy` with :class:`NatureCNN` in front, for images."""

    default_features_extractor_class = NatureCNN


class RecurrentMultiInputActorCriticPolicy(RecurrentActorCriticPolicy):
    """:class:`RecurrentActorCriticPolicy` with :class:`CombinedExtractor` in front, for Dict observations."""

    default_features_extractor_class = CombinedExtractor
