"""Will a policy of one's own learn here, and fast? docs/efficient-policies.md explains each answer."""

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
# Draws after which a policy that can act in more than one way is believed to have shown it.
_DRAWS = 8
_PLACEHOLDER = "during function transformations"


class _Pass(NamedTuple):
    """
    A way through the network.

    :param name: the method
    :param run: what calls it with ``n`` rows of observations and actions
    :param outputs: what it returns, one name after the other
    """

    name: str
    run: Callable[[Any, Any], Any]
    outputs: tuple[str, ...]


def check_policy(policy: Any, warn: bool = True) -> list[str]:
    """
    Check that a policy does what the algorithms of this package ask of it, and say what makes it slow.
    Observations are drawn from its space; its weights and the random generator stay as they are.

    :param policy: a policy, or an algorithm that has one
    :param warn: also give the advice as warnings
    :return: the advice: numbers read on the host, ``deterministic`` without effect, Python loops over the
        rows of a batch, layers whose input has to be copied, answers that depend on the memory layout
    :raises AssertionError: if an output has a wrong shape or dtype; the message says which
    :raises TypeError: if it is no policy
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
        # A pass that cannot be traced cannot be compiled; its graph says nothing then.
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
    """``n`` rows as the networks get them: observations, and actions as they come out of a buffer."""
    obs, _ = policy.obs_to_tensor(_sample(policy.observation_space, n))
    actions = _sample(policy.action_space, n)
    if isinstance(policy.action_space, spaces.Discrete):
        return obs, to_mlx(actions.astype(np.int32))
    return obs, to_mlx(actions.reshape(n, -1).astype(np.float32))


def _host_read(policy: BasePolicy, step: _Pass) -> str | None:
    obs, actions = _inputs(policy, _ROWS)
    random_state: Any = mx.random.state
    # Computes what the policy keeps from earlier calls, as the noise of gSDE: nothing pending may be traced.
    mx.eval([out for out in _as_tuple(step.run(obs, actions)) if isinstance(out, mx.array)])

    def pure(parameters: dict[str, mx.array], obs: Any, actions: mx.array) -> Any:
        with bound(policy, parameters):
            # An entropy that has no closed form is None.
            return [out for out in _as_tuple(step.run(obs, actions)) if out is not None]

    try:
        with random_state_kept():
            # Traced only: nothing is compiled before somebody reads the result.
            mx.compile(pure, inputs=random_state, outputs=random_state)(
                named_parameters(policy), obs, actions
            )
    except (ValueError, RuntimeError) as error:
        if _PLACEHOLDER not in str(error):
            raise
        return (
            f"{step.name}() reads numbers of an array on the host {_place(error)}. The device waits for "
            "that at every call, and the update cannot be compiled. Keep to MLX's operations (mx.where "
            "instead of `if`), see docs/efficient-policies.md#host-reads."
        )
    return None


def _place(error: BaseException) -> str:
    """The innermost line of the traceback that is the user's."""
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
        "goes over the rows of the batch. Work on whole batches, or use mx.vmap, see "
        "docs/efficient-policies.md#loops-over-rows."
    ]


def _expected(policy: BasePolicy, n: int) -> dict[str, tuple[tuple[int, ...], str]]:
    action_shape = (n, *(policy.action_space.shape or ()))
    continuous = isinstance(policy.action_space, spaces.Box)
    # The coins of MultiBinary are drawn as floats.
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
        # predict() gives actions of several axes their shape.
        return got[:1] == expected[:1] and np.prod(got) == np.prod(expected)
    return got == expected


@contextmanager
def _watched_layers(policy: BasePolicy, seen: list[tuple[str, mx.array]]) -> Iterator[None]:
    """Note what the layers of ``mlx.nn`` are called with."""
    names = {id(module): name for name, module in policy.named_modules()}
    kinds = {type(module) for module in policy.modules() if type(module).__module__.startswith("mlx.nn")}
    # Only layers with weights compute; an activation takes any memory layout.
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
        "gathered anew at every call. Choose the layout where the array is made, see "
        "docs/efficient-policies.md#non-contiguous-inputs."
        for name in strided
    ]


def _is_contiguous(array: mx.array) -> bool:
    try:
        view = memoryview(array)  # type: ignore[arg-type]
    except (RuntimeError, ValueError):
        # Inside mx.vmap a layer gets a placeholder, which has no memory.
        return True
    # A matrix product takes a transposed matrix as it is.
    return view.c_contiguous or (view.ndim == 2 and view.f_contiguous)


def _actions(policy: BasePolicy, obs: Any, deterministic: bool) -> list[np.ndarray]:
    return [to_numpy(policy._predict(obs, deterministic=deterministic)) for _ in range(_DRAWS)]


def _vary(draws: list[np.ndarray]) -> bool:
    return any(not np.array_equal(draws[0], other) for other in draws[1:])


def _ignored_deterministic(policy: BasePolicy) -> list[str]:
    obs, _ = _inputs(policy, 8 * _ROWS)
    if _vary(_actions(policy, obs, deterministic=True)):
        return [
            "_predict(deterministic=True) gives another action each time: the argument is ignored, and "
            "evaluations are noisy. See docs/efficient-policies.md#deterministic."
        ]
    if not isinstance(policy, ActorCriticPolicy) or _vary(_actions(policy, obs, deterministic=False)):
        return []
    if not _vary([to_numpy(policy.get_distribution(obs).sample()) for _ in range(_DRAWS)]):
        return []
    return [
        "_predict(deterministic=False) gives the same action each time, although the policy's distribution "
        "is random: the argument is ignored, and nothing is explored. See "
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
        return [f"predict() refuses an observation whose memory is not contiguous: {error}"]
    if np.allclose(plain, other, atol=1e-5) or _vary(_actions(policy, _inputs(policy, _ROWS)[0], True)):
        return []
    return [
        "predict() gives another action for the same observation in another memory layout: use its values, "
        "not its memory. See docs/efficient-policies.md#non-contiguous-inputs."
    ]


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _random_state() -> int:
    (key,) = cast(Iterable[mx.array], mx.random.state)
    high, low = to_numpy(key).tolist()
    # The seed that gives this key.
    return int(high) << 32 | int(low)
