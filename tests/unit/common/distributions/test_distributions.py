"""Action distributions against NumPy's formulas, closed forms and sample moments."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    TanhBijector,
    kl_divergence,
    make_proba_distribution,
    sum_independent_dims,
)

N_SAMPLES = 50_000


def gaussian_log_density(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


MEAN = np.array([[0.5, -1.0], [2.0, 0.0], [0.0, 0.3]])
STD = np.array([0.5, 2.0])


def gaussian(cls=DiagGaussianDistribution, mean=MEAN, std=STD):
    return cls(2).proba_distribution(mx.array(mean, mx.float32), mx.array(np.log(std), mx.float32))


def test_gaussian_log_prob_and_entropy(rng):
    actions = rng.normal(size=(3, 2)).astype(np.float32)
    distribution = gaussian()
    expected = gaussian_log_density(actions, MEAN, STD).sum(axis=1)
    np.testing.assert_allclose(np.array(distribution.log_prob(mx.array(actions))), expected, rtol=1e-5)
    entropy = np.log(STD * np.sqrt(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(np.array(distribution.entropy()), [entropy] * 3, rtol=1e-6)


def test_gaussian_with_a_deviation_per_row():
    std = np.array([[0.5, 1.0], [2.0, 3.0], [1.0, 1.0]])
    distribution = gaussian(std=std)
    expected = gaussian_log_density(np.zeros((3, 2)), MEAN, std).sum(axis=1)
    np.testing.assert_allclose(np.array(distribution.log_prob(mx.zeros((3, 2)))), expected, rtol=1e-5)
    expected = np.log(std * np.sqrt(2 * np.pi * np.e)).sum(axis=1)
    np.testing.assert_allclose(np.array(distribution.entropy()), expected, rtol=1e-5)


def test_gaussian_samples_have_its_moments_and_its_mode():
    mx.random.seed(0)
    mean = np.tile(MEAN[:1], (N_SAMPLES, 1))
    samples = np.array(gaussian(mean=mean).sample())
    np.testing.assert_allclose(samples.mean(axis=0), MEAN[0], atol=0.05)
    np.testing.assert_allclose(samples.std(axis=0), STD, rtol=0.02)
    distribution = gaussian()
    np.testing.assert_allclose(np.array(distribution.mode()), MEAN, rtol=1e-6)
    np.testing.assert_array_equal(np.array(distribution.get_actions(deterministic=True)), distribution.mode())
    noise = mx.array([[1.0, -1.0]] * 3)
    np.testing.assert_allclose(np.array(distribution.sample(noise)), MEAN + STD * [1, -1], rtol=1e-6)


def test_gaussian_gradient_reaches_mean_and_deviation():
    def drawn(mean, log_std):
        return DiagGaussianDistribution(1).proba_distribution(mean, log_std).sample(mx.array([[3.0]])).sum()

    gradients = mx.grad(drawn, argnums=(0, 1))(mx.array([[0.0]]), mx.array([math.log(2.0)]))
    assert gradients[0].item() == 1.0
    assert gradients[1].item() == pytest.approx(2.0 * 3.0, rel=1e-6)


def test_squashed_log_prob_is_the_change_of_variables():
    distribution = gaussian(SquashedDiagGaussianDistribution)
    u = np.array([[0.3, -0.7], [1.0, 0.2], [-0.5, 0.1]])
    squashed = np.tanh(u)
    expected = (gaussian_log_density(u, MEAN, STD) - np.log(1 - squashed**2 + 1e-6)).sum(axis=1)
    actions = mx.array(squashed, mx.float32)
    np.testing.assert_allclose(np.array(distribution.log_prob(actions)), expected, rtol=1e-4)
    with_u = distribution.log_prob(actions, mx.array(u, mx.float32))
    np.testing.assert_allclose(np.array(with_u), expected, rtol=1e-5)
    assert distribution.entropy() is None


def test_squashed_density_integrates_to_one():
    edges = np.linspace(-1, 1, 20_001)
    middles = mx.array((edges[1:] + edges[:-1])[:, None] / 2, mx.float32)
    distribution = SquashedDiagGaussianDistribution(1)
    distribution.proba_distribution(mx.full(middles.shape, 0.3), mx.array([-0.5]))
    total = np.exp(np.array(distribution.log_prob(middles), np.float64)).sum() * (edges[1] - edges[0])
    assert total == pytest.approx(1.0, abs=1e-3)


def test_squashed_actions():
    mx.random.seed(1)
    distribution = SquashedDiagGaussianDistribution(2)
    mean, log_std = mx.array(MEAN, mx.float32), mx.array(np.log(STD), mx.float32)
    np.testing.assert_allclose(
        np.array(distribution.actions_from_params(mean, log_std, deterministic=True)),
        np.tanh(MEAN),
        rtol=1e-5,
    )
    actions, log_prob = distribution.log_prob_from_params(mean, log_std)
    assert np.abs(np.array(actions)).max() < 1
    u = np.arctanh(np.array(actions, np.float64))
    expected = (gaussian_log_density(u, MEAN, STD) - np.log(1 - np.tanh(u) ** 2 + 1e-6)).sum(axis=1)
    np.testing.assert_allclose(np.array(log_prob), expected, rtol=1e-3)


def test_squashed_log_prob_at_the_bounds_is_finite():
    distribution = gaussian(SquashedDiagGaussianDistribution)
    assert np.isfinite(np.array(distribution.log_prob(mx.array([[1.0, -1.0]] * 3)))).all()


def test_tanh_bijector():
    x = np.array([-2.0, -0.1, 0.0, 1.5])
    y = TanhBijector.forward(mx.array(x, mx.float32))
    np.testing.assert_allclose(np.array(y), np.tanh(x), rtol=1e-6)
    np.testing.assert_allclose(np.array(TanhBijector.inverse(y)), x, rtol=1e-5)
    np.testing.assert_allclose(np.array(TanhBijector.atanh(mx.array(0.5))), 0.5493061443, rtol=1e-6)
    correction = TanhBijector(epsilon=1e-3).log_prob_correction(mx.array(x, mx.float32))
    np.testing.assert_allclose(np.array(correction), np.log(1 - np.tanh(x) ** 2 + 1e-3), rtol=1e-4)


def test_sum_independent_dims():
    assert sum_independent_dims(mx.array([1.0, 2.0])).item() == 3.0
    assert sum_independent_dims(mx.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [3.0, 7.0]


LOGITS = np.array([[0.0, 1.0, -1.0], [3.0, 3.0, 0.0]])


def test_categorical():
    distribution = CategoricalDistribution(3).proba_distribution(mx.array(LOGITS, mx.float32))
    p = softmax(LOGITS)
    np.testing.assert_allclose(
        np.array(distribution.log_prob(mx.array([2, 1]))), np.log(p[[0, 1], [2, 1]]), rtol=1e-5
    )
    np.testing.assert_allclose(np.array(distribution.entropy()), -(p * np.log(p)).sum(axis=1), rtol=1e-5)
    assert distribution.mode().tolist() == [1, 0]
    assert distribution.mode().dtype == distribution.sample().dtype == mx.int64


def test_categorical_frequencies():
    mx.random.seed(2)
    logits = mx.broadcast_to(mx.array(LOGITS[0], mx.float32), (N_SAMPLES, 3))
    samples = np.array(CategoricalDistribution(3).actions_from_params(logits))
    np.testing.assert_allclose(np.bincount(samples) / N_SAMPLES, softmax(LOGITS[0]), atol=0.01)


def test_masked_logits():
    """Logits of -inf forbid actions: they are never drawn and spoil neither entropy nor gradient."""
    mx.random.seed(3)
    logits = mx.broadcast_to(mx.array([0.0, -math.inf, 0.0]), (1000, 3))
    distribution = CategoricalDistribution(3).proba_distribution(logits)
    assert set(np.array(distribution.sample()).tolist()) == {0, 2}
    np.testing.assert_allclose(np.array(distribution.entropy()), math.log(2), rtol=1e-6)
    assert distribution.log_prob(mx.zeros(1000, mx.int64))[0].item() == pytest.approx(math.log(0.5))
    assert distribution.log_prob(mx.ones(1000, mx.int64))[0].item() == -math.inf

    def objective(free):
        masked = mx.concatenate([free, mx.array([[-math.inf]])], axis=1)
        d = CategoricalDistribution(3).proba_distribution(masked)
        return d.log_prob(mx.array([0])).sum() + d.entropy().sum()

    # d log p_0 = (1 - p_0, -p_1) and the entropy is at its maximum.
    np.testing.assert_allclose(np.array(mx.grad(objective)(mx.zeros((1, 2)))), [[0.5, -0.5]], atol=1e-6)


def test_multi_categorical():
    logits = np.array([[0.0, 1.0, 2.0, 0.0, -1.0]])
    distribution = MultiCategoricalDistribution([2, 3]).proba_distribution(mx.array(logits, mx.float32))
    p, q = softmax(logits[:, :2]), softmax(logits[:, 2:])
    expected = np.log(p[0, 1]) + np.log(q[0, 2])
    assert distribution.log_prob(mx.array([[1, 2]])).item() == pytest.approx(expected, rel=1e-5)
    expected = -(p * np.log(p)).sum() - (q * np.log(q)).sum()
    assert distribution.entropy().item() == pytest.approx(expected, rel=1e-5)
    assert distribution.mode().tolist() == [[1, 0]]
    actions, log_prob = distribution.log_prob_from_params(mx.array(logits, mx.float32))
    assert actions.shape == (1, 2)
    assert log_prob.shape == (1,)


def test_bernoulli():
    logits = np.array([[0.0, 2.0, -3.0]])
    distribution = BernoulliDistribution(3).proba_distribution(mx.array(logits, mx.float32))
    p = 1 / (1 + np.exp(-logits[0]))
    expected = np.log(p[0]) + np.log(1 - p[1]) + np.log(1 - p[2])
    assert distribution.log_prob(mx.array([[1.0, 0.0, 0.0]])).item() == pytest.approx(expected, rel=1e-5)
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    assert distribution.entropy().item() == pytest.approx(expected, rel=1e-5)
    assert distribution.mode().tolist() == [[0.0, 1.0, 0.0]]
    mx.random.seed(4)
    many = BernoulliDistribution(3).proba_distribution(
        mx.broadcast_to(mx.array(logits, mx.float32), (N_SAMPLES, 3))
    )
    np.testing.assert_allclose(np.array(many.sample()).mean(axis=0), p, atol=0.01)


def test_bernoulli_with_large_logits_is_finite():
    distribution = BernoulliDistribution(2).proba_distribution(mx.array([[200.0, -200.0]]))
    assert distribution.log_prob(mx.array([[1.0, 0.0]])).item() == 0.0
    assert distribution.log_prob(mx.array([[0.0, 0.0]])).item() == -200.0
    assert distribution.entropy().item() == 0.0


def test_kl_of_gaussians():
    p, q = gaussian(), gaussian(mean=np.zeros((3, 2)), std=np.array([1.0, 1.0]))
    expected = np.log(1 / STD) + (STD**2 + MEAN**2) / 2 - 0.5
    np.testing.assert_allclose(np.array(kl_divergence(p, q)), expected, rtol=1e-5)


def test_kl_of_choices_and_coins():
    a, b = LOGITS, LOGITS[::-1]
    pa, pb = softmax(a), softmax(b)
    expected = (pa * np.log(pa / pb)).sum(axis=1)
    p, q = (CategoricalDistribution(3).proba_distribution(mx.array(x.copy(), mx.float32)) for x in (a, b))
    np.testing.assert_allclose(np.array(kl_divergence(p, q)), expected, rtol=1e-4)
    both = [np.concatenate([x, x], axis=1) for x in (a, b)]
    p, q = (MultiCategoricalDistribution([3, 3]).proba_distribution(mx.array(x, mx.float32)) for x in both)
    np.testing.assert_allclose(np.array(kl_divergence(p, q)), 2 * expected, rtol=1e-4)
    p, q = (BernoulliDistribution(3).proba_distribution(mx.array(x.copy(), mx.float32)) for x in (a, b))
    sa, sb = 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-b))
    expected = sa * np.log(sa / sb) + (1 - sa) * np.log((1 - sa) / (1 - sb))
    np.testing.assert_allclose(np.array(kl_divergence(p, q)), expected, rtol=1e-4, atol=1e-6)


def test_kl_of_masked_choices_is_finite():
    """A class that both forbid adds nothing to the divergence."""
    logits = mx.array([[0.0, 1.0, -math.inf]]), mx.array([[0.5, 0.0, -math.inf]])
    p, q = (CategoricalDistribution(3).proba_distribution(x) for x in logits)
    pa, pb = softmax(np.array([0.0, 1.0])), softmax(np.array([0.5, 0.0]))
    assert kl_divergence(p, q).item() == pytest.approx((pa * np.log(pa / pb)).sum(), rel=1e-5)


def test_kl_refuses_different_kinds():
    with pytest.raises(AssertionError, match=r"DiagGaussianDistribution and CategoricalDistribution"):
        kl_divergence(gaussian(), CategoricalDistribution(3))
    p, q = (
        MultiCategoricalDistribution(dims).proba_distribution(mx.zeros((1, 5))) for dims in ([2, 3], [3, 2])
    )
    with pytest.raises(AssertionError, match=r"\[2, 3\] and \[3, 2\]"):
        kl_divergence(p, q)


@pytest.mark.parametrize(
    ("space", "kind", "width"),
    [
        (spaces.Box(-1, 1, (2, 2)), DiagGaussianDistribution, 4),
        (spaces.Discrete(5), CategoricalDistribution, 5),
        (spaces.MultiDiscrete([2, 4]), MultiCategoricalDistribution, 6),
        (spaces.MultiBinary(3), BernoulliDistribution, 3),
    ],
)
def test_distribution_of_a_space(space, kind, width):
    distribution = make_proba_distribution(space)
    assert type(distribution) is kind
    net = distribution.proba_distribution_net(7)
    if kind is DiagGaussianDistribution:
        net, log_std = distribution.proba_distribution_net(7, log_std_init=-1.5)
        assert log_std.tolist() == [-1.5] * width
    assert isinstance(net, nn.Linear)
    assert net.weight.shape == (width, 7)


def test_spaces_without_distribution():
    with pytest.raises(AssertionError, match="more than one dimension"):
        make_proba_distribution(spaces.MultiBinary([2, 2]))
    with pytest.raises(NotImplementedError, match="Tuple"):
        make_proba_distribution(spaces.Tuple([spaces.Discrete(2)]))
