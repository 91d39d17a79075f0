"""State-dependent exploration: shapes, noise and densities worked out in NumPy."""

import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.distributions import StateDependentNoiseDistribution, make_proba_distribution

FEATURES, ACTIONS = 3, 2


def log_density(x, mean, variance):
    return -0.5 * (x - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)


def make(**kwargs):
    distribution = StateDependentNoiseDistribution(ACTIONS, **kwargs)
    net, log_std = distribution.proba_distribution_net(FEATURES, log_std_init=-1.0)
    assert net.weight.shape == (ACTIONS, FEATURES)
    return distribution, log_std


@pytest.mark.parametrize(("full_std", "shape"), [(True, (FEATURES, ACTIONS)), (False, (FEATURES, 1))])
def test_shapes(full_std, shape):
    distribution, log_std = make(full_std=full_std)
    assert log_std.shape == shape
    assert distribution.get_std(log_std).shape == (FEATURES, ACTIONS)
    assert distribution.exploration_mat.shape == (FEATURES, ACTIONS)
    distribution.sample_weights(log_std, batch_size=5)
    assert distribution.exploration_matrices.shape == (5, FEATURES, ACTIONS)


def test_features_of_the_noise_may_differ():
    distribution = StateDependentNoiseDistribution(ACTIONS)
    net, log_std = distribution.proba_distribution_net(FEATURES, latent_sde_dim=4)
    assert (net.weight.shape, log_std.shape) == ((ACTIONS, FEATURES), (4, ACTIONS))


def test_expln():
    """exp below zero, log(1 + x) + 1 above, continuous where they meet (section 3.2 of the paper)."""
    distribution = StateDependentNoiseDistribution(1, use_expln=True, epsilon=0.0)
    x = np.array([[-2.0], [0.0], [1e-6], [3.0]])
    expected = np.where(x <= 0, np.exp(x), np.log1p(np.abs(x)) + 1)
    np.testing.assert_allclose(np.array(distribution.get_std(mx.array(x, mx.float32))), expected, rtol=1e-6)
    gradient = mx.grad(lambda v: distribution.get_std(v).sum())(mx.array(x, mx.float32))
    np.testing.assert_allclose(np.array(gradient), [[np.exp(-2)], [1], [1], [0.25]], rtol=1e-5)


def test_density_is_that_of_the_noise(rng):
    distribution, log_std = make()
    latent, mean = rng.normal(size=(4, FEATURES)), rng.normal(size=(4, ACTIONS))
    actions = rng.normal(size=(4, ACTIONS))
    variance = latent**2 @ np.full((FEATURES, ACTIONS), np.exp(-2.0)) + 1e-6
    as_mlx = [mx.array(a, mx.float32) for a in (mean, latent, actions)]
    distribution.proba_distribution(as_mlx[0], log_std, as_mlx[1])
    expected = log_density(actions, mean, variance).sum(axis=1)
    np.testing.assert_allclose(np.array(distribution.log_prob(as_mlx[2])), expected, rtol=1e-4)
    expected = (0.5 + 0.5 * np.log(2 * np.pi * variance)).sum(axis=1)
    np.testing.assert_allclose(np.array(distribution.entropy()), expected, rtol=1e-4)


def test_noise_is_a_function_of_the_state():
    mx.random.seed(0)
    distribution, log_std = make()
    latent = mx.array([[1.0, 0.0, 2.0]] * 4)
    mean = mx.zeros((4, ACTIONS))
    # One common matrix: equal states get equal noise, again and again.
    first = np.array(distribution.actions_from_params(mean, log_std, latent))
    np.testing.assert_array_equal(first, np.array(distribution.sample()))
    np.testing.assert_allclose(
        first, np.array([[1.0, 0.0, 2.0]] * 4) @ np.array(distribution.exploration_mat), rtol=1e-5
    )
    distribution.sample_weights(log_std)
    assert not np.allclose(first, np.array(distribution.sample()))
    # As many matrices as rows: each row uses its own.
    distribution.sample_weights(log_std, batch_size=4)
    noise = np.array(distribution.get_noise(latent))
    expected = np.einsum("bf,bfa->ba", np.array(latent), np.array(distribution.exploration_matrices))
    np.testing.assert_allclose(noise, expected, rtol=1e-5)
    assert np.unique(noise[:, 0]).size == 4
    np.testing.assert_array_equal(np.array(distribution.mode()), np.zeros((4, ACTIONS)))


def test_given_noise_is_scaled():
    distribution, log_std = make()
    noise = mx.arange(3 * FEATURES * ACTIONS, dtype=mx.float32).reshape(3, FEATURES, ACTIONS)
    distribution.sample_weights(log_std, batch_size=2, noise=noise)
    std = np.exp(-1.0)
    np.testing.assert_allclose(np.array(distribution.exploration_mat), std * np.array(noise[0]), rtol=1e-6)
    np.testing.assert_allclose(
        np.array(distribution.exploration_matrices), std * np.array(noise[1:]), rtol=1e-6
    )


def test_weights_have_the_right_deviation():
    mx.random.seed(1)
    distribution, _ = make()
    log_std = mx.array(np.log([[0.5, 1.0], [2.0, 0.1], [1.0, 3.0]]), mx.float32)
    distribution.sample_weights(log_std, batch_size=20_000)
    std = np.array(distribution.exploration_matrices).std(axis=0)
    np.testing.assert_allclose(std, np.exp(np.array(log_std)), rtol=0.03)


@pytest.mark.parametrize("learn_features", [False, True])
def test_gradient_reaches_the_features_only_if_asked(learn_features):
    distribution, log_std = make(learn_features=learn_features)

    def objective(latent):
        distribution.proba_distribution(mx.zeros((1, ACTIONS)), log_std, latent)
        return distribution.log_prob(mx.ones((1, ACTIONS))).sum() + distribution.sample().sum()

    gradient = np.array(mx.grad(objective)(mx.ones((1, FEATURES))))
    assert bool(np.any(gradient != 0)) is learn_features


def test_squashed():
    mx.random.seed(2)
    distribution, log_std = make(squash_output=True)
    mean, latent = mx.array([[0.3, -0.4]]), mx.array([[1.0, 2.0, -1.0]])
    actions, log_prob = distribution.log_prob_from_params(mean, log_std, latent)
    assert np.abs(np.array(actions)).max() < 1
    assert distribution.entropy() is None
    u = np.arctanh(np.array(actions, np.float64))
    variance = np.full((1, ACTIONS), 6 * np.exp(-2.0)) + 1e-6
    expected = (log_density(u, np.array(mean), variance) - np.log(1 - np.tanh(u) ** 2 + 1e-6)).sum()
    assert log_prob.item() == pytest.approx(expected, rel=1e-3)
    deterministic = distribution.actions_from_params(mean, log_std, latent, deterministic=True)
    np.testing.assert_allclose(np.array(deterministic), np.tanh(np.array(mean)), rtol=1e-6)


def test_chosen_for_continuous_actions():
    made = make_proba_distribution(
        spaces.Box(-1, 1, (ACTIONS,)), use_sde=True, dist_kwargs={"full_std": False}
    )
    assert isinstance(made, StateDependentNoiseDistribution)
    assert not made.full_std
