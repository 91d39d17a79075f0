"""Losses, statistics and gradients of 131,072 rows against float64, whoever computes them."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3 import A2C, DQN, PPO, TD3
from mlx_baselines3.a2c import losses as a2c
from mlx_baselines3.common.nn import sums as _sums
from mlx_baselines3.common.nn.layers import Conv2d
from mlx_baselines3.common.nn.optimizers import clip_by_global_norm
from mlx_baselines3.common.running_mean_std import RunningMeanStd
from mlx_baselines3.common.training import losses
from mlx_baselines3.common.utils import explained_variance
from mlx_baselines3.common.vec_env import NativeVecEnv
from mlx_baselines3.dqn import losses as dqn
from mlx_baselines3.ppo import losses as ppo
from mlx_baselines3.sac import losses as sac
from mlx_baselines3.td3 import losses as td3

ROWS = 131_072


def numbers(seed, mean=0.1, rows=ROWS, columns=None):
    """float32 numbers that lie on one side of 0, so that their sum grows with every one of them."""
    shape = rows if columns is None else (rows, columns)
    return (mean * (1 + 0.1 * np.random.default_rng(seed).random(shape))).astype(np.float32)


@pytest.mark.parametrize("rows", [1024, 1025, 2048, 4097, ROWS - 1, ROWS, 10_000_000])
def test_mean_and_total(rows):
    x = numbers(0, rows=rows)
    tolerance = {"rtol": 1e-5, "atol": 0}
    np.testing.assert_allclose(_sums.mean(mx.array(x)).item(), x.mean(dtype=np.float64), **tolerance)
    np.testing.assert_allclose(_sums.total(mx.array(x)).item(), x.sum(dtype=np.float64), **tolerance)


def test_gradient_of_a_total():
    x = numbers(0, rows=4097)
    weights = np.arange(4097, dtype=np.float32)
    gradient = mx.grad(lambda x: _sums.total(x * mx.array(weights)))(mx.array(x))
    np.testing.assert_array_equal(np.array(gradient), weights)


@pytest.mark.parametrize("rows", [2, 100, 2048, ROWS])
@pytest.mark.parametrize("value", [0.1, 1.7, 123.456])
def test_equal_advantages_are_normalised_to_0(rows, value):
    assert not np.array(losses.normalize(mx.full((rows,), value))).any()


@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_normalised_advantages(offset):
    x = (np.random.default_rng(0).normal(size=ROWS) + offset).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean()) / (wide.std(ddof=1) + 1e-8)
    np.testing.assert_allclose(np.array(losses.normalize(mx.array(x))), expected, rtol=0, atol=2e-6)


A, B, C = numbers(1), numbers(2, mean=0.4), numbers(3, mean=0.7)
PAIR = [numbers(seed, columns=1) for seed in (4, 5)]
TARGET = numbers(6, mean=0.9, columns=1)
WIDE = {name: array.astype(np.float64) for name, array in (("a", A), ("b", B), ("c", C), ("y", TARGET))}


def scalar(function, *arrays):
    return function(*map(mx.array, arrays)).item()


def of_pair(q):
    return sum(np.square(each.astype(np.float64) - WIDE["y"]).mean() for each in q)


LOSSES = {
    "value": (lambda: scalar(losses.value_loss, A, B), lambda a, b, c: np.square(b - a).mean()),
    "entropy": (lambda: scalar(losses.entropy_loss, A, B), lambda a, b, c: -a.mean()),
    "entropy by likelihood": (
        lambda: losses.entropy_loss(None, mx.array(B)).item(),
        lambda a, b, c: b.mean(),
    ),
    "ppo policy": (lambda: scalar(ppo.policy_loss, A, B, np.float32(5)), lambda a, b, c: -(a * b).mean()),
    "a2c policy": (lambda: scalar(a2c.policy_loss, A, B), lambda a, b, c: -(a * b).mean()),
    "kl": (lambda: scalar(ppo.approximate_kl, C, -B), lambda a, b, c: (c - 1 + b).mean()),
    "clip fraction": (
        lambda: scalar(ppo.clip_fraction, C, np.float32(0.25)),
        lambda a, b, c: (np.abs(C - 1) > np.float32(0.25)).mean(),
    ),
    "huber": (lambda: scalar(dqn.huber_loss, A, B), lambda a, b, c: 0.5 * np.square(a - b).mean()),
    "sac actor": (
        lambda: scalar(sac.actor_loss, A, B, np.float32(0.5)),
        lambda a, b, c: (0.5 * a - b).mean(),
    ),
    "ent_coef": (
        lambda: scalar(sac.ent_coef_loss, np.float32([0.5]), A, np.float32(1)),
        lambda a, b, c: -(0.5 * (a + 1)).mean(),
    ),
    "td3 actor": (lambda: scalar(td3.actor_loss, A), lambda a, b, c: -a.mean()),
    "sac critics": (
        lambda: sac.critic_loss(list(map(mx.array, PAIR)), mx.array(TARGET)).item(),
        lambda a, b, c: 0.5 * of_pair(PAIR),
    ),
    "td3 critics": (
        lambda: td3.critic_loss(list(map(mx.array, PAIR)), mx.array(TARGET)).item(),
        lambda a, b, c: of_pair(PAIR),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    ours, reference = LOSSES[name]
    np.testing.assert_allclose(ours(), reference(WIDE["a"], WIDE["b"], WIDE["c"]), rtol=1e-5, atol=0)


def test_gradient_of_a_convolutions_bias():
    layer = Conv2d(1, 2, kernel_size=1)
    images = mx.array(numbers(0, rows=32 * 64 * 64).reshape(32, 1, 64, 64))
    weights = numbers(1, rows=32 * 2 * 64 * 64).reshape(32, 2, 64, 64)

    def loss(bias):
        layer.bias = bias
        return _sums.total(layer(images) * mx.array(weights))

    gradient = mx.grad(loss)(layer.bias)
    np.testing.assert_allclose(np.array(gradient), weights.sum(axis=(0, 2, 3), dtype=np.float64), rtol=2e-5)


def test_norm_of_a_large_gradient():
    gradient = numbers(0, rows=1_000_000)
    clipped = clip_by_global_norm({"w": mx.array(gradient)}, mx.array(1.0))["w"]
    norm = np.linalg.norm(gradient.astype(np.float64))
    np.testing.assert_allclose(np.array(clipped), gradient / norm, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_explained_variance(mean):
    returns = (np.random.default_rng(0).normal(size=ROWS) + mean).astype(np.float32)
    values = (0.5 * (returns - mean) + mean).astype(np.float32)
    error = returns.astype(np.float64) - values
    expected = 1 - error.var() / returns.astype(np.float64).var()
    assert explained_variance(values, returns) == pytest.approx(expected, abs=1e-5)


def test_statistics_of_many_environments():
    x = (np.random.default_rng(0).normal(size=(ROWS, 3)) + 100).astype(np.float32)
    statistics = RunningMeanStd(epsilon=1e-10, shape=(3,))
    statistics.update(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(statistics.mean, wide.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(statistics.var, wide.var(axis=0), rtol=1e-5)


# Whole updates, of networks without hidden layers: their gradients are written down in a line.


def filled(cls, env_id, spread=0.1, **kwargs):
    """A model of linear layers whose buffer holds 131,072 rows. Equal ones are the worst to add up."""
    env = NativeVecEnv(env_id, 512)
    policy_kwargs = {"net_arch": [], "ortho_init": False}
    model = cls(
        "MlpPolicy", env, n_steps=ROWS // 512, policy_kwargs=policy_kwargs, seed=0, device="cpu", **kwargs
    )
    model.learn(ROWS // 2)  # collects one rollout, sets the logger up
    buffer, rng = model.rollout_buffer, np.random.default_rng(1)
    buffer.reset()
    columns = [(buffer.observations, 1), (buffer.returns, 3), (buffer.advantages, 2), (buffer.actions, 2)]
    for rows, mean in columns:
        rows[...] = mean * (1 + spread * rng.normal(size=rows.shape))
    buffer.pos, buffer.full, buffer.generator_ready = buffer.buffer_size, True, False
    return model


def linear(parameters, name, observations):
    weight, bias = (parameters[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    return observations @ weight.T + bias


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_gradient_of_the_values(cls, updates):
    kwargs = {"batch_size": ROWS, "n_epochs": 1} if cls is PPO else {"use_rms_prop": False}
    model = filled(cls, "Pendulum-v1", max_grad_norm=1e9, **kwargs)
    before = {name: np.array(value) for name, value in model.get_parameters()["policy"].items()}
    observations = model.rollout_buffer.observations.reshape(-1, 3).astype(np.float64)
    returns = model.rollout_buffer.returns.reshape(-1, 1).astype(np.float64)
    optimizer = model.policy.optimizer
    before_optimizer = {name: np.array(value) for name, value in optimizer.state_dict().items()}
    model.train()
    errors = linear(before, "value_net", observations) - returns
    logged = model.logger.name_to_value
    assert logged["train/value_loss"] == pytest.approx(np.square(errors).mean(), rel=1e-5)
    moments = first_moments(optimizer.state_dict(), before_optimizer)
    expected = 2 * model.vf_coef * errors.mean()
    np.testing.assert_allclose(moments["value_net.bias"], expected, rtol=1e-5)
    by_weight = 2 * model.vf_coef * (errors * observations).mean(axis=0, keepdims=True)
    np.testing.assert_allclose(moments["value_net.weight"], by_weight, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.1, 0.0])
def test_gradient_of_the_policy(spread, updates):
    model = filled(A2C, "Pendulum-v1", spread, max_grad_norm=1e9, use_rms_prop=False)
    before = {name: np.array(value) for name, value in model.get_parameters()["policy"].items()}
    columns = (getattr(model.rollout_buffer, name) for name in ("observations", "actions", "advantages"))
    observations, actions, advantages = (rows.reshape(ROWS, -1).astype(np.float64) for rows in columns)
    optimizer = model.policy.optimizer
    before_optimizer = {name: np.array(value) for name, value in optimizer.state_dict().items()}
    model.train()
    std = np.exp(before["log_std"].astype(np.float64))
    z = (actions - linear(before, "action_net", observations)) / std
    log_prob = -0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    logged = model.logger.name_to_value["train/policy_loss"]
    assert logged == pytest.approx(-(advantages * log_prob).mean(), rel=1e-5)
    moments = first_moments(optimizer.state_dict(), before_optimizer)
    np.testing.assert_allclose(moments["log_std"], -(advantages * (z**2 - 1)).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments["action_net.bias"], -(advantages * z / std).mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("cls", [DQN, TD3])
def test_many_copies_of_a_transition_are_as_good_as_one(cls, updates):
    logs, moments = [], []
    for batch_size in (1, ROWS):
        env_id = "CartPole-v1" if cls is DQN else "Pendulum-v1"
        quiet = {} if cls is DQN else {"target_policy_noise": 0.0}
        model = cls("MlpPolicy", env_id, buffer_size=10, learning_starts=10, seed=0, device="cpu", **quiet)
        model.learn(10)
        buffer = model.replay_buffer
        for rows in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
            rows[...] = rows[3]
        buffer.dones[...] = 0
        model.train(gradient_steps=1, batch_size=batch_size)
        loss = "train/loss" if cls is DQN else "train/critic_loss"
        logs.append(model.logger.name_to_value[loss])
        optimizer = model.policy.optimizer if cls is DQN else model.critic.optimizer
        moments.append({k: np.array(v) for k, v in optimizer.state_dict().items() if k.startswith("m.")})
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    for name, one in moments[0].items():
        # Two levels of 512 and 256 equal numbers: half a unit in the last place for each number at most,
        # 2e-5. In one level they are off by 2e-3.
        scale = np.abs(one).max()
        np.testing.assert_allclose(moments[1][name], one, rtol=0, atol=2e-5 * scale, err_msg=name)


def first_moments(after, before):
    """The last gradient, out of Adam's first moment, ``m <- 0.9 m + 0.1 g``."""
    return {
        name.removeprefix("m."): (np.array(new, np.float64) - 0.9 * np.array(before[name], np.float64)) / 0.1
        for name, new in after.items()
        if name.startswith("m.")
    }
