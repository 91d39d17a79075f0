"""The way to a model's arrays is remembered, and found anew when it has become another one."""

import mlx.core as mx
import pytest

from mlx_baselines3 import PPO, SAC
from mlx_baselines3.common.policies import evaluated
from support.native_models import off_policy, on_policy


def _ids(arrays):
    return {id(array) for array in arrays}


@pytest.mark.parametrize("make", [lambda: on_policy(PPO, batch_size=24), lambda: off_policy(SAC)])
def test_arrays_that_come_later_are_found(make):
    model = make()
    first = _ids(evaluated._arrays_of(model))
    walk = model._updater.walk
    assert first == _ids(
        evaluated._reachable(v for v in vars(model).values() if isinstance(v, evaluated._PARTS))
    )
    assert _ids(evaluated._arrays_of(model)) == first
    assert model._updater.walk is walk
    # In place of a number, in a new attribute, in a list, in a dictionary, in a layer.
    model.policy.mark = 1
    model.policy.marks = [1]
    evaluated._arrays_of(model)
    model.policy.mark = one = mx.array(1.0)
    model.policy.marks.append(two := mx.array(2.0))
    model.policy_kwargs["mark"] = three = mx.array(3.0)
    model.policy.other = four = mx.array(4.0)
    assert _ids([one, two, three, four]) <= _ids(evaluated._arrays_of(model))
    assert model._updater.walk is not walk
