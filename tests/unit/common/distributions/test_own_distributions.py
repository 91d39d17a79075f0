"""Distributions of a user's own, with SB3's methods: ``sample`` and ``mode`` without arguments."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import A2C, PPO, SAC
from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)

OFF = {
    "learning_starts": 5,
    "buffer_size": 50,
    "batch_size": 4,
    "seed": 0,
    "policy_kwargs": {"net_arch": [8]},
}
ON = {"n_steps": 16, "seed": 0, "policy_kwargs": {"net_arch": [8]}}
both_paths = pytest.mark.parametrize("updates", ["native", "mlx"])


class Actions(BaseCallback):
    """
    Remembers a local.

    :param name: which
    """

    def __init__(self, name):
        super().__init__()
        self.name, self.seen = name, []

    def _on_step(self):
        self.seen.append(np.array(self.locals[self.name]).ravel()[0])
        return True


class Half(SquashedDiagGaussianDistribution):
    def sample(self):
        return super().sample() * 0 + 0.5


class HalfInSde(StateDependentNoiseDistribution):
    def sample(self):
        return super().sample() * 0 + 0.5

    def sample_weights(self, log_std, batch_size=1):
        super().sample_weights(log_std, batch_size=batch_size)


class NumpyNoise(SquashedDiagGaussianDistribution):
    """Draws from a generator that MLX does not know, as the pink-noise package does."""

    drawn: list

    def sample(self):
        noise = np.random.default_rng(len(self.drawn)).normal()
        self.drawn.append(noise)
        self.gaussian_actions = self.distribution.mean + self.distribution.stddev * float(noise)
        return mx.tanh(self.gaussian_actions)


class Third(DiagGaussianDistribution):
    def sample(self):
        return self.distribution.mean * 0 + 0.3

    def mode(self):
        return self.distribution.mean * 0 - 0.3


class First(CategoricalDistribution):
    def sample(self):
        return self.mode() * 0


@both_paths
@pytest.mark.parametrize(("use_sde", "kind"), [(False, Half), (True, HalfInSde)])
def test_sac_takes_what_the_distribution_says(use_sde, kind, updates, monkeypatch):
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
    model = SAC("MlpPolicy", "Pendulum-v1", use_sde=use_sde, **OFF)
    if use_sde:
        dist = kind(1, full_std=True, use_expln=False, learn_features=True, squash_output=True)
        dist.latent_sde_dim = model.actor.action_dist.latent_sde_dim
        dist.sample_weights(model.actor.log_std)
    else:
        dist = kind(1)
    model.actor.action_dist = dist
    before = {name: np.array(array) for name, array in model.actor.state_dict().items()}
    watch = Actions("buffer_actions")
    model.learn(15, callback=watch)
    np.testing.assert_allclose(watch.seen[5:], 0.5, atol=1e-6)
    assert any(not np.array_equal(before[name], array) for name, array in model.actor.state_dict().items())
    observation = np.zeros((1, 3), np.float32)
    assert model.predict(observation)[0].item() == pytest.approx(1.0)


@both_paths
def test_every_gradient_step_draws_anew(updates, monkeypatch):
    """A compiled step would have drawn once, and used that number ever after."""
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
    model = SAC("MlpPolicy", "Pendulum-v1", **OFF)
    model.actor.action_dist = NumpyNoise(1)
    NumpyNoise.drawn = drawn = []
    model.learn(6)
    drawn.clear()
    model.train(gradient_steps=7, batch_size=4)
    assert len(drawn) == 2 * 7


def test_a_distribution_of_this_package_is_compiled_again(monkeypatch):
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", "mlx")
    model = SAC("MlpPolicy", "Pendulum-v1", **OFF)
    NumpyNoise.drawn = []
    ours = model.actor.action_dist
    for dist, compiled in ((NumpyNoise(1), False), (ours, True)):
        model.actor.action_dist = dist
        model.learn(8)
        assert model._updater.compiled.compiles is compiled


@both_paths
@pytest.mark.parametrize("cls", [PPO, A2C])
@pytest.mark.parametrize(("env", "kind", "size", "drawn", "likeliest"), [
    ("Pendulum-v1", Third, 1, 0.3, -0.3),
    ("CartPole-v1", First, 2, 0, None),
])  # fmt: skip
def test_on_policy(cls, env, kind, size, drawn, likeliest, updates, monkeypatch):
    monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
    kwargs = {"batch_size": 16, "n_epochs": 1} if cls is PPO else {}
    model = cls("MlpPolicy", env, **ON, **kwargs)
    model.policy.action_dist = kind(size)
    watch = Actions("actions")
    model.learn(16, callback=watch)
    np.testing.assert_allclose(watch.seen, drawn, atol=1e-6)
    if likeliest is not None:
        observation = np.zeros((1, 3), np.float32)
        assert model.predict(observation, deterministic=True)[0].item() == pytest.approx(likeliest)


@pytest.mark.parametrize("cls", [PPO, SAC])
def test_a_method_of_the_distribution_itself(cls):
    """Patched on the object: the policy in Rust would not ask it."""
    settings = {**ON, "batch_size": 16} if cls is PPO else OFF
    model = cls("MlpPolicy", "Pendulum-v1", **settings)
    dist = model.policy.action_dist if cls is PPO else model.actor.action_dist
    dist.mode = lambda: mx.full((1, 1), 0.25)
    action, _ = model.predict(np.zeros((1, 3), np.float32), deterministic=True)
    assert action.item() == pytest.approx(0.25 if cls is PPO else 0.5)
