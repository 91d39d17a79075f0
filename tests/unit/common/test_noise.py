"""Action noise."""

import numpy as np
import pytest

from mlx_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

MU, SIGMA = np.array([0.5, -1.0]), np.array([0.3, 0.1])


def test_normal_noise_follows_the_global_generator():
    noise = NormalActionNoise(MU, SIGMA)
    np.random.seed(3)
    sample = noise()
    standard = np.random.RandomState(3).standard_normal(2)
    assert sample.dtype == np.float32
    np.testing.assert_allclose(sample, MU + SIGMA * standard, rtol=1e-6)
    assert repr(noise) == "NormalActionNoise(mu=[ 0.5 -1. ], sigma=[0.3 0.1])"


def test_ornstein_uhlenbeck_equals_the_solved_recurrence():
    theta, dt, start, steps = 0.2, 0.05, np.array([2.0, 2.0]), 50
    noise = OrnsteinUhlenbeckActionNoise(MU, SIGMA, theta, dt, initial_noise=start, dtype=np.float64)
    np.random.seed(11)
    for _ in range(steps):
        last = noise()
    kicks = np.random.RandomState(11).standard_normal((steps, 2)) * SIGMA * np.sqrt(dt)
    # x_n = mu + a^n (x_0 - mu) + sum_k a^(n-1-k) kick_k
    a = 1 - theta * dt
    powers = a ** np.arange(steps - 1, -1, -1)
    np.testing.assert_allclose(last, MU + a**steps * (start - MU) + powers @ kicks, rtol=1e-12)
    noise.reset()
    np.testing.assert_array_equal(noise.noise_prev, start)


def test_ornstein_uhlenbeck_starts_at_zero_by_default():
    noise = OrnsteinUhlenbeckActionNoise(MU, np.zeros(2))
    # no kicks: one step goes 0.15 * 0.01 of the way to the mean
    np.testing.assert_allclose(noise(), 0.0015 * MU, rtol=1e-6)
    assert noise().dtype == np.float32
    noise.reset()
    assert noise.noise_prev.tolist() == [0.0, 0.0]


class TestVectorized:
    def make(self, n_envs=3):
        return VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(MU, SIGMA), n_envs)

    def test_independent_processes_one_for_each_env(self):
        noise = self.make()
        sample = noise()
        assert sample.shape == (3, 2)
        assert len({tuple(row) for row in sample.tolist()}) == 3

    def test_reset_of_some(self):
        noise = self.make()
        noise()
        noise.reset([1])
        moved = [bool(np.any(process.noise_prev)) for process in noise.noises]
        assert moved == [True, False, True]
        noise.reset()
        assert not any(np.any(process.noise_prev) for process in noise.noises)

    @pytest.mark.parametrize("n_envs", [-1, 0, None, "whatever"])
    def test_number_of_envs_must_be_positive(self, n_envs):
        with pytest.raises(ValueError, match=f"n_envs={n_envs} to be positive"):
            self.make(n_envs)

    def test_wrong_base_noise(self):
        with pytest.raises(ValueError, match="not None"):
            VectorizedActionNoise(None, 2)
        with pytest.raises(TypeError, match="ActionNoise"):
            VectorizedActionNoise(12, 2)

    def test_setting_noises_is_checked_and_a_refused_value_is_not_kept(self):
        noise = self.make()
        kept = noise.noises
        with pytest.raises(AssertionError, match="list of 3 ActionNoises, found 2"):
            noise.noises = kept[:2]
        with pytest.raises(TypeError):
            noise.noises = None
        with pytest.raises(ValueError, match=r"indices \[0, 1, 2\]"):
            noise.noises = [NormalActionNoise(MU, SIGMA)] * 3
        assert noise.noises is kept


def test_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        ActionNoise()
