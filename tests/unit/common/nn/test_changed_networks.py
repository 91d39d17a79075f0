"""Networks and optimizers that are changed after the model was made: frozen, thawed, replaced."""

import copy

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from mlx_baselines3.common.nn.layers import Linear, named_parameters, set_named_parameters
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer

ON = {"n_steps": 16, "seed": 0}
OFF = {"learning_starts": 8, "batch_size": 8, "buffer_size": 100, "seed": 0}
SMALL = {"policy_kwargs": {"net_arch": [8, 8]}}
MODELS = {
    PPO: ("CartPole-v1", {**ON, "batch_size": 16, "n_epochs": 2}),
    A2C: ("Pendulum-v1", ON),
    DQN: ("CartPole-v1", {**OFF, "train_freq": 1, "target_update_interval": 4}),
    SAC: ("Pendulum-v1", OFF),
    TD3: ("Pendulum-v1", OFF),
    DDPG: ("Pendulum-v1", OFF),
}
both_paths = pytest.mark.parametrize("updates", ["native", "mlx"])


@pytest.fixture
def make(monkeypatch):
    def build(cls, updates, **kwargs):
        monkeypatch.setenv("MLX_BASELINES3_UPDATES", updates)
        env, settings = MODELS[cls]
        return cls("MlpPolicy", env, **{**settings, **copy.deepcopy(SMALL), **kwargs})

    return build


def part(owner, path):
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner


def numbers(module):
    return {name: np.array(array) for name, array in named_parameters(module).items()}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


PARTS = [
    (PPO, "mlp_extractor.policy_net"),
    (PPO, "value_net"),
    (A2C, "action_net"),
    (DQN, "q_net.q_net"),
    (SAC, "actor.latent_pi"),
    (SAC, "critic.qf0"),
    (TD3, "critic.qf0"),
    (TD3, "actor"),
    (DDPG, "actor.mu"),
]


@both_paths
@pytest.mark.parametrize(("cls", "path"), PARTS, ids=[f"{cls.__name__}-{path}" for cls, path in PARTS])
@pytest.mark.parametrize("when", ["before", "after"])
def test_frozen_and_thawed(make, cls, path, when, updates):
    """Also after the step was compiled; everything else goes on learning, and thawing lets it learn."""
    model = make(cls, updates)
    if when == "after":
        model.learn(32)
    frozen = part(model.policy, path)
    some = cls is DQN  # Something of a Q network has to learn.
    (getattr(frozen, "2") if some else frozen).freeze()
    before, rest = numbers(frozen), numbers(model.policy)
    model.learn(32)
    moved = changed(before, numbers(frozen))
    assert moved == ({name for name in before if not name.startswith("2")} if some else set())
    assert changed(rest, numbers(model.policy))
    frozen.unfreeze()
    model.learn(32)
    assert changed(before, numbers(frozen)) == before.keys()


@both_paths
def test_single_parameters_are_frozen(make, updates):
    model = make(A2C, updates)
    model.policy.freeze(keys=["bias", "log_std"])
    before = numbers(model.policy)
    model.learn(32)
    assert changed(before, numbers(model.policy)) == {name for name in before if name.endswith("weight")}


@both_paths
@pytest.mark.parametrize(
    ("cls", "whose"), [(PPO, "the policy"), (DQN, "the Q network"), (SAC, "the critics")]
)
def test_nothing_to_train(make, cls, whose, updates):
    model = make(cls, updates)
    model.policy.freeze()
    with pytest.raises(RuntimeError, match=f"All parameters of {whose} are frozen"):
        model.learn(32)


class NumpyAdam:
    """Adam as torch has it: each parameter counts its own steps."""

    def __init__(self, rate, betas=(0.9, 0.999), eps=1e-8):
        self.rate, self.betas, self.eps, self.states = rate, betas, eps, {}

    def step(self, values, gradients):
        b1, b2 = self.betas
        for name, g in gradients.items():
            t, m, v = self.states.get(name, (0, 0.0, 0.0))
            t, m, v = t + 1, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            self.states[name] = t, m, v
            values[name] -= self.rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + self.eps)


def step_once(optimizer, net, scale):
    """The gradient of ``sum(scale * p**2 / 2)``."""
    arrays = named_parameters(net)
    gradients = optimizer.pack({name: scale * arrays[name] for name in optimizer.names})
    new, state = optimizer.apply(gradients, optimizer.pack(arrays), optimizer.state)
    set_named_parameters(net, optimizer.unpack(new))
    optimizer.state = state


def test_a_frozen_array_counts_no_steps():
    """As torch's: its averages stay, and its bias correction goes on from the steps that it took part in."""
    mx.random.seed(3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 200), nn.Linear(200, 100))
    optimizer, reference = ParameterOptimizer(net, optim.Adam, 0.01), NumpyAdam(0.01)
    assert "layers.2.weight" in optimizer.pack(named_parameters(net))  # one that is not merged
    values = {name: array.astype(np.float64) for name, array in numbers(net).items()}
    plan = [(), ("layers.0", "layers.2"), ("layers.0",), ("layers.1",), ()]
    for turn, frozen in enumerate(plan):
        net.unfreeze()
        for path in frozen:
            net.layers[int(path[-1])].freeze()
        optimizer.follow(net)
        for _ in range(2):
            step_once(optimizer, net, turn + 1.0)
            live = [name for name in values if not name.startswith(frozen or ("-",))]
            reference.step(values, {name: (turn + 1.0) * values[name] for name in live})
    for name, array in numbers(net).items():
        np.testing.assert_allclose(array, values[name], rtol=2e-4, atol=2e-6, err_msg=name)
    assert optimizer.missed == {
        f"layers.{i}.{kind}": 2 * n for i, n in ((0, 2), (1, 1), (2, 1)) for kind in ("weight", "bias")
    }


def test_state_of_frozen_arrays_travels():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = ParameterOptimizer(net, optim.Adam, 0.01)
    step_once(optimizer, net, 1.0)
    net.layers[0].freeze()
    optimizer.follow(net)
    step_once(optimizer, net, 1.0)
    state = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    assert state["missed.layers.0.weight"] == 1
    assert "missed.layers.1.weight" not in state
    # Into an optimizer that still knows all of them, and after thawing.
    other = ParameterOptimizer(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), optim.Adam, 0.5)
    other.load_state_dict(state)
    assert other.missed == {"layers.0.weight": 1, "layers.0.bias": 1}
    net.unfreeze()
    optimizer.follow(net)
    for each in (other, optimizer, copy.deepcopy(optimizer)):
        again = {name: np.array(array) for name, array in each.state_dict().items()}
        assert again.keys() == state.keys()
        for name, array in again.items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_a_frozen_model_is_saved_and_loaded(make, tmp_path):
    model = make(PPO, "native").learn(16)
    model.policy.mlp_extractor.freeze()
    model.learn(16)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=model.get_env())
    one, other = model.get_parameters()["policy.optimizer"], loaded.get_parameters()["policy.optimizer"]
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(np.array(one[name]), np.array(other[name]), err_msg=name)
    loaded.learn(16)
    assert loaded.policy.optimizer.names == list(named_parameters(loaded.policy))


class Doubled(nn.Module):
    """A head of the user's own, with names of its own."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def __call__(self, x):
        return self.layer(x) * 2


REPLACED = [
    (PPO, "action_net", lambda: Doubled(8, 2)),
    (PPO, "mlp_extractor.policy_net", lambda: Doubled(4, 8)),
    (A2C, "value_net", lambda: Linear(8, 1)),
    (SAC, "actor.mu", lambda: Doubled(8, 1)),
    (TD3, "actor.mu", lambda: nn.Sequential(nn.Linear(3, 1), nn.Tanh())),
    (SAC, "critic.qf0", lambda: Doubled(4, 1)),
    (DQN, "q_net.q_net", lambda: Doubled(4, 2)),
]


@both_paths
@pytest.mark.parametrize(("cls", "path", "new"), REPLACED, ids=[f"{c.__name__}-{p}" for c, p, _ in REPLACED])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_replaced_module_learns(make, cls, path, new, when, updates):
    model = make(cls, updates)
    if when == "after":
        model.learn(32)
    owner, _, name = path.rpartition(".")
    places = [owner]
    # A slow copy has to have the form of its original.
    if owner in ("critic", "q_net") or (cls is TD3 and owner == "actor"):
        places.append(f"{owner}_target")
    for place in places:
        setattr(part(model.policy, place) if place else model.policy, name, new())
    before = numbers(part(model.policy, path))
    model.learn(32)
    assert changed(before, numbers(part(model.policy, path))) == before.keys()
    assert model.predict(model.observation_space.sample())[0] is not None


@both_paths
def test_a_slow_copy_of_another_form_is_told(make, updates):
    model = make(SAC, updates)
    model.critic.qf0 = Doubled(4, 1)
    with pytest.raises(ValueError, match="Whoever replaces a module by one of another form"):
        model.learn(32)


class Counted(nn.Linear):
    """A layer that tells when it is asked."""

    def __call__(self, x):
        vars(self).setdefault("asked", []).append(1)
        return super().__call__(x)


@both_paths
@pytest.mark.parametrize(
    ("cls", "path"),
    [(PPO, "action_net"), (A2C, "value_net"), (DQN, "q_net.q_net.2"), (SAC, "actor.mu"), (TD3, "actor.mu.2")],
)
def test_a_step_that_was_made_before_sees_the_new_module(make, cls, path, updates):
    """The new layer has the names and shapes of the old one, so that nothing else would give it away."""
    model = make(cls, updates).learn(32)
    owner, _, name = path.rpartition(".")
    owner = part(model.policy, owner) if owner else model.policy
    shape = getattr(owner, name).weight.shape
    new = Counted(shape[1], shape[0])
    setattr(owner, name, new)
    train = model.train if cls in (PPO, A2C) else lambda: model.train(2, 8)
    train()
    assert vars(new)["asked"]
    # What the optimizer knew was about the old layer.
    optimizer = (model.policy if cls in (PPO, A2C, DQN) else model.actor).optimizer
    assert any(key.startswith(f"{name}.") or f".{name}." in key for key in optimizer.missed) or cls is A2C


def test_a_replaced_extractor_is_replaced_under_all_names(make):
    model = make(PPO, "native")

    class Scaled(type(model.policy.features_extractor)):
        def forward(self, observations):
            return 3 * super().forward(observations)

    old = model.policy.get_distribution(mx.ones((1, 4))).distribution.logits
    model.policy.features_extractor = Scaled(model.observation_space)
    new = model.policy.get_distribution(mx.ones((1, 4))).distribution.logits
    assert not np.allclose(np.array(old), np.array(new))
    _, values, _ = model.policy(mx.ones((1, 4)))
    np.testing.assert_allclose(np.array(values), np.array(model.policy.predict_values(mx.ones((1, 4)))))


@both_paths
@pytest.mark.parametrize("cls", MODELS)
def test_a_new_optimizer_trains(make, cls, updates):
    """It is used from the next update on, and starts from its own state."""
    model = make(cls, updates).learn(32)
    owners = [model.policy] if cls in (PPO, A2C, DQN) else [model.actor, model.critic]
    for owner in owners:
        owner.optimizer = optim.Adam(learning_rate=1e-3, bias_correction=True)
        assert owner.optimizer.state["step"].item() == 0
    before = numbers(model.policy)
    model.learn(16)
    assert changed(before, numbers(model.policy))
    for owner in owners:
        assert owner.optimizer.state["step"].item() > 0
    assert (model._updater.compiled is None) == (updates == "native")


@both_paths
def test_a_new_optimizer_of_the_entropy_coefficient(make, updates):
    model = make(SAC, updates)
    model.ent_coef_optimizer = optim.SGD(learning_rate=0.0)
    before = float(model.log_ent_coef.item())
    model.learn(32)
    assert model.log_ent_coef.item() != before  # by the model's learning rate
    assert model.ent_coef_optimizer.state["step"].item() == 24
    fixed = make(SAC, updates, ent_coef=0.1)
    with pytest.raises(AssertionError, match="is not learned"):
        fixed.ent_coef_optimizer = optim.SGD(learning_rate=0.1)


def test_both_paths_agree_with_a_new_optimizer(make):
    weights = []
    for updates in ("native", "mlx"):
        model = make(PPO, updates)
        kwargs = model.policy.optimizer_kwargs
        model.policy.optimizer = model.policy.optimizer_class(learning_rate=1e-3, **kwargs)
        model.learn(32)
        weights.append(numbers(model.policy))
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


def test_what_an_optimizer_knew_is_kept(make):
    model = make(PPO, "native")
    mine = optim.Adam(learning_rate=1e-3)
    mine.init(model.policy.trainable_parameters())
    mine.state["action_net"]["bias"]["m"] = mx.array([1.0, 2.0])
    model.policy.optimizer = mine
    state = model.policy.optimizer.state_dict()
    np.testing.assert_array_equal(np.array(state["m.action_net.bias"]), [1.0, 2.0])
    assert model.policy.optimizer.optimizer is mine


def test_no_optimizer(make):
    with pytest.raises(TypeError, match=r"must be one of mlx\.optimizers, got 'adam'"):
        make(PPO, "native").policy.optimizer = "adam"


@both_paths
@pytest.mark.parametrize("cls", MODELS)
def test_another_models_policy(make, cls, updates):
    """All of it is the other one: it acts, learns and follows; the old one is left alone."""
    model, other = make(cls, updates).learn(16), make(cls, updates, seed=1)
    old, before = model.policy, numbers(model.policy)
    model.policy = other.policy
    start = numbers(other.policy)
    model.learn(32)
    assert not changed(before, numbers(old))
    moved = changed(start, numbers(other.policy))
    for name in start:
        if not name.startswith(("actor_target", "critic_target", "q_net_target")):
            assert name in moved
    if cls not in (PPO, A2C):
        assert all(model.__dict__[name] is getattr(other.policy, name) for name in aliases(cls))


def aliases(cls):
    return ["q_net", "q_net_target"] if cls is DQN else ["actor", "critic", "critic_target"]


@both_paths
def test_an_actor_without_an_optimizer_gets_one(make, updates):
    """SB3 raises here: ``make_actor`` gives an actor alone."""
    model = make(TD3, updates).learn(16)
    model.policy.actor = model.policy.make_actor()
    before = numbers(model.policy.actor)
    model.learn(32)
    assert changed(before, numbers(model.policy.actor)) == before.keys()
    assert model.actor is model.policy.actor


def test_parameter_groups(make):
    optimizer = make(PPO, "native").policy.optimizer
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(3e-4)
    assert (group["eps"], tuple(group["betas"])) == (1e-5, (0.9, 0.999))
    assert len(group["params"]) == len(optimizer.names)
    assert set(group) == {"lr", "params", "eps", "betas"}
    group["lr"] = 0.5
    assert optimizer.learning_rate.item() == 0.5
    with pytest.raises(KeyError, match="Only 'lr'"):
        group["eps"] = 0.5
    with pytest.raises(KeyError):
        group["momentum"]


@pytest.mark.parametrize("cls", MODELS)
def test_a_second_optimizer_of_the_policys_class_is_torchs(make, cls):
    """MLX's Adam corrects no bias unless it is told to; torch's, and that of the model, do."""
    policy = make(cls, "native").policy
    again = policy.optimizer_class(learning_rate=1e-3, **policy.optimizer_kwargs)
    owner = getattr(policy, "actor", policy)
    corrects = getattr(owner.optimizer.bare, "bias_correction", None)
    assert getattr(again, "bias_correction", None) == corrects
    assert corrects is (None if cls is A2C else True)


@both_paths
def test_an_activation_that_is_replaced_is_noticed(make, updates):
    """Layers without parameters are empty dictionaries to MLX."""
    model = make(DQN, updates).learn(32)
    before = model._updater.native if updates == "native" else model._updater.compiled
    assert before is not None
    for network in (model.q_net, model.q_net_target):
        setattr(network.q_net, "1", nn.SiLU())
    model.train(2, 8)
    after = model._updater.native if updates == "native" else model._updater.compiled
    assert after is not None
    assert after is not before
    model.train(2, 8)
    assert after is (model._updater.native if updates == "native" else model._updater.compiled)
