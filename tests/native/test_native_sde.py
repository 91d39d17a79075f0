"""State-dependent exploration in Rust: MLX's numbers, and the same rollout in one stretch as step by step."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, PPO, SAC
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.distributions import StateDependentNoiseDistribution
from mlx_baselines3.common.env_util import make_vec_env
from mlx_baselines3.common.native.actor import NativeActor, native_actor
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.policies import base as base_policy
from mlx_baselines3.common.vec_env import DummyVecEnv
from mlx_baselines3.common.vec_env.native_vec_env import NativeVecEnv

COLUMNS = (
    "observations",
    "actions",
    "rewards",
    "episode_starts",
    "values",
    "log_probs",
    "advantages",
    "returns",
)
N_ENVS = 3


def made(action_dim: int = 2, cls: Any = ActorCriticPolicy, **kwargs: Any) -> Any:
    box = spaces.Box(-2.0, 2.0, (action_dim,), np.float32)
    policy = cls(spaces.Box(-np.inf, np.inf, (4,), np.float32), box, lambda _: 1e-3, use_sde=True, **kwargs)
    # Initial action weights are a hundredth: everything would agree with anything.
    policy.action_net.weight = mx.random.normal(policy.action_net.weight.shape)
    policy.log_std = mx.random.normal(policy.log_std.shape) * 0.5 - 1.0
    return policy


@pytest.mark.parametrize("kwargs", [{}, {"full_std": False}, {"use_expln": True}, {"squash_output": True}])
def test_means_and_log_probs_agree_with_mlx(kwargs: Any, rng: np.random.Generator) -> None:
    mx.random.seed(3)
    for activation_fn in (nn.Tanh, nn.ReLU):
        for action_dim, batch in ((1, 1), (3, 2), (2, 70)):
            net_arch = {"pi": rng.integers(1, 70, rng.integers(0, 3)).tolist(), "vf": [8]}
            policy = made(action_dim, net_arch=net_arch, activation_fn=activation_fn, **kwargs)
            obs = rng.normal(size=(batch, 4)).astype(np.float32)
            actor = native_actor(policy)
            means = actor.act(obs, deterministic=True)
            expected = to_numpy(policy._predict(mx.array(obs), deterministic=True))
            scale = max(1.0, float(np.abs(expected).max()))
            assert np.abs(means - expected).max() <= 1e-5 * scale
            latent = policy.mlp_extractor.forward_actor(mx.array(obs))
            assert np.abs(actor.features(obs) - to_numpy(latent)).max() <= 1e-5 * float(mx.abs(latent).max())
            actions = to_mlx(actor.act(obs))
            dist = policy.action_dist.proba_distribution(
                to_mlx(actor.outputs(obs)), policy.log_std, to_mlx(actor.features(obs))
            )
            if "squash_output" in kwargs:
                of_mlx = to_numpy(dist.log_prob(actions))
                np.testing.assert_allclose(
                    actor.log_probs(obs, to_numpy(actions)), of_mlx, rtol=2e-5, atol=2e-5
                )
                continue
            log_prob, std = actor.log_probs(obs, to_numpy(actions)), dist.distribution.stddev
            np.testing.assert_allclose(log_prob, to_numpy(dist.log_prob(actions)), rtol=2e-5, atol=2e-5)
            same = policy.get_distribution(mx.array(obs))
            assert np.abs(to_numpy(std / same.distribution.stddev) - 1).max() <= 1e-5
            expected = to_numpy(same.log_prob(actions))
            # Differences of the means are divided by the standard deviation.
            tolerance = 1e-5 * np.maximum(1.0, np.abs(expected)) * scale / float(std.min())
            assert (np.abs(log_prob - expected) <= tolerance).all()


def test_noise_has_the_spread_that_the_log_probs_assume(rng: np.random.Generator) -> None:
    policy = made(2, full_std=False)
    actor = native_actor(policy)
    n_envs = 6000
    obs = np.repeat(rng.normal(size=(1, 4)).astype(np.float32), n_envs, axis=0)
    actor.explore(n_envs, 0)
    noise = actor.act(obs) - actor.act(obs, deterministic=True)
    spread = to_numpy(policy.get_distribution(mx.array(obs[:1])).distribution.stddev)[0]
    np.testing.assert_allclose(noise.std(axis=0), spread, rtol=0.05)
    assert (np.abs(noise.mean(axis=0)) < 5 * spread / np.sqrt(n_envs)).all()


def test_random_predictions_keep_the_noise_of_the_last_reset() -> None:
    policy = made(2)
    # Far from the bounds, where all actions would be the same.
    policy.action_net.weight = policy.action_net.weight / 100
    obs = np.ones((1, 4), np.float32)
    first = policy.predict(obs)[0]
    np.testing.assert_array_equal(first, policy.predict(obs)[0])
    policy.reset_noise(1)
    assert (policy.predict(obs)[0] != first).any()


class OwnNoise(ActorCriticPolicy):
    def reset_noise(self, n_envs: int = 1) -> None:
        super().reset_noise(n_envs)


class OwnDistribution(StateDependentNoiseDistribution):
    pass


def test_a_users_own_noise_stays_in_mlx() -> None:
    with pytest.raises(NotNative, match="OwnNoise has its own reset_noise"):
        native_actor(made(cls=OwnNoise))
    policy = made()
    policy.action_dist.__class__ = OwnDistribution
    with pytest.raises(NotNative, match="the actions follow a OwnDistribution"):
        native_actor(policy)


class EveryStep(BaseCallback):
    """Has to see every step, as users' callbacks do."""

    def _on_step(self) -> bool:
        return True


def collected(
    env: Any, algorithm: Any, freq: int, callback: Any = None, rollouts: int = 2, **policy_kwargs: Any
) -> dict[str, np.ndarray]:
    kwargs: dict[str, Any] = {"n_steps": 60, "gamma": 0.9, "seed": 5, "device": "cpu"}
    if algorithm is PPO:
        kwargs |= {"batch_size": 60 * N_ENVS, "n_epochs": 1}
    model = algorithm(
        "MlpPolicy", env, use_sde=True, sde_sample_freq=freq, policy_kwargs=policy_kwargs or None, **kwargs
    )
    model.learn(60 * N_ENVS * rollouts, callback=callback)
    weights = {name: np.array(array) for name, array in model.policy.state_dict().items()}
    return {name: np.array(getattr(model.rollout_buffer, name)) for name in COLUMNS} | weights


def stretches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    lengths: list[int] = []
    original = NativeActor.collect

    def collect(actor: Any, envs: Any, bounds: Any, last: Any, columns: Any) -> Any:
        lengths.append(len(columns["rewards"]))
        return original(actor, envs, bounds, last, columns)

    monkeypatch.setattr(NativeActor, "collect", collect)
    return lengths


@pytest.mark.parametrize(("algorithm", "freq"), [(PPO, -1), (PPO, 1), (PPO, 7), (A2C, 4)])
def test_a_fused_rollout_is_that_of_single_steps(
    algorithm: Any, freq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = stretches(monkeypatch)
    fused = collected(NativeVecEnv("Pendulum-v1", N_ENVS), algorithm, freq)
    assert lengths == [60, 60]
    stepwise = collected(NativeVecEnv("Pendulum-v1", N_ENVS), algorithm, freq, EveryStep())
    assert lengths == [60, 60] + [1] * 120
    gymnasiums = collected(make_vec_env("Pendulum-v1", N_ENVS, vec_env_cls=DummyVecEnv), algorithm, freq)
    for name, column in fused.items():
        np.testing.assert_array_equal(column, stepwise[name], err_msg=name)
        np.testing.assert_array_equal(column, gymnasiums[name], err_msg=name)


def test_the_frequency_decides_when_the_noise_changes() -> None:
    runs = [collected(NativeVecEnv("Pendulum-v1", N_ENVS), PPO, freq, rollouts=1) for freq in (-1, 20)]
    assert (runs[0]["actions"][:20] == runs[1]["actions"][:20]).all()
    assert (runs[0]["actions"][20] != runs[1]["actions"][20]).all()


def test_squashed_actions_reach_the_bounds_of_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = stretches(monkeypatch)
    env = NativeVecEnv("Pendulum-v1", N_ENVS)
    taken: list[np.ndarray] = []
    original = env.step
    env.step = lambda actions: (taken.append(actions), original(actions))[1]  # type: ignore[method-assign]
    run = collected(env, PPO, 4, rollouts=1, squash_output=True, log_std_init=0.5)
    assert not lengths
    actions = run["actions"]
    assert np.abs(actions).max() <= 1.0
    np.testing.assert_allclose(np.stack(taken), 2 * actions, rtol=0, atol=1e-6)
    assert np.isfinite(run["log_probs"]).all()


class SeeNoise(BaseCallback):
    def _on_training_start(self) -> None:
        self.matrices: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.matrices.append(np.array(self.model.policy.action_dist.exploration_matrices))
        return True


def test_callbacks_find_the_matrices_of_the_step_in_the_distribution() -> None:
    see = SeeNoise()
    run = collected(NativeVecEnv("Pendulum-v1", N_ENVS), PPO, 4, see, rollouts=1, net_arch=[5])
    matrices = np.stack(see.matrices)
    assert matrices.shape == (60, N_ENVS, 5, 1)
    changes = [i for i in range(1, 60) if (matrices[i] != matrices[i - 1]).any()]
    assert changes == list(range(4, 60, 4))
    assert np.isfinite(run["actions"]).all()


def sac(**kwargs: Any) -> Any:
    arguments: dict[str, Any] = {"buffer_size": 400, "learning_starts": 10, "batch_size": 16, "device": "cpu"}
    env = NativeVecEnv("Pendulum-v1", N_ENVS)
    return SAC("MlpPolicy", env, use_sde=True, seed=4, **{**arguments, **kwargs})


@pytest.mark.parametrize("policy_kwargs", [{"net_arch": [8, 6]}, {"net_arch": [5], "clip_mean": 0.0}])
def test_sac_acts_with_the_matrices_of_its_distribution(policy_kwargs: Any, rng: np.random.Generator) -> None:
    model = sac(policy_kwargs={**policy_kwargs, "log_std_init": 0.0})
    state = np.array(mx.random.state[0])
    for n_envs in (1, 4):
        model.policy.reset_noise(n_envs)
        mine = np.array(mx.random.state[0])
        for batch in (1, 4, 7):
            obs = rng.normal(size=(batch, 3)).astype(np.float32)
            for deterministic in (True, False):
                got = native_actor(model.policy).act(obs, deterministic)
                expected = to_numpy(model.actor(mx.array(obs), deterministic=deterministic))
                np.testing.assert_allclose(got, expected, atol=2e-6)
                got = model.predict(obs, deterministic=deterministic)[0]
                np.testing.assert_allclose(got, 2 * expected, atol=4e-6)
        # Acting draws nothing: all is in the matrices.
        np.testing.assert_array_equal(np.array(mx.random.state[0]), mine)
    assert (np.array(mx.random.state[0]) != state).any()


@pytest.mark.parametrize("freq", [-1, 1, 3])
def test_sac_with_gsde_is_the_same_run_by_mlx(freq: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the same numbers: what differs is rounding."""
    runs = []
    for who in ("native", "mlx"):
        with monkeypatch.context() as patch:
            if who == "mlx":
                patch.setenv("MLX_BASELINES3_UPDATES", "mlx")
                patch.setattr(base_policy, "predict_natively", lambda *_: None)
                patch.setattr(OffPolicyAlgorithm, "_native_chunk", lambda *_: None)
            model = sac(
                sde_sample_freq=freq,
                train_freq=4,
                policy_kwargs={"net_arch": [8], "optimizer_kwargs": {"eps": 1e-4}},
            ).learn(72)
            assert (model._updater.compiled is None) == (who == "native")
            buffer = model.replay_buffer
            weights = {name: np.array(array) for name, array in model.policy.state_dict().items()}
            runs.append(
                {"actions": buffer.actions[: buffer.pos], "obs": buffer.observations[: buffer.pos]} | weights
            )
    for name, array in runs[0].items():
        np.testing.assert_allclose(array, runs[1][name], rtol=1e-3, atol=1e-3, err_msg=name)
