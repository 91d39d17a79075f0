"""Consecutive QR-DQN updates give sb3-contrib's parameters and logged values, in Rust and in MLX."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_baselines3.common.type_aliases import ReplayBufferSamples
from mlx_baselines3.contrib import QRDQN
from mlx_baselines3.contrib.common.utils import quantile_huber_loss
from support.contrib_updates import make_model, read_case, read_function
from support.golden import LOG_TOLERANCE, assert_log_equal, assert_parameters_equal
from support.offpolicy import RecordedBuffer

NAMES = ("qrdqn", "qrdqn_soft")


class RecordedRingBuffer(RecordedBuffer):
    """The same with all batches in one call."""

    def sample_many(self, n_batches: int, batch_size: int, env: object = None) -> ReplayBufferSamples:
        samples = [self.sample(batch_size, env) for _ in range(n_batches)]
        return ReplayBufferSamples(*(mx.stack(f) for f in list(zip(*samples, strict=True))[:5]))


@pytest.mark.parametrize("buffer_class", [RecordedBuffer, RecordedRingBuffer])
@pytest.mark.parametrize("name", NAMES)
def test_updates_equal_contribs(name, buffer_class, updates):
    case = read_case(name)
    model = make_model(QRDQN, name, buffer_size=100)
    model.policy.load_state_dict(case.group("before"))
    model.replay_buffer = buffer_class(case)
    losses = []
    for index in range(3):
        model.train(gradient_steps=1, batch_size=32)
        losses.append(model.logger.name_to_value["train/loss"])
        # Between two updates there was one step, which lets the target network follow.
        if index < 2:
            model._on_step()
        assert (model._updater.compiled is not None) == (updates == "mlx")
        if index < 2 or model._n_calls == 3:
            assert_parameters_equal(model.policy.state_dict(), case.group(f"step{index + 1}"))
    assert_parameters_equal(model.policy.state_dict(), case.group("after"))
    np.testing.assert_allclose(
        losses, [case.arrays[f"loss{i}/quantile_net"] for i in range(3)], LOG_TOLERANCE
    )
    logged = dict(model.logger.name_to_value)
    logged["train/loss"] = np.mean(losses)
    del logged["rollout/exploration_rate"]
    assert_log_equal(logged, {k: v for k, v in case.group("log").items() if not k.startswith("rollout")})


@pytest.mark.parametrize("name", NAMES)
def test_the_two_sides_of_the_loss_are_contribs(name):
    case = read_case(name)
    model = make_model(QRDQN, name, buffer_size=100)
    seen = []
    for index in range(3):
        model.policy.load_state_dict(case.group("before") if index == 0 else case.group(f"step{index}"))
        batch = {key: mx.array(value) for key, value in case.group(f"batch{index}").items()}
        from mlx_baselines3.contrib.qrdqn import losses

        quantiles = model.quantile_net(batch["observations"])
        seen.append(losses.quantiles_of_actions(quantiles, batch["actions"]))
        np.testing.assert_allclose(seen[-1], case.arrays[f"inner{index}/current"], LOG_TOLERANCE, 1e-6)
        following = model.quantile_net_target(batch["next_observations"])
        target = losses.quantile_target(batch["rewards"], batch["dones"], mx.array(0.99), following)
        np.testing.assert_allclose(target, case.arrays[f"inner{index}/target"], LOG_TOLERANCE, 1e-6)


@pytest.mark.parametrize("case", read_function("quantile_huber_loss").items(), ids=lambda case: case[0])
def test_quantile_huber_loss_equals_contribs(case):
    _, arrays = case
    rest = {
        "cum_prob": mx.array(arrays["cum_prob"]) if "cum_prob" in arrays else None,
        "sum_over_quantiles": bool(arrays["sum_over_quantiles"]),
    }

    def loss(current):
        return quantile_huber_loss(current, mx.array(arrays["target"]), **rest)

    value, gradient = mx.value_and_grad(loss)(mx.array(arrays["current"]))
    np.testing.assert_allclose(value.item(), arrays["loss"], LOG_TOLERANCE)
    np.testing.assert_allclose(gradient, arrays["grad_current"], 2e-5, 2e-5)
