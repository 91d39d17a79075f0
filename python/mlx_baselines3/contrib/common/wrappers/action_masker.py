"""A wrapper that gives an environment the method that MaskablePPO asks for."""

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["ActionMasker"]


class ActionMasker(gym.Wrapper[Any, Any, Any, Any]):
    """
    Adds ``action_masks()`` to an environment. One that has such a method itself does not need it.

    :param env: the environment to wrap
    :param action_mask_fn: a function of the wrapped environment, or the name of a method of it or of one
        of its wrappers, which returns the mask: one boolean per choice, True where it is allowed. A method
        may take the wrapped environment as its argument, which sb3-contrib requires, or none
    :raises AttributeError: the environment has no attribute of that name
    :raises ValueError: the attribute is not a method
    """

    def __init__(self, env: gym.Env[Any, Any], action_mask_fn: str | Callable[[gym.Env[Any, Any]], Any]):
        super().__init__(env)
        self._action_mask_fn = action_mask_fn
        self._takes_env = True
        if not isinstance(action_mask_fn, str):
            return
        method = env.get_wrapper_attr(action_mask_fn)
        if not callable(method):
            raise ValueError(
                f"Environment attribute {action_mask_fn} is not a method but {method!r}. Pass the name of a "
                "method that returns the mask, or a function of the environment."
            )
        self._takes_env = _needs_argument(method)

    def action_masks(self) -> np.ndarray:
        """:return: the mask of the present state, one boolean per choice"""
        function = self._action_mask_fn
        if isinstance(function, str):
            # Looked up each time: a copy of the wrapper asks its own environment.
            function = self.env.get_wrapper_attr(function)
        masks: np.ndarray = function(self.env) if self._takes_env else function()  # type: ignore[call-arg]
        return masks


def _needs_argument(method: Callable[..., Any]) -> bool:
    try:
        inspect.signature(method).bind()
    except TypeError:
        return True
    return False
