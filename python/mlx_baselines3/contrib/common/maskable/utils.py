"""Action masks: where environments offer them, and what they must look like."""

from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.type_aliases import GymEnv
from mlx_baselines3.common.vec_env import VecEnv, as_vec_env, is_vector_env
from mlx_baselines3.common.vec_env.native_vec_env import forbids_natively

__all__ = [
    "EXPECTED_METHOD_NAME",
    "MaskSource",
    "check_masks",
    "get_action_masks",
    "is_masking_supported",
    "mask_groups",
]

EXPECTED_METHOD_NAME = "action_masks"
# In the infos of resets and steps; the second is the name in Gymnasium's own environments.
_INFO_KEYS = ("action_masks", "action_mask")
_HOW = (
    "It needs a method `action_masks` (the wrapper ActionMasker adds one), an attribute of that name, or "
    "masks under the key `action_masks` or `action_mask` in the infos of resets and steps."
)


def mask_groups(action_space: spaces.Space[Any]) -> list[int]:
    """
    The numbers of choices of the components of an action. A mask has one entry for each choice, component
    after component: first that for 0, then that for 1, and so on.

    :param action_space: Discrete, MultiDiscrete with one axis, or MultiBinary with one axis
    :return: ``[n]``, ``nvec``, or a 2 for each bit
    :raises AssertionError: the action has several axes
    :raises ValueError: the space is of another kind
    """
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete):
        assert action_space.nvec.ndim == 1, f"{action_space} has more than one dimension: flatten it."
        return [int(n) for n in action_space.nvec]
    if isinstance(action_space, spaces.MultiBinary):
        assert isinstance(action_space.n, int), (
            f"Multi-dimensional MultiBinary({action_space.n}) action space is not supported. "
            "You can flatten it instead."
        )
        return [2] * action_space.n
    raise ValueError(
        f"Unsupported action space {action_space} ({type(action_space).__name__}): masks are for Discrete, "
        "MultiDiscrete and MultiBinary."
    )


def check_masks(masks: Any, groups: list[int], n_rows: int) -> np.ndarray:
    """
    Check masks before they are used: of a mask that allows nothing, or has its entries in other places,
    nobody would notice that the probabilities mean nothing.

    :param masks: for each row one entry per choice, in any shape: True or not 0 where it is allowed. One
        mask may be given for a single row without the axis of rows
    :param groups: numbers of choices, as :func:`mask_groups` gives them
    :param n_rows: number of rows
    :return: (``n_rows``, sum of the groups) booleans
    :raises ValueError: other numbers than 0 and 1, another size, or a component without an allowed choice;
        the message has the row and the component
    """
    array, width = np.asarray(masks), sum(groups)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"The action masks have dtype {array.dtype}, expected booleans: {masks!r}")
    is_fitting = array.size == n_rows * width and (
        array.ndim < 2 or len(array) == n_rows or (n_rows == 1 and array.ndim <= 1)
    )
    if not is_fitting:
        raise ValueError(
            f"The action masks have shape {array.shape}, expected ({n_rows}, {width}): for each of {n_rows} "
            f"observation(s) one entry per choice, component after component, of {groups} choices."
        )
    array = array.reshape(n_rows, width)
    if array.dtype != bool:
        if (strange := np.argwhere((array != 0) & (array != 1))).size:
            row, column = strange[0]
            raise ValueError(
                f"The action mask of row {row} has {array[row, column]} for choice {column}, expected True "
                "(1) for choices that are allowed and False (0) for others."
            )
        array = array != 0
    starts = np.cumsum([0, *groups[:-1]])
    allowed = np.logical_or.reduceat(array, starts, axis=1)
    if not allowed.all():
        row, group = np.argwhere(~allowed)[0]
        component = f" for component {group} of the action" if len(groups) > 1 else ""
        raise ValueError(
            f"The action mask of row {row} (of {n_rows}) allows no choice{component}: all {groups[group]} "
            "entries are False. In a state without a choice let the mask allow an action that does nothing, "
            "or end the episode there."
        )
    return array


def get_action_masks(env: GymEnv) -> np.ndarray:
    """
    Ask an environment which actions are allowed now.

    :param env: an environment or a vectorised one. Masks that are in the infos of steps alone are those of
        the last reset: see :class:`MaskSource`
    :return: the mask, or (n_envs, ...) one for each environment
    :raises AttributeError: the environment offers none
    """
    if is_vector_env(env):
        env = as_vec_env(env)
    if isinstance(env, VecEnv):
        return MaskSource(env).masks()
    masks = env.get_wrapper_attr(EXPECTED_METHOD_NAME)
    found: np.ndarray = masks() if callable(masks) else masks
    return found


def is_masking_supported(env: GymEnv) -> bool:
    """
    Whether an environment offers action masks: by a method or an attribute ``action_masks``, or, if it is a
    vectorised one that has been reset, in the infos of that reset.

    :param env: an environment or a vectorised one
    :return: True if it does
    """
    if is_vector_env(env):
        env = as_vec_env(env)
    if isinstance(env, VecEnv):
        return MaskSource(env).kind is not None
    try:
        env.get_wrapper_attr(EXPECTED_METHOD_NAME)
    except AttributeError:
        return False
    return True


class MaskSource:
    """
    Where a vectorised environment has its action masks. In this order: a method of its environments, an
    attribute of them, a method or an attribute of the vectorised environment for all of them, the infos.

    :param env: the environments
    """

    def __init__(self, env: VecEnv):
        self._env = env
        # Masks of the infos, one for each environment.
        self._seen: list[Any] | None = None
        # "method", "attribute", "whole", "infos", or None if there are no masks.
        self.kind = self._find_kind()

    def _find_kind(self) -> str | None:
        env = self._env
        if env.has_attr(EXPECTED_METHOD_NAME):
            try:
                env.env_method(EXPECTED_METHOD_NAME, indices=0)
            except Exception as error:
                if not self._is_attribute():
                    raise error
                return "attribute"
            return "method"
        if hasattr(env, EXPECTED_METHOD_NAME):
            return "whole"
        self._seen = [_mask_in(info) for info in env.unwrapped.reset_infos]
        return "infos" if all(mask is not None for mask in self._seen) else None

    def _is_attribute(self) -> bool:
        try:
            (value,) = self._env.get_attr(EXPECTED_METHOD_NAME, indices=0)
        except Exception:
            # A method that cannot be sent by another process.
            return False
        return not callable(value)

    @property
    def is_native(self) -> bool:
        """:return: whether the environments are stepped in Rust, which knows what they allow"""
        return self.kind == "method" and forbids_natively(self._env)

    def masks(self) -> np.ndarray:
        """
        :return: (n_envs, ...) what is allowed now
        :raises AttributeError: the environments offer no masks
        """
        env = self._env
        if self.kind is None:
            raise AttributeError(f"The environments offer no action masks: {env}. {_HOW}")
        if self.kind == "infos":
            assert self._seen is not None
            return np.stack(self._seen)
        if self.kind == "method":
            return np.stack(env.env_method(EXPECTED_METHOD_NAME))
        if self.kind == "attribute":
            return np.stack(env.get_attr(EXPECTED_METHOD_NAME))
        whole = getattr(env, EXPECTED_METHOD_NAME)
        return np.asarray(whole() if callable(whole) else whole)

    def follow(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        To be called after each step: take the masks out of its infos, if they are there.

        :param dones: (n_envs,) whether episodes have ended; the masks of the next ones are in ``reset_infos``
        :param infos: one for each environment
        :raises KeyError: an info has no mask
        """
        if self.kind != "infos":
            return
        assert self._seen is not None
        for i, done in enumerate(dones):
            info = (
                self._env.unwrapped.reset_infos[i] if done and "autoreset_step" not in infos[i] else infos[i]
            )
            if (mask := _mask_in(info)) is None:
                raise KeyError(
                    f"The info of environment {i} has no action mask, unlike that of its reset: {info}. "
                    "Put the mask under the same key into the info of each reset and each step."
                )
            self._seen[i] = mask

    @property
    def seen(self) -> np.ndarray | None:
        """:return: the masks that came with the last infos, for :meth:`go_on`; None if they are elsewhere"""
        return np.stack(self._seen) if self.kind == "infos" and self._seen else None

    def go_on(self, masks: np.ndarray) -> None:
        """
        Continue a run in the middle of its episodes.

        :param masks: those that :attr:`seen` gave, which the infos of the last reset do not have
        """
        self.kind, self._seen = "infos", list(masks)


def _mask_in(info: dict[str, Any]) -> Any:
    return next((info[key] for key in _INFO_KEYS if key in info), None)


def no_masks(env: Any) -> ValueError:
    """
    :param env: an environment without masks
    :return: the error that says so
    """
    return ValueError(
        "Environment does not support action masking. Consider using ActionMasker wrapper. "
        f"{_HOW} The environment is {env}; pass use_masking=False to allow every action."
    )
