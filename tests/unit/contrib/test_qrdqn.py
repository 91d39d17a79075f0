"""QR-DQN: worked by hand, as sb3-contrib where one would guess otherwise, and it learns."""

import gymnasium as gym
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import DQN
from mlx_baselines3.contrib import QRDQN
from mlx_baselines3.contrib.common.utils import quantile_huber_loss
from mlx_baselines3.contrib.qrdqn import losses
from support.judging import judge, stop_at

# Two quantiles, tau 1/4 and 3/4, at 0 and 2; targets 1 and -1. Gaps 1, -1 of the first with the weights 1/4
# and 3/4; -1 and -3 of the second, both with 1/4.
CURRENT, TARGET = mx.array([[0.0, 2.0]]), mx.array([[1.0, -1.0]])
PAIRS = np.array([[0.25 * 0.5, 0.75 * 0.5], [0.25 * 0.5, 0.25 * 2.5]])


def test_loss_by_hand():
    summed = quantile_huber_loss(CURRENT, TARGET)
    np.testing.assert_allclose(summed.item(), PAIRS.sum() / 2, rtol=1e-6)
    mean = quantile_huber_loss(CURRENT, TARGET, sum_over_quantiles=False)
    np.testing.assert_allclose(mean.item(), PAIRS.mean(), rtol=1e-6)


def test_critics_of_one_target_by_hand():
    both = mx.stack([CURRENT, CURRENT], axis=1)
    loss = quantile_huber_loss(both, TARGET[:, None], sum_over_quantiles=False)
    np.testing.assert_allclose(loss.item(), PAIRS.mean(), rtol=1e-6)


def test_own_probabilities_by_hand():
    """They are broadcast to the pairs: the axis of the targets is the last one."""
    tau = mx.array([[[0.5], [0.5]]])
    huber = np.array([[0.5, 0.5], [0.5, 2.5]])
    np.testing.assert_allclose(quantile_huber_loss(CURRENT, TARGET, tau).item(), 0.25 * huber.sum())


@pytest.mark.parametrize(
    ("current", "target", "said"),
    [
        ((3, 4), (3, 1, 4), "2 axes and target_quantiles has 3"),
        ((3, 4), (2, 4), "3 rows and target_quantiles has 2"),
        ((4,), (4,), "1 axes, expected 2 or 3"),
    ],
)
def test_a_loss_of_shapes_that_do_not_fit(current, target, said):
    with pytest.raises(ValueError, match=said):
        quantile_huber_loss(mx.zeros(current), mx.zeros(target))


def test_target_by_hand():
    # Two quantiles of two actions: the means are 2 and 2.5, so the second action's quantiles count.
    following = mx.array([[[1.0, 5.0], [3.0, 0.0]], [[1.0, 5.0], [3.0, 0.0]]])
    rewards, dones = mx.array([[1.0], [2.0]]), mx.array([[0.0], [1.0]])
    target = losses.quantile_target(rewards, dones, mx.array(0.5), following)
    np.testing.assert_allclose(np.array(target), [[3.5, 1.0], [2.0, 2.0]])


def small(**kwargs):
    policy_kwargs = {"net_arch": [16], "n_quantiles": 5, **kwargs.pop("policy_kwargs", {})}
    defaults = {"buffer_size": 500, "learning_starts": 10, "seed": 0}
    return QRDQN("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def test_the_optimizer_follows_the_batch_size():
    model = small(batch_size=64)
    assert model.policy.optimizer.optimizer.eps == 0.01 / 64
    # As in contrib: without a class, arguments of the optimizer are replaced.
    own = small(policy_kwargs={"optimizer_kwargs": {"eps": 1e-3}})
    assert own.policy.optimizer.optimizer.eps == 0.01 / 32
    both = {"optimizer_class": optim.Adam, "optimizer_kwargs": {"eps": 1e-3}}
    assert small(policy_kwargs=both).policy.optimizer.optimizer.eps == 1e-3


def test_the_callers_arguments_stay_theirs():
    given = {"net_arch": [16]}
    QRDQN("MlpPolicy", "CartPole-v1", policy_kwargs=given, buffer_size=10)
    assert given == {"net_arch": [16]}


def test_greedy_actions_are_those_of_the_largest_mean():
    model = small()
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    quantiles = np.array(model.quantile_net(mx.array(obs)))
    assert quantiles.shape == (200, 5, 2)
    actions, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(actions, quantiles.astype(np.float64).mean(axis=1).argmax(axis=1))
    assert 0 < actions.sum() < 200


def test_no_quantiles_are_refused():
    with pytest.raises(AssertionError, match="`n_quantiles` must be at least 1, got 0"):
        small(policy_kwargs={"n_quantiles": 0})


def test_dqn_does_not_load_it_nor_the_other_way_round(tmp_path):
    small().save(tmp_path / "quantiles")
    with pytest.raises(ValueError, match="a model of QRDQN, which DQN cannot load"):
        DQN.load(tmp_path / "quantiles")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save(tmp_path / "values")
    with pytest.raises(ValueError, match="a model of DQN, which QRDQN cannot load"):
        QRDQN.load(tmp_path / "values")


def test_the_gradient_is_clipped_only_if_asked_to():
    """A tiny bound, and a rate that would show it with plain gradient descent."""
    moved = []
    for bound in (None, 1e-3):
        plain = {"optimizer_class": optim.SGD}
        model = small(max_grad_norm=bound, learning_rate=1.0, policy_kwargs=plain, gradient_steps=1)
        before = model.quantile_net.parameters_to_vector()
        model.learn(12)
        moved.append(np.linalg.norm(model.quantile_net.parameters_to_vector() - before))
    assert moved[1] < 1.1e-3 < 1e-2 < moved[0]


def test_only_discrete_actions_are_taken():
    with pytest.raises(AssertionError, match="only supports"):
        QRDQN("MlpPolicy", gym.make("Pendulum-v1"))


def test_learns_to_balance():
    """RL Zoo's settings."""
    model = QRDQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256], "n_quantiles": 10},
        seed=1,
    )
    model.learn(50_000, callback=stop_at(480, "CartPole-v1", 2000))
    assert judge(model, "CartPole-v1") > 450
