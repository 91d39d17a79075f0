"""
Which attributes of a model a file may set, and their allowed values.

Allowed are the attributes of a newly created model of the class, and additional ones that are data and do not
shadow anything of the class. Values given by the user (``custom_objects``, pickles opened by consent) are not
checked here.
"""

import collections
import contextlib
import pathlib
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.model_data import Attributes
from mlx_baselines3.common.formats.names import is_class

__all__ = ["DoesNotFit", "MissingEntry", "check_fields", "check_last_observations", "honoured", "reading"]

# Attributes set by `_setup_model`, or missing in a model without environment.
_MADE_LATER = {"observation_space", "action_space", "n_envs", "exploration_schedule", "lr_schedule"}
_BOUND = 2**63
# Errors that classes raise for unsuitable arguments.
_UNFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class MissingEntry(ModelFileError, KeyError):
    """A file without an entry that a model needs. SB3 raises a bare KeyError."""

    __str__ = Exception.__str__


class DoesNotFit(ModelFileError, RuntimeError):
    """Arrays that do not match the network described by the file. SB3 raises a bare RuntimeError."""


class NotAsserted(ModelFileError, AssertionError):
    """Arguments rejected by an assertion of a class, as in SB3's classes."""


@contextlib.contextmanager
def reading(label: str, what: str) -> Iterator[None]:
    """
    Report errors that a class raises for arguments from a file as errors of the file.

    :param label: name of the file in error messages
    :param what: description of the object being created
    :return: a context manager
    :raises ModelFileError: instead of what the class raises
    """
    try:
        yield
    except ModelFileError as error:
        if label in str(error):
            raise
        raise type(error)(f"{label}: {what}: {error}") from error
    except AssertionError as error:
        raise NotAsserted(f"{label}: {error}") from error
    except RuntimeError as error:
        raise DoesNotFit(f"{label}: {what}: {error}") from error
    except MemoryError as error:
        raise ModelFileError(
            f"{label}: {what}: {error} If you trust the file, give smaller sizes by custom_objects, "
            "for instance {'buffer_size': 1}."
        ) from error
    except _UNFIT as error:
        raise ModelFileError(f"{label}: {what} cannot be made: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ValueError) and str(error) else repr(error)[:300]


# Additional attribute of 0.1.0's files: why the last rollout was not native, which is recomputed.
_OF_OLD_FILES = {"_why_not_native"}


def honoured(fresh: Any, data: Attributes) -> Attributes:
    """
    Remove attributes that no file may set.

    :param fresh: a model of the class, not set up
    :param data: the attributes in the file
    :return: the allowed ones; a warning names the others
    :raises ModelFileError: if one would replace a method, or has an impossible name
    """
    machinery = {*fresh._excluded_save_params(), "policy", "device"}
    kept, left_out = {}, []
    for name, value in data.items():
        if name in data.trusted:
            kept[name] = value
        elif name in _OF_OLD_FILES:
            continue
        elif name in machinery and not (_is_flag(value) and _is_flag(vars(fresh).get(name))):
            # Flags are harmless; `include` writes them to a file.
            left_out.append(name)
        elif _is_taken(fresh, name, value):
            kept[name] = value
    if left_out:
        said = ", ".join(f"`{name}`" for name in left_out)
        warnings.warn(
            f"Not taken from the file, because a model creates or is given them: {said}. Pass environments "
            "as `env`, other values by custom_objects.",
            stacklevel=4,
        )
    return Attributes(kept, data.trusted)


def _is_taken(fresh: Any, name: str, value: Any) -> bool:
    if not name.isidentifier() or name.startswith("__"):
        raise ModelFileError(f"data: {name!r:.80} is not a name of an attribute.")
    if name in vars(fresh) or name in _MADE_LATER:
        return True
    owner = next((kind for kind in type(fresh).__mro__ if name in vars(kind)), None)
    if owner is None:
        return True
    member = vars(owner)[name]
    method = callable(member) or isinstance(member, (classmethod, staticmethod))
    if isinstance(member, property) or (_is_ours(owner) and not method):
        # SB3 stores a few attributes that are computed here; earlier versions stored what is a default now.
        return False
    if method or hasattr(type(member), "__get__"):
        raise ModelFileError(
            f"data: `{name}` is a part of the class {owner.__name__}, which no file replaces."
        )
    return True


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "mlx_baselines3"


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and abs(int(value)) < _BOUND


def _is_number(value: Any) -> bool:
    if isinstance(value, (int, np.integer)):
        return abs(int(value)) < _BOUND
    return isinstance(value, (float, np.floating, np.bool_))


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1))


def _is_positive(value: Any) -> bool:
    return _is_integer(value) and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, pathlib.PurePath))


def _is_seed(value: Any) -> bool:
    return _is_integer(value) and 0 <= value < 2**32


def _is_kwargs(value: Any) -> bool:
    return isinstance(value, dict) and all(type(key) is str for key in value)


def _is_schedule(value: Any) -> bool:
    return (_is_number(value) and not _is_flag(value)) or (callable(value) and not is_class(value))


def _is_observation(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(part, np.ndarray) and part.dtype.kind in "biuf" for part in parts)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _is_infos(value: Any) -> bool:
    # ARS has a list of the episodes of its last update.
    return isinstance(value, (collections.deque, list)) and all(_is_episode(info) for info in value)


def _is_episode(info: Any) -> bool:
    # The environment's table; a wrapper may have added arrays of one number.
    return isinstance(info, dict) and all(type(key) is str for key in info)


def _is_successes(value: Any) -> bool:
    return isinstance(value, collections.deque) and all(
        _is_number(item) or (_is_array(item) and item.size == 1) for item in value
    )


def _is_space(value: Any) -> bool:
    return isinstance(value, spaces.Space)


def _is_frequency(value: Any) -> bool:
    if not isinstance(value, (tuple, list)):
        return _is_integer(value)
    return len(value) == 2 and _is_integer(value[0])


def _is_noise(value: Any) -> bool:
    return callable(value) and hasattr(value, "reset")


_Test = Callable[[Any], bool]
# Description and test; values in the first table may also be None.
_OPTIONAL: dict[str, tuple[tuple[str, ...], _Test]] = {
    "an integer from 0 to 2**32 - 1": (("seed",), _is_seed),
    "a path": (("tensorboard_log",), _is_path),
    "a number": (("target_kl", "max_grad_norm"), _is_number),
    "a class": (("replay_buffer_class", "rollout_buffer_class"), is_class),
    "a number or a schedule": (("clip_range_vf", "lr_schedule"), _is_schedule),
    "an action noise": (("action_noise",), _is_noise),
    "arrays": (("_last_obs", "_last_original_obs"), _is_observation),
    "an array": (("_last_episode_starts",), _is_array),
    "a deque of episodes": (("ep_info_buffer",), _is_infos),
    "a deque of numbers": (("ep_success_buffer",), _is_successes),
}
_REQUIRED: dict[str, tuple[tuple[str, ...], _Test]] = {
    # Counts are only compared, and learn(1e6) makes some of them floats.
    "a count": (
        (
            *("verbose", "sde_sample_freq", "num_timesteps", "_total_timesteps", "_num_timesteps_at_start"),
            *("_episode_num", "_n_updates", "_n_calls", "learning_starts", "gradient_steps"),
            "target_update_interval",
        ),
        _is_number,
    ),
    "a positive integer": (
        (
            *("n_envs", "n_steps", "batch_size", "n_epochs", "buffer_size", "policy_delay"),
            "_stats_window_size",
        ),
        _is_positive,
    ),
    "a number": (
        (
            *("gamma", "gae_lambda", "vf_coef", "tau", "exploration_rate", "start_time"),
            *("exploration_initial_eps", "exploration_final_eps", "exploration_fraction"),
            *("target_policy_noise", "target_noise_clip", "_current_progress_remaining"),
        ),
        _is_number,
    ),
    "a number or a text": (
        ("ent_coef", "target_entropy"),
        lambda value: _is_number(value) or _is_text(value) or (_is_array(value) and value.size == 1),
    ),
    "true or false": (
        ("use_sde", "use_sde_at_warmup", "optimize_memory_usage", "normalize_advantage"),
        _is_flag,
    ),
    "a table of arguments": (("policy_kwargs", "rollout_buffer_kwargs", "replay_buffer_kwargs"), _is_kwargs),
    "a number or a schedule": (("learning_rate", "clip_range", "exploration_schedule"), _is_schedule),
    "a space": (("observation_space", "action_space"), _is_space),
    "a number of steps or episodes": (("train_freq",), _is_frequency),
}
_TESTS: dict[str, tuple[str, bool, _Test]] = {
    name: (words, optional, test)
    for optional, table in ((True, _OPTIONAL), (False, _REQUIRED))
    for words, (names, test) in table.items()
    for name in names
}


def check_fields(data: Attributes, given: Collection[str] = ()) -> None:
    """
    Check the kinds of all known attributes before any of them is used.

    :param data: attributes
    :param given: names of attributes given by the user
    :raises ModelFileError: naming the first invalid one
    """
    for name, value in data.items():
        words, optional, test = _TESTS.get(name, ("", True, lambda _: True))
        if name in given or name in data.trusted or (optional and value is None) or test(value):
            continue
        expected = f"{words} or None" if optional else words
        raise ModelFileError(f"data: `{name}` is {value!r:.80}, expected {expected}.")


def check_last_observations(data: Attributes, label: str) -> None:
    """
    Check the last observations of a run against the space and the number of environments.

    :param data: attributes that passed :func:`check_fields`
    :param label: name of the file in error messages
    :raises ModelFileError: if they do not match
    """
    space, n_envs = data.get("observation_space"), data.get("n_envs")
    for name in ("_last_obs", "_last_original_obs"):
        observations = data.get(name)
        if observations is None or not isinstance(space, spaces.Space):
            continue
        parts = observations if isinstance(observations, dict) else {"": observations}
        for key, part in parts.items():
            if part.ndim == 0 or (n_envs is not None and len(part) != n_envs):
                raise ModelFileError(f"{label}: data: `{name}` {key} is not of {n_envs} environments.")
