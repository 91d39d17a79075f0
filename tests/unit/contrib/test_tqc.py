"""TQC: what it refuses, what it keeps, and it learns. Its numbers are in ``tests/parity``."""

import numpy as np
import pytest

from mlx_baselines3 import SAC
from mlx_baselines3.contrib import TQC
from support.judging import judge


def small(**kwargs):
    policy_kwargs = {"net_arch": [16], "n_quantiles": 5, **kwargs.pop("policy_kwargs", {})}
    defaults = {"buffer_size": 500, "learning_starts": 10, "seed": 0}
    return TQC("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


@pytest.mark.parametrize("dropped", [-1, 5, 6])
def test_targets_need_a_quantile(dropped):
    with pytest.raises(ValueError, match=f"top_quantiles_to_drop_per_net` is {dropped}, expected 0 to 4"):
        small(top_quantiles_to_drop_per_net=dropped)


def test_critics_need_a_quantile():
    with pytest.raises(AssertionError, match="`n_quantiles` must be at least 1, got 0"):
        small(policy_kwargs={"n_quantiles": 0})


def test_it_is_not_sac(tmp_path):
    small().save(tmp_path / "tqc")
    with pytest.raises(ValueError, match="a model of TQC, which SAC cannot load"):
        SAC.load(tmp_path / "tqc")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "sac")
    with pytest.raises(ValueError, match="a model of SAC, which TQC cannot load"):
        TQC.load(tmp_path / "sac")


def test_a_file_keeps_how_many_quantiles_there_are(tmp_path):
    model = small(top_quantiles_to_drop_per_net=3, policy_kwargs={"n_critics": 3})
    model.learn(20)
    model.save(tmp_path / "tqc")
    again = TQC.load(tmp_path / "tqc")
    assert again.critic.n_quantiles == 5
    assert again.critic.quantiles_total == 15
    assert again._kept_quantiles() == 6
    np.testing.assert_array_equal(again.policy.parameters_to_vector(), model.policy.parameters_to_vector())


def test_what_others_override_counts():
    class Halved(TQC):
        def _value(self, outputs):
            return super()._value(outputs) / 2

    model = Halved(
        "MlpPolicy", "Pendulum-v1", learning_starts=5, buffer_size=50, policy_kwargs={"net_arch": [8]}
    )
    model.learn(8)
    assert model._updater.native is None


@pytest.mark.learning
def test_learns_to_swing_up():
    """RL Zoo's settings, which it needs 20,000 steps with."""
    model = TQC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, seed=1)
    model.learn(8_000)
    assert judge(model, "Pendulum-v1") > -250
