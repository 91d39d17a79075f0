"""What was read from a policy is read again when the policy is made of something else, and freed with it."""

import copy
import gc
import pickle
import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_baselines3 import DQN, PPO, SAC, _native
from mlx_baselines3.common.native import actor as native_actors
from mlx_baselines3.common.native.actor import is_outdated, native_actor, native_actor_or_none
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.native.snapshot import Snapshot
from mlx_baselines3.common.nn.layers import Linear, Sequential
from mlx_baselines3.common.policies import ActorCriticPolicy
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor

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


class Extractor(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 3)
        self.first, self.second = Linear(3, 3), Linear(3, 3)

    def forward(self, observations):
        return self.first(observations)


def extracting():
    kwargs = {"net_arch": [8], "features_extractor_class": Extractor}
    made = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, seed=0).policy
    made.action_net.weight *= 30
    return made


def assert_acts_as_mlx(policy):
    obs = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
    # Not what `predict` answers, which is clipped.
    native = native_actor(policy).act(obs, deterministic=True)
    np.testing.assert_allclose(native, np.array(policy._predict(mx.array(obs), True)), rtol=1e-5, atol=1e-5)
    # MLX's forward changes the distribution, so that the policy is read again.
    native_actor(policy)


def test_another_code_of_a_users_function_is_noticed(monkeypatch):
    changed = extracting()
    assert_acts_as_mlx(changed)
    monkeypatch.setattr(
        Extractor.forward, "__code__", (lambda self, observations: self.second(observations)).__code__
    )
    assert_acts_as_mlx(changed)


def test_changes_in_a_module_that_is_only_an_attribute_are_noticed():
    changed = extracting()
    changed.set_alias("pi_features_extractor", Extractor(changed.observation_space))
    assert_acts_as_mlx(changed)
    changed.pi_features_extractor.first = Linear(3, 3)
    assert_acts_as_mlx(changed)


@pytest.mark.parametrize("make", [policy, extracting])
def test_weights_changed_in_place_are_noticed(make):
    changed = make()
    assert_acts_as_mlx(changed)
    extractor = getattr(changed.features_extractor, "first", None)
    layers = [extractor, changed.mlp_extractor.policy_net[0], changed.action_net]
    for layer in filter(None, layers):
        for _ in range(3):
            layer.bias += 0.5
            assert_acts_as_mlx(changed)
            layer.weight[0] = 0.25
            assert_acts_as_mlx(changed)
            layer.weight *= 0.9
            assert_acts_as_mlx(changed)


def test_weights_of_another_type_are_noticed():
    changed = policy()
    actor = native_actor(changed)
    assert not is_outdated(changed, actor)
    changed.action_net.bias = changed.action_net.bias.astype(mx.float16)
    assert is_outdated(changed, actor)
    with pytest.raises(NotNative, match="not float32"):
        native_actor(changed)


def test_a_bias_that_is_taken_away_is_noticed():
    changed = policy()
    actor = native_actor(changed)
    del changed.action_net["bias"]
    assert not actor.is_current()
    assert is_outdated(changed, actor)


def test_weights_in_other_places_of_one_memory_are_noticed():
    changed = policy()
    layer = changed.mlp_extractor.policy_net["2"] = Linear(8, 8)
    changed.mlp_extractor.policy_net["3"] = nn.Tanh()
    assert_acts_as_mlx(changed)
    layer.weight[:] = layer.weight.T
    assert_acts_as_mlx(changed)


def test_numbers_that_are_none_are_the_same_as_before():
    layers = [{"inputs": 1, "outputs": 1, "activation": "identity", "parameter": 0.0}]
    core = _native.Actor(layers, "deterministic", [], [])
    for number, array in ((np.nan, np.array), (0.0, mx.array), (-0.0, mx.array)):
        assert core.changed([array([number], np.float32 if array is np.array else mx.float32)])
        assert not core.changed([mx.array([number])])
    assert core.changed([mx.array([-0.0]), mx.array([])])
    assert all(core.changed([np.zeros(1, np.float64)]) for _ in range(2))


def test_classes_of_the_standard_library_are_not_a_users():
    class Own(ActorCriticPolicy):
        pass

    shipped, own = policy(), PPO(Own, "Pendulum-v1", policy_kwargs={"net_arch": [8]}).policy
    # An abstract base class of Python's is among theirs.
    assert (len(Snapshot(shipped)._users), len(Snapshot(own)._users)) == (0, 1)


def entries():
    return {"module": object(), "weight": mx.zeros((2, 3)), "result": 1}


def renamed(holder):
    holder["other"] = holder.pop("module")


def moved(holder):
    holder["module"] = holder.pop("module")


@pytest.mark.parametrize(
    ("change", "is_current"),
    [
        (lambda holder: None, True),
        (lambda holder: holder.update(weight=mx.ones((2, 3)), result=2), True),
        (lambda holder: holder.update(weight=mx.ones((3, 2))), False),
        (lambda holder: holder.update(weight=np.ones((2, 3))), False),
        (lambda holder: holder.update(module=object()), False),
        (lambda holder: holder.update(other=1), False),
        (lambda holder: holder.pop("result"), False),
        (renamed, False),
        (moved, False),
    ],
)
def test_entries_are_compared_by_identity_and_arrays_by_shape(change, is_current):
    holder = entries()
    snapshot = _native.Snapshot([{}, holder], frozenset(("result",)), mx.array, [])
    change(holder)
    assert snapshot.is_current() is is_current


def test_arrays_are_the_same_objects_as_at_the_last_comparison():
    holder = entries()
    snapshot = _native.Snapshot([holder], frozenset(), mx.array, [])
    assert [snapshot.is_same() for _ in range(3)] == [False, True, True]
    holder["weight"] = mx.zeros((2, 3))
    assert [snapshot.is_same() for _ in range(3)] == [False, True, True]
    holder["weight"] = mx.zeros((3, 3))
    assert snapshot.is_same() is None
    assert not snapshot.is_current()


def test_weights_loaded_between_two_comparisons_are_compared_anew():
    changed = policy()
    actor = native_actor(changed)
    actor.critic()
    assert [is_outdated(changed, actor) for _ in range(2)] == [False, False]
    for layer in (changed.action_net, changed.value_net):
        before, layer.bias = layer.bias, layer.bias + 1
        native_actor(changed).critic()
        layer.bias = before
        assert is_outdated(changed, actor)
        native_actor(changed).critic()
        assert [is_outdated(changed, actor) for _ in range(2)] == [False, False]


def test_methods_are_compared_as_their_class_inherits_them():
    class Base:
        def __call__(self):
            pass

    class Own(Base):
        pass

    snapshot = _native.Snapshot([], frozenset(), mx.array, [(Own, "__call__")])
    call = Base.__call__
    Base.__call__ = lambda self: None
    assert not snapshot.is_current()
    Base.__call__ = call
    assert snapshot.is_current()
    del Base.__call__
    assert not snapshot.is_current()
    with pytest.raises(AttributeError, match="missing"):
        _native.Snapshot([], frozenset(), mx.array, [(Own, "missing")])


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
