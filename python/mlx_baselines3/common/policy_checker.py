"""Checks of custom policies for errors and slow code; docs/efficient-policies.md explains each of them."""

from __future__ import annotations

import io
import linecache
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.nn.layers import bound, named_parameters
from mlx_baselines3.common.nn.threads import random_state_kept
from mlx_baselines3.common.policies.actor_critic import ActorCriticPolicy
from mlx_baselines3.common.policies.base import BasePolicy

_ROWS = 8
# Number of draws after which a stochastic policy is assumed to have shown different actions.
_DRAWS = 8
_PLACEHOLDER = "during function transformations"


class _Pass(NamedTuple):
    """
    A forward pass to check.

    :param name: the method
    :param run: calls it with ``n`` rows of observations and actions
    :param outputs: names of its outputs
    """

    name: str
    run: Callable[[Any, Any], Any]
    outputs: tuple[str, ...]


def check_policy(policy: Any, warn: bool = True) -> list[str]:
    """
    Check that a policy meets the requirements of the algorithms, and report what makes it slow.
    Observations are drawn from its space; its weights and the random generator are left unchanged.

    :param policy: a policy, or an algorithm that has one
    :param warn: also emit the advice as warnings
    :return: the advice: numbers read on the host, ``deterministic`` without effect, Python loops over the
        rows of a batch, layers whose input has to be copied, outputs that depend on the memory layout
    :raises AssertionError: an output has a wrong shape or dtype; the message says which
    :raises TypeError: it is not a policy
    """
    policy = getattr(policy, "policy", policy)
    if not isinstance(policy, BasePolicy):
        raise TypeError(f"Expected a policy or an algorithm, got {type(policy).__name__}.")
    was_training = policy.training
    policy.set_training_mode(False)
    state = _random_state()
    try:
        advice = _advice(policy)
    finally:
        policy.set_training_mode(was_training)
        mx.random.seed(state)
    if warn:
        for line in advice:
            warnings.warn(line, UserWarning, stacklevel=2)
    return advice


def _advice(policy: BasePolicy) -> list[str]:
    advice = []
    for step in _passes(policy):
        # A pass that cannot be traced cannot be compiled, and has no graph to inspect.
        read = _host_read(policy, step)
        advice += [read] if read else []
        if not read:
            advice += _loop_over_rows(policy, step)
        for n in (1, _ROWS):
            _check_outputs(policy, step, n)
    advice += _copied_inputs(policy)
    advice += _ignored_deterministic(policy)
    advice += _layout_matters(policy)
    return list(dict.fromkeys(advice))


def _passes(policy: BasePolicy) -> list[_Pass]:
    passes = [_Pass("_predict", lambda obs, _: policy._predict(obs), ("actions",))]
    if isinstance(policy, ActorCriticPolicy):
        passes += [
            _Pass("forward", lambda obs, _: policy(obs), ("actions", "values", "log_prob")),
            _Pass("evaluate_actions", policy.evaluate_actions, ("values", "log_prob", "entropy")),
            _Pass("predict_values", lambda obs, _: policy.predict_values(obs), ("values",)),
        ]
    return passes


def _sample(space: spaces.Space[Any], n: int) -> Any:
    space = deepcopy(space)
    space.seed(0)
    if isinstance(space, spaces.Dict):
        return {key: _sample(part, n) for key, part in space.spaces.items()}
    return np.stack([np.asarray(space.sample()) for _ in range(n)])


def _inputs(policy: BasePolicy, n: int) -> tuple[Any, mx.array]:
    """``n`` rows of inputs of the networks: observations, and actions as stored in a buffer."""
    obs, _ = policy.obs_to_tensor(_sample(policy.observation_space, n))
    actions = _sample(policy.action_space, n)
    if isinstance(policy.action_space, spaces.Discrete):
        return obs, to_mlx(actions.astype(np.int32))
    return obs, to_mlx(actions.reshape(n, -1).astype(np.float32))


def _host_read(policy: BasePolicy, step: _Pass) -> str | None:
    obs, actions = _inputs(policy, _ROWS)
    random_state: Any = mx.random.state
    # Evaluate arrays kept from earlier calls, such as gSDE's noise: pending arrays must not be traced.
    mx.eval([out for out in _as_tuple(step.run(obs, actions)) if isinstance(out, mx.array)])

    def pure(parameters: dict[str, mx.array], obs: Any, actions: mx.array) -> Any:
        with bound(policy, parameters):
            # An entropy without closed form is None.
            return [out for out in _as_tuple(step.run(obs, actions)) if out is not None]

    try:
        with random_state_kept():
            # Traced only: MLX compiles when a result is read.
            mx.compile(pure, inputs=random_state, outputs=random_state)(
                named_parameters(policy), obs, actions
            )
    except (ValueError, RuntimeError) as error:
        if _PLACEHOLDER not in str(error):
            raise
        return (
            f"{step.name}() reads numbers of an array on the host {_place(error)}. The device waits for "
            "that at every call, and the update cannot be compiled. Use MLX's operations (mx.where "
            "instead of `if`), see docs/efficient-policies.md#host-reads."
        )
    return None


def _place(error: BaseException) -> str:
    """The innermost line of the traceback in the user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)] or list(frames)
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f"in line {own[-1].lineno} of {own[-1].filename}" + (f" (`{line}`)" if line else "")


def _is_library(filename: str) -> bool:
    return any(f"{name}/" in filename.replace("\\", "/") for name in ("mlx_baselines3", "mlx", "numpy"))


def _operations(outputs: Any) -> int:
    text = io.StringIO()
    mx.export_to_dot(text, *[out for out in _as_tuple(outputs) if isinstance(out, mx.array)])
    return text.getvalue().count("shape=rectangle")


def _loop_over_rows(policy: BasePolicy, step: _Pass) -> list[str]:
    few, many = (_operations(step.run(*_inputs(policy, n))) for n in (_ROWS, 2 * _ROWS))
    if many - few < _ROWS:
        return []
    return [
        f"{step.name}() takes {few} operations for {_ROWS} rows and {many} for {2 * _ROWS}: a Python loop "
        "iterates over the rows of the batch. Work on whole batches, or use mx.vmap, see "
        "docs/efficient-policies.md#loops-over-rows."
    ]


def _expected(policy: BasePolicy, n: int) -> dict[str, tuple[tuple[int, ...], str]]:
    action_shape = (n, *(policy.action_space.shape or ()))
    continuous = isinstance(policy.action_space, spaces.Box)
    # MultiBinary actions are sampled as floats.
    numbers = "float" if continuous or isinstance(policy.action_space, spaces.MultiBinary) else "int"
    return {
        "actions": (action_shape, numbers),
        "values": ((n, 1), "float"),
        "log_prob": ((n,), "float"),
        "entropy": ((n,), "float"),
    }


def _check_outputs(policy: BasePolicy, step: _Pass, n: int) -> None:
    outputs = _as_tuple(step.run(*_inputs(policy, n)))
    assert len(outputs) == len(step.outputs), (
        f"{step.name}() must return {', '.join(step.outputs)}, it returned {len(outputs)} values."
    )
    for name, out in zip(step.outputs, outputs, strict=True):
        shape, numbers = _expected(policy, n)[name]
        what = f"The {name} of {step.name}() for {n} rows"
        if name == "entropy" and out is None:
            continue
        assert isinstance(out, mx.array), f"{what} must be an mx.array, got {type(out).__name__}."
        assert _same_shape(name, out.shape, shape), f"{what} must have the shape {shape}, got {out.shape}."
        if numbers == "float":
            fits = out.dtype == mx.float32
        else:
            fits = mx.issubdtype(out.dtype, mx.integer)
        assert fits, (
            f"{what} must be {'float32' if numbers == 'float' else 'integers'}, got {out.dtype}: other "
            "dtypes are converted at every step, and compiled again."
        )


def _same_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if name == "actions":
        # predict() reshapes actions with several axes.
        return got[:1] == expected[:1] and np.prod(got) == np.prod(expected)
    return got == expected


@contextmanager
def _watched_layers(policy: BasePolicy, seen: list[tuple[str, mx.array]]) -> Iterator[None]:
    """Record the inputs of the layers of ``mlx.nn``."""
    names = {id(module): name for name, module in policy.named_modules()}
    kinds = {type(module) for module in policy.modules() if type(module).__module__.startswith("mlx.nn")}
    # Only layers with weights; activations work on any memory layout.
    kinds = {kind for kind in kinds if kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Bilinear)}
    originals = {kind: kind.__call__ for kind in kinds}

    def watch(kind: type[nn.Module]) -> Callable[..., Any]:
        def call(self: nn.Module, x: mx.array, *args: Any) -> Any:
            seen.append((names.get(id(self), kind.__name__), x))
            return originals[kind](self, x, *args)

        return call

    try:
        for kind in kinds:
            kind.__call__ = watch(kind)
        yield
    finally:
        for kind, original in originals.items():
            kind.__call__ = original


def _copied_inputs(policy: BasePolicy) -> list[str]:
    seen: list[tuple[str, mx.array]] = []
    obs, actions = _inputs(policy, _ROWS)
    with _watched_layers(policy, seen):
        for step in _passes(policy):
            step.run(obs, actions)
    strided = dict.fromkeys(name for name, x in seen if not _is_contiguous(x))
    return [
        f"The input of {name} is a non-contiguous view (transposed, or every k-th entry): its rows are "
        "copied at every call. Choose the layout where the array is created, see "
        "docs/efficient-policies.md#non-contiguous-inputs."
        for name in strided
    ]


def _is_contiguous(array: mx.array) -> bool:
    try:
        view = memoryview(cast(Any, array))
    except (RuntimeError, ValueError):
        # Inside mx.vmap a layer gets a placeholder, which has no memory.
        return True
    # A matrix product supports transposed matrices.
    return view.c_contiguous or (view.ndim == 2 and view.f_contiguous)


def _actions(policy: BasePolicy, obs: Any, deterministic: bool) -> list[np.ndarray]:
    return [to_numpy(policy._predict(obs, deterministic=deterministic)) for _ in range(_DRAWS)]


def _vary(draws: list[np.ndarray]) -> bool:
    return any(not np.array_equal(draws[0], other) for other in draws[1:])


def _ignored_deterministic(policy: BasePolicy) -> list[str]:
    obs, _ = _inputs(policy, 8 * _ROWS)
    if _vary(_actions(policy, obs, deterministic=True)):
        return [
            "_predict(deterministic=True) returns a different action each time: the argument is ignored, and "
            "evaluations are noisy. See docs/efficient-policies.md#deterministic."
        ]
    if not isinstance(policy, ActorCriticPolicy) or _vary(_actions(policy, obs, deterministic=False)):
        return []
    if not _vary([to_numpy(policy.get_distribution(obs).sample()) for _ in range(_DRAWS)]):
        return []
    return [
        "_predict(deterministic=False) returns the same action each time, although the policy's distribution "
        "is stochastic: the argument is ignored, and there is no exploration. See "
        "docs/efficient-policies.md#deterministic."
    ]


def _layout_matters(policy: BasePolicy) -> list[str]:
    obs = _sample(policy.observation_space, _ROWS)
    if isinstance(obs, dict):
        strided: Any = {key: np.asfortranarray(part) for key, part in obs.items()}
    else:
        strided = np.asfortranarray(obs)
    try:
        plain, other = (policy.predict(batch, deterministic=True)[0] for batch in (obs, strided))
    except (TypeError, ValueError, BufferError) as error:
        return [f"predict() rejects an observation with non-contiguous memory: {error}"]
    if np.allclose(plain, other, atol=1e-5) or _vary(_actions(policy, _inputs(policy, _ROWS)[0], True)):
        return []
    return [
        "predict() returns a different action for the same observation in another memory layout: use its "
        "values, not its memory. See docs/efficient-policies.md#non-contiguous-inputs."
    ]


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _random_state() -> int:
    (key,) = cast(Iterable[mx.array], mx.random.state)
    high, low = to_numpy(key).tolist()
    # The seed that gives this key.
    return int(high) << 32 | int(low)
