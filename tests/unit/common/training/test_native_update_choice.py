"""Whose gradient steps run in Rust, and what MLX is told to compute."""

from functools import partial

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import A2C, PPO, SAC, TD3
from mlx_baselines3.common.buffers import RolloutBuffer
from mlx_baselines3.common.native.actor import blueprint
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.nn.optimizers import RMSpropTFLike
from mlx_baselines3.common.nn.packed_optimizer import ParameterOptimizer
from mlx_baselines3.common.policies.critics import ContinuousCritic
from mlx_baselines3.common.training.native_on_policy import NativeOnPolicyUpdate
from support.native_models import SETTING, assert_close, both_ways, off_policy, on_policy, train

pytestmark = pytest.mark.usefixtures("uncompiled")


def test_a_wrong_setting_is_an_error(monkeypatch):
    model = on_policy(A2C)
    monkeypatch.setenv(SETTING, "torch")
    with pytest.raises(ValueError, match="MLX_BASELINES3_UPDATES is 'torch', expected 'native' or 'mlx'"):
        train(model, 1)


class OwnLoss(PPO):
    def _loss(self, batch, settings):
        return super()._loss(batch, settings)


class OwnBuffer(RolloutBuffer):
    pass


def learns_from_noise(model):
    model.policy.action_dist.learn_features = True
    model.verbose = 1
    return model


def no_margin(model):
    model.actor.action_dist.epsilon = 1e-4
    model.verbose = 1
    return model


SMALL = {"net_arch": [4]}
REASONS = [
    (lambda: on_policy(OwnLoss, batch_size=8, verbose=1), "OwnLoss has its own _loss"),
    (lambda: on_policy(A2C, rollout_buffer_class=OwnBuffer, verbose=1), "the rollout buffer is a OwnBuffer"),
    (lambda: learns_from_noise(on_policy(PPO, batch_size=8, use_sde=True)), "the noise trains the features"),
    (
        lambda: on_policy(A2C, verbose=1, policy_kwargs={"optimizer_class": optim.AdamW, **SMALL}),
        "there is no native AdamW with these arguments",
    ),
    (
        lambda: on_policy(
            A2C,
            verbose=1,
            policy_kwargs={
                "optimizer_class": RMSpropTFLike,
                "optimizer_kwargs": {"momentum": 0.5},
                **SMALL,
            },
        ),
        "there is no native RMSpropTFLike with these arguments",
    ),
    (
        lambda: on_policy(A2C, verbose=1, policy_kwargs={"activation_fn": nn.Softplus, **SMALL}),
        "there is no native Softplus layer",
    ),
    (
        lambda: no_margin(off_policy(SAC, use_sde=True)),
        "the noise has other settings than SAC gives it",
    ),
]


@pytest.mark.parametrize(("make", "reason"), REASONS)
def test_a_line_says_why_mlx_computes(capsys, make, reason):
    model = make()
    capsys.readouterr()
    for _ in range(2):
        train(model, 1)
    assert capsys.readouterr().out == f"MLX computes the gradient steps, because {reason}.\n"
    assert model._updater.compiled is not None


def test_parameters_that_are_not_trained_are_mlx_s():
    policy = on_policy(A2C).policy
    some = [name for name in policy.optimizer.names if not name.startswith("value_net")]
    optimizer = ParameterOptimizer(policy, optim.Adam, 1e-3, names=some)
    with pytest.raises(NotNative, match="some of its parameters are not trained"):
        NativeOnPolicyUpdate(policy, optimizer, blueprint(policy))


def test_other_networks_are_noticed():
    """A model whose policy or optimizer is replaced trains the new one."""
    model, other = on_policy(A2C), on_policy(A2C, seed=9)
    train(model, 1)
    model.policy = other.policy
    before = model.policy.parameters_to_vector()
    train(model, 1)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


class OwnActorLoss(SAC):
    def _actor_loss(self, batch, ent_coef):
        return super()._actor_loss(batch, ent_coef)


class OwnCritic(ContinuousCritic):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class OwnApply(ParameterOptimizer):
    def apply(self, gradients, packed, state):
        return super().apply(gradients, packed, state)


def own_epsilon(model):
    model.actor.action_dist.epsilon = 1e-5


def own_log_prob(model):
    actor = model.actor
    actor.action_log_prob = partial(type(actor).action_log_prob, actor)


def own_entropy(model):
    dist = model.policy.action_dist
    dist.entropy = partial(type(dist).entropy, dist)


def own_target(model):
    policy = model.policy
    critic = OwnCritic(**policy._update_features_extractor(policy.critic_kwargs, None))
    policy.critic_target = model.critic_target = critic


def own_optimizer(model):
    policy = model.policy
    policy.optimizer = OwnApply(policy, optim.Adam, 1e-3)


def own_networks(model):
    model.policy.update_networks = model.policy.update_networks


OWN = [
    (OwnActorLoss, None, "OwnActorLoss has its own _actor_loss"),
    (SAC, own_epsilon, "the squashed distribution's epsilon is 1e-05"),
    (SAC, own_log_prob, "Actor has its own action_log_prob"),
    (TD3, own_target, "a OwnCritic follows a ContinuousCritic"),
    (TD3, own_networks, "TD3Policy has its own update_networks"),
    (A2C, own_entropy, "DiagGaussianDistribution has its own entropy"),
    (A2C, own_optimizer, "OwnApply has its own apply"),
]


@pytest.mark.parametrize("has_trained", [False, True])
@pytest.mark.parametrize(("cls", "change", "reason"), OWN)
def test_whatever_of_the_user_s_decides_is_mlx_s(capsys, cls, change, reason, has_trained):
    model = (on_policy if cls is A2C else off_policy)(cls, verbose=1)
    if has_trained and change is not None:
        train(model, 1)
        assert model._updater.native is not None
    if change is not None:
        change(model)
    capsys.readouterr()
    train(model, 1)
    assert capsys.readouterr().out == f"MLX computes the gradient steps, because {reason}.\n"


def own_loss(model):
    def loss(batch, settings):
        value, metrics = type(model)._loss(model, batch, settings)
        return value * 0, metrics

    model._loss = loss


def own_evaluation(model):
    policy = model.policy
    policy.evaluate_actions = lambda obs, actions: [
        part * 0 for part in type(policy).evaluate_actions(policy, obs, actions)
    ]


@pytest.mark.parametrize("who", ["native", "mlx"])
@pytest.mark.parametrize("change", [own_loss, own_evaluation])
def test_a_method_that_a_model_gets_between_two_updates_is_the_next_one_s(monkeypatch, who, change):
    monkeypatch.setenv(SETTING, who)
    model = on_policy(
        PPO, batch_size=8, ent_coef=0.0, policy_kwargs={"optimizer_class": optim.RMSprop, **SMALL}
    )
    train(model, 1)
    compiled = model._updater.compiled
    change(model)
    before = model.policy.parameters_to_vector()
    train(model, 1)
    assert model._updater.compiled is not compiled
    # Nothing of what these methods compute depends on a parameter.
    assert np.array_equal(model.policy.parameters_to_vector(), before)


@pytest.mark.parametrize("cls", [A2C, SAC])
def test_an_activation_that_changes_is_noticed(cls):
    kwargs = {"activation_fn": nn.ELU, **SMALL}
    results = []
    for has_trained in (False, True):
        model = (on_policy if cls is A2C else off_policy)(cls, policy_kwargs={**kwargs})
        state = {name: dict(part) for name, part in model.get_parameters().items()}
        if has_trained:
            train(model, 1)
            model.set_parameters(state)
        for module in model.policy.modules():
            if isinstance(module, nn.ELU):
                module._alpha = 3.0
        train(model, 1)
        assert model._updater.native is not None
        results.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(*results)


def test_an_optimizer_that_changes_its_kind_is_noticed(capsys):
    kwargs = {"optimizer_class": RMSpropTFLike, **SMALL}
    model = on_policy(A2C, verbose=1, policy_kwargs=kwargs)
    train(model, 1)
    model.policy.optimizer.optimizer.weight_decay = 0.01
    capsys.readouterr()
    train(model, 1)
    assert "there is no native RMSpropTFLike with these arguments" in capsys.readouterr().out
    model.policy.optimizer.optimizer.weight_decay = 0.0
    before = model.policy.parameters_to_vector()
    train(model, 1)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


def test_a_switch_may_be_a_number(monkeypatch):
    native, mlx = both_ways(monkeypatch, lambda: on_policy(PPO, batch_size=8, normalize_advantage=1))
    assert_close(native, mlx)
