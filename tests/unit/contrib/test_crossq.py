"""CrossQ and its batch renormalization: worked by hand, and where torch's gradient is nan."""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_baselines3 import SAC
from mlx_baselines3.contrib import CrossQ
from mlx_baselines3.contrib.common.torch_layers import BatchRenorm, BatchRenorm1d


def small(**kwargs):
    policy_kwargs = {"net_arch": [16], **kwargs.pop("policy_kwargs", {})}
    defaults = {"buffer_size": 500, "learning_starts": 10, "seed": 0}
    return CrossQ("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def test_a_batch_by_hand():
    """Of 1 and 3 the mean is 2 and the unbiased variance 2; the averages move a tenth of the way."""
    layer = BatchRenorm1d(1, eps=2.0, momentum=0.1)
    y = layer(mx.array([[1.0], [3.0]]))
    np.testing.assert_allclose(y, [[-0.5], [0.5]], rtol=1e-6)
    np.testing.assert_allclose(layer.ra_mean, [0.2], rtol=1e-6)
    np.testing.assert_allclose(layer.ra_var, [1.1], rtol=1e-6)
    assert layer.steps.item() == 1
    layer.train(False)
    np.testing.assert_allclose(layer(mx.array([[1.2]])), [[1 / np.sqrt(3.1)]], rtol=1e-6)
    assert layer.steps.item() == 1


def test_warm_up_ends_after_its_last_step():
    """The correction is there when more than `warmup_steps` batches have been seen."""
    layer, x = BatchRenorm1d(1, momentum=0.0, warmup_steps=1), mx.array([[1.0], [3.0]])
    first, second, third = (np.array(layer(x)) for _ in range(3))
    np.testing.assert_array_equal(first, second)
    assert np.abs(third - second).max() > 0.1


@pytest.mark.parametrize("warmup_steps", [0, 100])
def test_a_dead_unit_has_a_finite_gradient(warmup_steps):
    layer = BatchRenorm1d(2, warmup_steps=warmup_steps)
    x = mx.array([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    for _ in range(2):
        gradient = np.array(mx.grad(lambda x: (layer(x) * x[:, ::-1]).sum())(x))
        assert np.isfinite(gradient).all()


def test_a_dead_network_learns_on_with_finite_numbers():
    model = small(policy_kwargs={"renorm_warmup_steps": 2})
    for network in (model.actor.latent_pi, model.critic.qf0):
        # No input is large enough for a unit.
        network[1].bias = mx.full(network[1].bias.shape, -100.0)
    model.learn(40)
    assert all(np.isfinite(np.array(array)).all() for array in model.policy.state_dict().values())


def test_one_row_has_no_variance():
    with pytest.raises(ValueError, match="a batch of 1, expected 2 rows or more"):
        BatchRenorm1d(2)(mx.zeros((1, 2)))
    with pytest.raises(NotImplementedError):
        BatchRenorm(2)._check_input_dim(mx.zeros((1, 2)))


def test_averages_are_not_trained():
    layer = BatchRenorm1d(2)
    layer.unfreeze()
    assert layer.trainable_parameters().keys() == {"scale", "bias"}


def test_there_are_no_target_networks():
    model = small()
    assert not hasattr(model, "critic_target")
    assert not any("target" in name for name in model.policy.state_dict())


def test_the_betas_are_the_papers_unless_arguments_are_given():
    assert list(small().actor.optimizer.optimizer.betas) == [0.5, 0.999]
    given = small(policy_kwargs={"optimizer_kwargs": {"eps": 1e-4}})
    assert list(given.actor.optimizer.optimizer.betas) == [0.9, 0.999]
    other = small(policy_kwargs={"optimizer_class": optim.RMSprop})
    assert isinstance(other.actor.optimizer.optimizer, optim.RMSprop)


def test_predicting_changes_no_average():
    model = small()
    model.learn(20)
    before = {name: np.array(array) for name, array in model.policy.state_dict().items()}
    model.predict(np.zeros((7, 3), np.float32))
    for name, array in model.policy.state_dict().items():
        np.testing.assert_array_equal(np.array(array), before[name], err_msg=name)


def test_the_actor_learns_in_every_third_step():
    model = small(ent_coef=0.1)
    model.learn(34)
    assert model._n_updates == 24
    assert int(model.actor.latent_pi[0].steps) == 8
    assert int(model.critic.qf0[0].steps) == 24


def test_without_renormalization_it_has_sacs_layers():
    model = small(policy_kwargs={"batch_norm": False})
    assert len(list(model.critic.qf0.layers())) == 3
    model.learn(20)


def test_it_is_not_sac(tmp_path):
    small().save(tmp_path / "crossq")
    with pytest.raises(ValueError, match="a model of CrossQ, which SAC cannot load"):
        SAC.load(tmp_path / "crossq")
