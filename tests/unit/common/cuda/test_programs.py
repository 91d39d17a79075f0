"""
Whole gradient steps in one CUDA kernel against the updates in Rust. The kernel itself runs here, too, on an
emulation of CUDA; on a machine with an NVIDIA GPU it runs there as well.
"""

from contextlib import nullcontext

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3 import A2C, PPO, SAC, TD3
from mlx_baselines3.common.buffers.batches import replay_arrays
from mlx_baselines3.common.cuda import nvrtc, program
from mlx_baselines3.common.cuda.program import NoProgram, Program
from mlx_baselines3.common.native.blueprint import blueprint
from mlx_baselines3.common.native.eligibility import NotNative
from mlx_baselines3.common.training import program_on_policy
from mlx_baselines3.common.training.native_off_policy import NativeActorCriticUpdate
from mlx_baselines3.common.training.native_on_policy import NativeOnPolicyUpdate
from mlx_baselines3.common.training.program_actor_critic import ProgramActorCriticUpdate
from mlx_baselines3.common.training.program_on_policy import ProgramOnPolicyUpdate
from mlx_baselines3.common.vec_env import DummyVecEnv
from support.cuda_emulator import emulated
from support.native_models import BOX, off_policy, on_policy
from support.random_env import RandomEnv

CPU = {"device": "cpu"}


def _ppo(*spaces_, **kwargs):
    return on_policy(PPO, *spaces_, batch_size=24, **CPU, **kwargs)


def _has_gpu() -> bool:
    if not mx.is_available(mx.gpu):
        return False
    with mx.stream(mx.gpu):
        return nvrtc.usable()


@pytest.fixture(params=["emulated", "gpu"])
def stream(request, monkeypatch):
    """Where programs run, as a context for the arrays that they take."""
    if request.param == "emulated":
        emulated(monkeypatch)
        return nullcontext
    if not _has_gpu():
        pytest.skip("no NVIDIA GPU")
    return lambda: mx.stream(mx.gpu)


def _numbers(model, optimizers):
    """All parameters, and what the optimizers know."""
    found = {name: np.array(value) for name, value in model.policy.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        found |= {f"{i}.{name}": np.array(value) for name, value in optimizer.state_dict().items()}
    return found


def _assert_same(found, expected, tolerance=2e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(found[name], value, atol=tolerance * scale, rtol=0, err_msg=name)


def _orders(rows, epochs=2):
    return [np.random.default_rng(i).permutation(rows).astype(np.uint32) for i in range(epochs)]


def _both_on_policy(make, stream, batch_size=10, normalize=True, times=1, **settings):
    """Metrics, parameters and optimizer of the updates in Rust and in the kernel."""
    outcomes = []
    for kind in (NativeOnPolicyUpdate, ProgramOnPolicyUpdate):
        model = make()
        given = (
            {**model._settings(model._current_progress_remaining), **settings}
            if isinstance(model, PPO)
            else settings
        )
        rows = len(model.rollout_buffer.flattened()["values"])
        with stream() if kind is ProgramOnPolicyUpdate else nullcontext():
            if kind is ProgramOnPolicyUpdate:
                model.policy.optimizer._settle(True)
            update = kind(model.policy, model.policy.optimizer, blueprint(model.policy))
            for _ in range(times):
                columns = update.columns(model.rollout_buffer)
                epochs = update.run(columns, _orders(rows), batch_size, given, normalize)
            outcomes.append((epochs, _numbers(model, [model.policy.optimizer])))
    (expected, after), (found, after_program) = outcomes
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)
    _assert_same(after_program, after)
    return found


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (spaces.Discrete(3), {"ent_coef": 0.1}),
        (spaces.MultiDiscrete([2, 3]), {"clip_range_vf": 0.2}),
        (BOX, {"ent_coef": 0.1, "vf_coef": 0.3}),
    ],
)
def test_ppo_learns_as_in_rust(stream, space, settings):
    epochs = _both_on_policy(lambda: _ppo(space), stream, **settings)
    # The last minibatch is a short one.
    assert [len(epoch["loss"]) for epoch in epochs] == [3, 3]


def test_advantages_as_they_are(stream):
    _both_on_policy(lambda: _ppo(), stream, batch_size=24, normalize=False)


def test_a_second_update_goes_on_from_the_first(stream):
    _both_on_policy(lambda: _ppo(), stream, times=2)


def test_a2c_with_adam_learns_as_in_rust(stream):
    def make():
        return on_policy(A2C, use_rms_prop=False, **CPU)

    _both_on_policy(make, stream, batch_size=None, ent_coef=0.1, vf_coef=0.5, max_grad_norm=0.5)


def test_relu_and_nets_of_unequal_depth(stream):
    arch = {"net_arch": {"pi": [40, 5], "vf": [6]}, "activation_fn": nn.ReLU}
    _both_on_policy(lambda: _ppo(policy_kwargs=arch), stream)


def test_larger_tiles_give_the_same(stream, monkeypatch):
    monkeypatch.setattr(program, "_MANY_ROWS", 1)
    arch = {"net_arch": [70, 40]}
    _both_on_policy(lambda: _ppo(policy_kwargs=arch), stream)


def test_a_pass_may_be_several_launches(stream, monkeypatch):
    monkeypatch.setattr(program_on_policy, "_MOST_SCRATCH", 0)
    epochs = _both_on_policy(lambda: _ppo(), stream)
    assert len(epochs[0]["loss"]) == 3


def test_target_kl_ends_the_update_in_the_same_minibatch(stream):
    make = lambda: _ppo(learning_rate=0.05)  # noqa: E731
    epochs = _both_on_policy(make, stream, target_kl=0.02)
    assert sum(len(epoch["loss"]) for epoch in epochs) < 6


def test_several_environments_are_gathered_from_where_they_lie(stream):
    space = spaces.Box(-1, 1, (3,), np.float32)

    def make():
        env = DummyVecEnv([lambda: RandomEnv(space, spaces.Discrete(2))] * 3)
        model = PPO("MlpPolicy", env, n_steps=7, batch_size=21, n_epochs=1, seed=0, **CPU)
        model.learn(21)
        return model

    _both_on_policy(make, stream, batch_size=8)


def test_numbers_that_are_not_finite_change_nothing(stream):
    model = _ppo()
    model.rollout_buffer.returns[3] = np.nan
    with stream():
        model.policy.optimizer._settle(True)
        before = _numbers(model, [model.policy.optimizer])
        update = ProgramOnPolicyUpdate(model.policy, model.policy.optimizer, blueprint(model.policy))
        with pytest.raises(FloatingPointError, match="policy"):
            update.run(
                update.columns(model.rollout_buffer),
                _orders(24),
                10,
                model._settings(model._current_progress_remaining),
                True,
            )
    _assert_same(_numbers(model, [model.policy.optimizer]), before, 0.0)


def test_parameters_that_someone_has_set_are_taken_over(stream):
    models = [_ppo() for _ in range(2)]
    with stream():
        for i, model in enumerate(models):
            model.policy.optimizer._settle(True)
            update = ProgramOnPolicyUpdate(model.policy, model.policy.optimizer, blueprint(model.policy))
            for time in range(2):
                # The second model is given what it has anyway.
                if i == 1 and time == 1:
                    given = {k: mx.array(np.array(v)) for k, v in model.policy.state_dict().items()}
                    model.policy.load_state_dict(given)
                update.run(
                    update.columns(model.rollout_buffer),
                    _orders(24),
                    10,
                    model._settings(model._current_progress_remaining),
                    True,
                )
    one, other = (_numbers(model, [model.policy.optimizer]) for model in models)
    _assert_same(one, other, 0.0)


def _both_sac(make, stream, steps=3, times=2, batch_size=20):
    outcomes = []
    for kind in (NativeActorCriticUpdate, ProgramActorCriticUpdate):
        model = make()
        networks, optimizers, _, _ = model._trained()
        metrics = []
        with stream() if kind is ProgramActorCriticUpdate else nullcontext():
            for optimizer in optimizers.values() if kind is ProgramActorCriticUpdate else ():
                optimizer._settle(True)
            update = kind(networks, optimizers, blueprint(model.policy))
            for i in range(times):
                np.random.seed(i)  # noqa: NPY002
                settings, _, flags = model._update_inputs(steps, batch_size)
                noise = np.random.default_rng(i).normal(size=(steps, 2, batch_size, 2)).astype(np.float32)
                batches = replay_arrays(model.replay_buffer, steps, batch_size)
                metrics.append(update.run(batches, settings, mx.array(noise), flags))
            outcomes.append((metrics, _numbers(model, optimizers.values())))
    (expected, after), (found, after_program) = outcomes
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)
    # Adam's first steps divide small numbers by small numbers.
    _assert_same(after_program, after, 2e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ent_coef": 0.3, "target_update_interval": 2},
        {"policy_kwargs": {"net_arch": {"pi": [6], "qf": [40, 5]}, "n_critics": 3}},
        {"policy_kwargs": {"net_arch": [7], "n_critics": 1}},
    ],
)
def test_sac_learns_as_in_rust(stream, settings):
    _both_sac(lambda: off_policy(SAC, **CPU, **settings), stream)


def test_what_the_kernel_does_not_know_is_refused(monkeypatch):
    for kwargs, words in (
        ({"policy_kwargs": {"activation_fn": nn.SiLU}}, "silu"),
        ({"use_rms_prop": True}, "Adam"),
    ):
        model = on_policy(A2C, **CPU, **kwargs) if "use_rms_prop" in kwargs else _ppo(**kwargs)
        with pytest.raises(NotNative, match=words):
            ProgramOnPolicyUpdate(model.policy, model.policy.optimizer, blueprint(model.policy))
    model = off_policy(TD3, **CPU)
    networks, optimizers, _, _ = model._trained()
    with pytest.raises(NotNative, match="deterministic"):
        ProgramActorCriticUpdate(networks, optimizers, blueprint(model.policy))


def test_too_many_tasks_are_refused():
    made = Program(4, 4)
    for _ in range(200):
        made.do("ZERO", ZERO_AT=0, ZERO_SIZE=4)
    with pytest.raises(NoProgram, match="201 tasks"):
        made.tasks()
