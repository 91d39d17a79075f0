"""What was read from a policy is read again when the policy is made of something else, and freed with it."""

import copy
import gc
import pickle
import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3 import DQN, PPO, SAC
from mlx_baselines3.common.native import actor as native_actors
from mlx_baselines3.common.native.actor import native_actor, native_actor_or_none
from mlx_baselines3.common.nn.layers import Sequential
from mlx_baselines3.common.policies import ActorCriticPolicy

MODELS = [(PPO, "CartPole-v1"), (PPO, "Pendulum-v1"), (DQN, "CartPole-v1"), (SAC, "Pendulum-v1")]
models = pytest.mark.parametrize(("algorithm", "env"), MODELS)


@pytest.fixture
def readings(monkeypatch):
    """Policies whose modules are read."""
    seen = []
    read = native_actors.blueprint
    monkeypatch.setattr(native_actors, "blueprint", lambda policy: (seen.append(policy), read(policy))[1])
    return seen


def policy(env="Pendulum-v1", algorithm=PPO, **kwargs):
    return algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, **kwargs).policy


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [(PPO, "CartPole-v1"), (PPO, "Pendulum-v1"), (DQN, "CartPole-v1"), (SAC, "Pendulum-v1")],
)
def test_a_policy_that_stays_as_it_is_is_read_once(readings, algorithm, env):
    model = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    obs = model.observation_space.sample()
    for training in (False, True, False):
        model.policy.set_training_mode(training)
        model.predict(obs)
    # Other numbers are no other modules.
    model.set_parameters(model.get_parameters())
    model.predict(obs, deterministic=True)
    assert len(readings) == 1


def relu(policy):
    policy.mlp_extractor.policy_net["1"] = nn.ReLU()


def own_call(policy):
    policy.mlp_extractor.forward_actor = lambda features: features


def other_layer(policy):
    policy.action_net = nn.Linear(8, 1)


def without_bias(policy):
    del policy.action_net["bias"]


def own_distribution(policy):
    policy.action_dist.mode = lambda: mx.zeros((1, 1))


def other_space(policy):
    policy.observation_space = copy.deepcopy(policy.observation_space)


def own_attribute(policy):
    policy.squash_factor = 2


@pytest.mark.parametrize(
    "change", [relu, own_call, other_layer, without_bias, own_distribution, other_space, own_attribute]
)
def test_a_change_is_noticed(readings, change):
    changed = policy()
    native_actor(changed)
    change(changed)
    native_actor_or_none(changed)
    assert len(readings) == 2
    native_actor_or_none(changed)
    assert len(readings) == 2


def test_a_method_that_a_users_class_gets_later_is_noticed(readings):
    class Own(ActorCriticPolicy):
        pass

    model = PPO(Own, "Pendulum-v1", policy_kwargs={"net_arch": [8]})
    assert native_actor_or_none(model.policy) is not None
    Own._predict = lambda self, observation, deterministic=False: mx.full((1, 1), 0.5)
    assert native_actor_or_none(model.policy) is None
    assert model.predict(np.zeros(3, np.float32))[0] == 0.5
    del Own._predict
    assert native_actor_or_none(model.policy) is not None


def test_the_call_of_a_shipped_class_that_somebody_replaces_is_noticed(readings, monkeypatch):
    changed = policy()
    native_actor(changed)
    monkeypatch.setattr(Sequential, "__call__", lambda self, x: x * 0)
    native_actor_or_none(changed)
    assert len(readings) == 2


def test_why_there_is_no_native_actor_is_remembered(readings):
    class Twice(nn.Module):
        def __call__(self, x):
            return 2 * x

    changed = policy()
    changed.mlp_extractor.policy_net["1"] = Twice()
    assert [native_actor_or_none(changed) for _ in range(3)] == [None] * 3
    assert len(readings) == 1


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))]
)
def test_copies_do_not_share_what_was_read(duplicate):
    original = policy()
    obs = np.ones((1, 3), np.float32)
    before = original.predict(obs, deterministic=True)[0]
    other = duplicate(original)
    other.action_net = nn.Linear(8, 1)
    other.action_net.weight, other.action_net.bias = mx.zeros((1, 8)), mx.array([0.25])
    assert other.predict(obs, deterministic=True)[0] == 0.25
    assert np.array_equal(original.predict(obs, deterministic=True)[0], before)
    assert native_actor(original) is not native_actor(other)


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [(PPO, "CartPole-v1"), (PPO, "Pendulum-v1"), (DQN, "CartPole-v1"), (SAC, "Pendulum-v1")],
)
def test_policies_are_freed(algorithm, env):
    made = policy(env, algorithm)
    made.predict(made.observation_space.sample())
    gone = [*map(weakref.ref, made.modules())]
    del made
    gc.collect()
    assert [module() for module in gone] == [None] * len(gone)
