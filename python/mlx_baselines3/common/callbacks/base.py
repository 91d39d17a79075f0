"""Base classes of callbacks; import the names from ``common.callbacks``."""
# ruff: noqa: B027  the hooks are empty on purpose: subclasses override those they need

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from operator import attrgetter
from typing import Any

from mlx_baselines3.common._model import Model
from mlx_baselines3.common.logger import Logger
from mlx_baselines3.common.native.eligibility import is_shipped
from mlx_baselines3.common.vec_env import VecEnv

# More than any number of steps.
NEVER = sys.maxsize
_PROMISE = "_steps_until_needed"
_SEES_EVERY_STEP = ("_on_step", "on_step", "update_locals", "update_child_locals")
_DECIDES = frozenset((_PROMISE, *_SEES_EVERY_STEP))
_methods = attrgetter(_PROMISE, *_SEES_EVERY_STEP)


@lru_cache(maxsize=128)
def _keeps_promise(kind: type[BaseCallback], methods: tuple[Any, ...], own: frozenset[str]) -> bool:
    """
    :param kind: a class of callbacks
    :param methods: its present ones, those above
    :param own: which of their names an instance has of its own
    :return: whether what sees the steps is what the class with ``_steps_until_needed`` knows
    """
    if own:
        return _PROMISE in own
    bases = kind.__mro__
    first = next(i for i, base in enumerate(bases) if _PROMISE in vars(base))

    def method(name: str, classes: tuple[type, ...]) -> Any:
        return next(vars(base)[name] for base in classes if name in vars(base))

    return all(method(name, bases) is method(name, bases[first:]) for name in _SEES_EVERY_STEP)


def _is_promise_kept(callback: BaseCallback) -> bool:
    # This is asked at every step. A class may get other methods meanwhile.
    kind = type(callback)
    asked = kind, _methods(kind), _DECIDES.intersection(vars(callback))
    try:
        return _keeps_promise(*asked)
    except TypeError:  # a callable object that cannot be hashed
        return _keeps_promise.__wrapped__(*asked)


def steps_until_needed(callback: BaseCallback) -> int:
    """
    :param callback: any callback
    :return: its ``_steps_until_needed()``, at least 1; 1 if a subclass overrides a step method but not this
        one
    """
    return max(1, callback._steps_until_needed()) if _is_promise_kept(callback) else 1


class BaseCallback(ABC):
    """
    Base class of callbacks. Subclasses implement :meth:`_on_step` and, if needed, the other methods that
    start with an underscore.

    :param verbose: 0 is silent, 1 information, 2 debugging
    """

    model: Model

    def __init__(self, verbose: int = 0) -> None:
        super().__init__()
        # Number of calls, and number of environment steps.
        self.n_calls = 0
        self.num_timesteps = 0
        self.verbose = verbose
        self.locals: dict[str, Any] = {}
        self.globals: dict[str, Any] = {}
        # The callback that triggers this one, if any.
        self.parent: BaseCallback | None = None

    @property
    def training_env(self) -> VecEnv:
        """The vectorised environment that the model trains on."""
        training_env = self.model.get_env()
        assert training_env is not None, (
            "`model.get_env()` returned None, "
            "you must initialize the model with an environment to use callbacks"
        )
        return training_env

    @property
    def logger(self) -> Logger:
        """The model's logger."""
        return self.model.logger

    def init_callback(self, model: Model) -> None:
        """
        Attach the callback to a model.

        :param model: the algorithm
        """
        self.model = model
        self._init_callback()

    def _init_callback(self) -> None:
        """Initialize; the model is available."""

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """
        Called once by ``learn``, before the first rollout.

        :param locals_: its local variables
        :param globals_: its global variables
        """
        self.locals = locals_
        self.globals = globals_
        # Not 0 after an earlier call of `learn`.
        self.num_timesteps = self.model.num_timesteps
        self._on_training_start()

    def _on_training_start(self) -> None:
        """Hook before the first rollout."""

    def on_rollout_start(self) -> None:
        """Called before each rollout."""
        self._on_rollout_start()

    def _on_rollout_start(self) -> None:
        """Hook before each rollout."""

    @abstractmethod
    def _on_step(self) -> bool:
        """
        Hook after each step of the environments (or event, for the child of another callback).

        :return: False to stop the training
        """
        return True

    def on_step(self) -> bool:
        """
        Called after each step of the environments.

        :return: False to stop the training
        """
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        return self._on_step()

    def _steps_until_needed(self) -> int:
        """
        Number of steps until :meth:`_on_step` has an effect. Steps before that may be counted without a call.
        A class that overrides ``_on_step`` is called at every step, unless it overrides this method too.

        :return: 1 for the next step, :data:`NEVER` if only the ends of rollouts matter
        """
        return 1

    def _pass_steps(self, n_steps: int) -> None:
        """
        Count steps without a call.

        :param n_steps: number of steps
        """
        self.n_calls += n_steps
        self.num_timesteps = self.model.num_timesteps

    def on_training_end(self) -> None:
        """Called once, when the training ends."""
        self._on_training_end()

    def _on_training_end(self) -> None:
        """Hook at the end of the training."""

    def _release(self) -> None:
        """Called instead of :meth:`on_training_end` if an exception ends the training: release resources."""

    def on_rollout_end(self) -> None:
        """Called after each rollout, before the update."""
        self._on_rollout_end()

    def _on_rollout_end(self) -> None:
        """Hook after each rollout."""

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """
        Update ``self.locals``, and those of triggered callbacks.

        :param locals_: the rollout's local variables
        """
        self.locals.update(locals_)
        self.update_child_locals(locals_)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """
        Update the ``locals`` of triggered callbacks.

        :param locals_: the rollout's local variables
        """


@contextmanager
def released_on_error(callback: BaseCallback) -> Iterator[None]:
    """
    Context of a whole training.

    :param callback: releases its resources if an exception ends the block, Ctrl-C included
    """
    try:
        yield
    except BaseException:
        callback._release()
        raise


class EventCallback(BaseCallback):
    """
    Base class of callbacks that trigger another callback on an event.

    :param callback: the triggered callback
    :param verbose: 0 is silent, 1 information, 2 debugging
    """

    def __init__(self, callback: BaseCallback | None = None, verbose: int = 0) -> None:
        super().__init__(verbose=verbose)
        self.callback = callback
        if callback is not None:
            callback.parent = self

    def init_callback(self, model: Model) -> None:
        super().init_callback(model)
        if self.callback is not None:
            self.callback.init_callback(self.model)

    def _on_training_start(self) -> None:
        if self.callback is not None:
            self.callback.on_training_start(self.locals, self.globals)

    def _release(self) -> None:
        if self.callback is not None:
            self.callback._release()

    def _on_event(self) -> bool:
        return True if self.callback is None else self.callback.on_step()

    def _on_step(self) -> bool:
        return True

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        if self.callback is not None:
            self.callback.update_locals(locals_)


class CallbackList(BaseCallback):
    """
    Several callbacks, called in order. All are called, even if one stops the training.

    :param callbacks: the callbacks
    """

    def __init__(self, callbacks: list[BaseCallback]) -> None:
        super().__init__()
        assert isinstance(callbacks, list), f"CallbackList needs a list of callbacks, got {type(callbacks)}"
        self.callbacks = callbacks

    def _init_callback(self) -> None:
        for callback in self.callbacks:
            callback.init_callback(self.model)
            # Members have the list's parent, so that they find the EvalCallback that triggers the list.
            callback.parent = self.parent

    def _on_training_start(self) -> None:
        for callback in self.callbacks:
            callback.on_training_start(self.locals, self.globals)

    def _on_rollout_start(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_start()

    def _on_step(self) -> bool:
        continue_training = True
        for callback in self.callbacks:
            continue_training = callback.on_step() and continue_training
        return continue_training

    def _steps_until_needed(self) -> int:
        return min((steps_until_needed(callback) for callback in self.callbacks), default=NEVER)

    def _pass_steps(self, n_steps: int) -> None:
        super()._pass_steps(n_steps)
        for callback in self.callbacks:
            callback._pass_steps(n_steps)

    def _on_rollout_end(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_end()

    def _on_training_end(self) -> None:
        for callback in self.callbacks:
            callback.on_training_end()

    def _release(self) -> None:
        for callback in self.callbacks:
            callback._release()

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.update_locals(locals_)


class ConvertCallback(BaseCallback):
    """
    A function as a callback.

    :param callback: called with ``locals`` and ``globals`` at each step; a falsy result stops the training
    :param verbose: 0 is silent, 1 information, 2 debugging
    """

    def __init__(
        self, callback: Callable[[dict[str, Any], dict[str, Any]], bool] | None, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        self.callback = callback

    def _on_step(self) -> bool:
        return True if self.callback is None else self.callback(self.locals, self.globals)

    def _steps_until_needed(self) -> int:
        return NEVER if self.callback is None else 1


def is_noop(callback: BaseCallback) -> bool:
    """
    :param callback: any callback
    :return: whether it is the callback that ``learn`` creates for ``callback=None``
    """
    return type(callback) is ConvertCallback and callback.callback is None


def has_no_rollout_hooks(callback: BaseCallback) -> bool:
    """
    :param callback: any callback
    :return: whether no code of a user runs at either end of a rollout, where it could change the policy
    """
    if type(callback) is CallbackList:
        return all(map(has_no_rollout_hooks, callback.callbacks))
    return is_shipped(callback._on_rollout_start) and is_shipped(callback._on_rollout_end)


def unseen_steps(callback: BaseCallback) -> tuple[int, str]:
    """
    :param callback: that of ``learn``
    :return: steps that it does not have to see from now on, whole rollouts among them; and what completes
        "because" where it never lets a whole rollout pass
    """
    if not has_no_rollout_hooks(callback):
        return 0, "the callback has something to do at the ends of rollouts"
    if _sees_every_step(callback):
        return 0, "the callback is called at every step"
    return (NEVER if is_noop(callback) else steps_until_needed(callback) - 1), ""


def _sees_every_step(callback: BaseCallback) -> bool:
    if type(callback) is CallbackList:
        return any(map(_sees_every_step, callback.callbacks))
    if type(callback) is ConvertCallback:
        return callback.callback is not None
    no_promise = type(callback)._steps_until_needed is BaseCallback._steps_until_needed
    return no_promise or not _is_promise_kept(callback)


MaybeCallback = Callable[[dict[str, Any], dict[str, Any]], Any] | list[BaseCallback] | BaseCallback | None
"""The ``callback`` of ``learn``: a callback, a list or a function; import it from ``common.type_aliases``."""
