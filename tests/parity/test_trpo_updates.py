"""TRPO's updates give sb3-contrib's search directions, line searches, parameters and logged values."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.contrib import TRPO
from mlx_baselines3.contrib.common.utils import conjugate_gradient_solver, flat_grad
from support.contrib_updates import cases_of, make_model, read_case, read_function
from support.golden import assert_log_equal, fill_rollout

# A small damping amplifies rounding, see the data's README.
TOLERANCES = {"trpo_backtrack": 1e-5}


def assert_close(parameters, expected, tolerance):
    assert parameters.keys() >= expected.keys()
    for name, value in expected.items():
        difference = np.abs(np.array(parameters[name]) - value).max()
        assert difference <= tolerance, f"{name} differs by {difference:.2g}"


def recorded_model(name, case, monkeypatch):
    model = make_model(TRPO, name, n_steps=len(case.arrays["rollout/rewards"]))
    # `trpo_cnn` has each array under one name.
    model.policy.load_state_dict(case.group("before"), strict=name != "trpo_cnn")
    keep = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
    wanted = {f"rollout/{key}" for key in (*keep, "last_values", "last_dones")}
    for key in [key for key in case.arrays if key.startswith("rollout/") and key not in wanted]:
        del case.arrays[key]
    fill_rollout(model, case)
    orders = iter(case.group_of("permutation"))
    monkeypatch.setattr(model.rollout_buffer, "shuffled_rows", lambda: next(orders))
    monkeypatch.setattr(model, "_cg_noise", lambda size: mx.array(case.arrays["trpo/cg_noise"]))
    return model


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size of 12")
@pytest.mark.parametrize("name", cases_of("TRPO"))
def test_updates_equal_contribs(name, updates, monkeypatch):
    case = read_case(name)
    model = recorded_model(name, case, monkeypatch)
    np.testing.assert_allclose(model.rollout_buffer.advantages, case.arrays["expect/advantages"], 0, 1e-5)
    np.testing.assert_allclose(model.rollout_buffer.returns, case.arrays["expect/returns"], 0, 1e-5)
    search, taken = TRPO._search, []

    def seen(model, *args):
        taken.append((search(model, *args), args))
        return taken[-1][0]

    monkeypatch.setattr(TRPO, "_search", seen)
    model.train()
    ((found, (names, _, _, step)),) = taken
    tolerance = TOLERANCES.get(name, 2e-6)
    accepted = case.arrays["trpo/accepted_step"]
    assert found.is_accepted == (accepted >= 0)
    assert found.tries == (accepted + 1 if found.is_accepted else len(case.arrays["trpo/line_search_kl"]))
    if "trpo/search_direction" in case.arrays:
        expected = case.arrays["trpo/max_step_size"] * case.arrays["trpo/search_direction"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(step, expected, 1e-4, 1e-4 * scale)
    assert_close(model.policy.state_dict(), case.group("after"), tolerance)
    policy_step = case.group("policy_step")
    arrays = model.policy.state_dict()
    assert_close(arrays, {key: policy_step[key] for key in policy_step if key in names}, tolerance)
    assert_log_equal(model.logger.name_to_value, case.group("log"))
    by_mlx = updates == "mlx" or name == "trpo_cnn"
    assert (model._updater.compiled is not None) == by_mlx


@pytest.mark.parametrize("case", read_function("conjugate_gradient_solver").items(), ids=lambda case: case[0])
def test_conjugate_gradients_equal_contribs(case):
    _, arrays = case
    matrix, products = mx.array(arrays["A"]), []

    def product(vector):
        products.append(vector)
        return matrix @ vector

    x = conjugate_gradient_solver(
        product,
        mx.array(arrays["b"]),
        int(arrays["max_iter"]),
        float(arrays["residual_tol"]),
        mx.array(arrays["noise"]),
    )
    np.testing.assert_allclose(x, arrays["x"], 1e-4, 1e-5)
    assert len(products) == arrays["products"]


def test_flat_gradient_by_hand():
    """Of 3 a^2 + a b the gradient at (2, 5) is (17, 2), and the Hessian's first row (6, 1)."""

    def function(at):
        return 3 * at[0].sum() ** 2 + at[0].sum() * at[1].sum()

    at = [mx.array([2.0]), mx.array([[5.0]])]
    np.testing.assert_allclose(flat_grad(function, at), [17.0, 2.0])
    np.testing.assert_allclose(flat_grad(lambda at: flat_grad(function, at)[0], at), [6.0, 1.0])
