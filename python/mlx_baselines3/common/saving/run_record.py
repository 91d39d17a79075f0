"""State of a run besides its model: random generators, environments, pending log values."""

from __future__ import annotations

import random
import time
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_baselines3.common._model import Model
from mlx_baselines3.common.distributions.state_dependent_noise import StateDependentNoiseDistribution
from mlx_baselines3.common.formats import slots as _slots
from mlx_baselines3.common.formats.archive import ModelFileError
from mlx_baselines3.common.formats.json_codec import Decoder, Encoder, Unencodable
from mlx_baselines3.common.formats.names import UnknownName
from mlx_baselines3.common.formats.spaces import check_generator_state
from mlx_baselines3.common.native.actor import native_actor_or_none
from mlx_baselines3.common.nn.interop import to_mlx, to_numpy
from mlx_baselines3.common.nn.threads import seeded_by_user

__all__ = ["RunRecord", "run_record"]

_MATRICES = ("exploration_mat", "exploration_matrices")


def _generators(model: Model) -> dict[str, Any]:
    key: Any = mx.random.state
    actor = native_actor_or_none(model.policy)
    # A native actor that is behind MLX's generator is seeded from it before its next draw.
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "mlx": to_numpy(key[0]).tolist(),
        "actor": list(actor.rng_state) if actor is not None and actor.is_seeded else None,
    }


def _action_space(model: Model, unsaved: list[str]) -> Any:
    """The space with the generator of random actions."""
    try:
        return Encoder().encode(model.action_space, "action_space")
    except Unencodable:
        unsaved.append("the random generator of the action space")
        return None


def _restore_generators(model: Model, state: dict[str, Any]) -> None:
    high, low = state["mlx"]
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    mx.random.seed(high << 32 | low)
    seeded_by_user()
    actor = native_actor_or_none(model.policy)
    if actor is not None and state["actor"] is not None:
        own, increment = state["actor"]
        actor.rng_state = own, increment
    elif actor is not None:
        actor.unseed()


def _checked_generators(state: Any) -> dict[str, Any]:
    """
    Check the states of all generators. Python and NumPy accept some states that crash or hang the process at
    the next draw.
    """
    version, words, gauss = state["python"]
    if version != 3 or type(words) is not tuple or not (gauss is None or type(gauss) is float):
        raise ModelFileError("checkpoint/run: generators.python is not a state of Python's generator.")
    key = {"key": np.array(words[:-1]), "pos": words[-1]}
    check_generator_state({"bit_generator": "MT19937", "state": key})
    numpy = state["numpy"]
    check_generator_state(numpy)
    if numpy["bit_generator"] != "MT19937" or numpy["has_gauss"] not in (0, 1):
        raise ModelFileError("checkpoint/run: generators.numpy is not a state of NumPy's global generator.")
    float(numpy["gauss"])
    for name, bits, length in (("mlx", 32, 2), ("actor", 128, 2)):
        numbers = state[name]
        if name == "actor" and numbers is None:
            continue
        fits = isinstance(numbers, list) and len(numbers) == length
        if not fits or not all(type(number) is int and 0 <= number < 2**bits for number in numbers):
            raise ModelFileError(f"checkpoint/run: generators.{name} is not {length} words of {bits} bits.")
    return {name: state[name] for name in ("python", "numpy", "mlx", "actor")}


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{value!r:.60} is not a count")
    return value


def _checked_row(name: str, row: Any) -> tuple[Any, int | None, tuple[str, ...]]:
    """A pending log value: the value, the number of averaged samples, and the excluded formats."""
    encoded, count, excluded = row
    value = Decoder().decode(encoded)
    try:
        _slots.check(value, f"logged.{name}")
    except UnknownName as error:
        raise ModelFileError(f"checkpoint/run: {error}.") from error
    if not isinstance(excluded, list) or not all(type(item) is str for item in excluded):
        raise TypeError(f"{excluded!r:.60} are not log formats")
    return value, None if count is None else _count(count), tuple(excluded)


def _noise_of(model: Model) -> tuple[Any, Any]:
    """The network with gSDE's exploration matrices, and its distribution."""
    owner = getattr(model, "actor", model.policy)
    distribution = getattr(owner, "action_dist", None)
    return owner, distribution if isinstance(distribution, StateDependentNoiseDistribution) else None


def _logged(model: Model, unsaved: list[str]) -> dict[str, Any]:
    """Values pending for the next log row."""
    logger = getattr(model, "_logger", None)
    rows: dict[str, Any] = {}
    if logger is None:
        return rows
    for name in list(logger.name_to_value):
        try:
            value = Encoder().encode(logger.name_to_value[name], name)
        except Unencodable:
            unsaved.append(f"the logged {name}")
            continue
        excluded = list(logger.name_to_excluded.get(name, ("",)))
        rows[name] = [value, logger.name_to_count.get(name), excluded]
    return rows


def run_record(model: Model, within_learn: bool, unsaved: list[str]) -> dict[str, Any]:
    """
    :param model: the algorithm
    :param within_learn: whether its ``learn`` is to be continued, or had finished
    :param unsaved: receives descriptions of what cannot be stored
    :return: JSON-ready, for :class:`RunRecord`
    """
    distribution = _noise_of(model)[1]
    matrices = {}
    if distribution is not None:
        matrices = {name: to_numpy(getattr(distribution, name)) for name in _MATRICES}
    return {
        "algorithm": type(model).__name__,
        "within_learn": within_learn,
        "elapsed": time.time_ns() - int(model.start_time),
        "at_start": model._num_timesteps_at_start,
        "generators": Encoder().encode(_generators(model), "generators"),
        "action_space": _action_space(model, unsaved),
        "matrices": Encoder().encode(matrices, "matrices"),
        "memory": Encoder().encode(model._memory(), "memory"),
        "logged": _logged(model, unsaved) if within_learn or model._custom_logger else {},
    }


class RunRecord:
    """
    An interrupted run, until ``learn`` continues it.

    :param record: the result of :func:`run_record`, after a round trip through JSON
    :raises ModelFileError: if it is corrupted
    """

    def __init__(self, record: dict[str, Any]) -> None:
        try:
            self.within_learn = bool(record["within_learn"])
            self._elapsed, self._at_start = (_count(record[name]) for name in ("elapsed", "at_start"))
            self._generators = _checked_generators(Decoder().decode(record["generators"]))
            self._action_space = record["action_space"]
            self._matrices = Decoder().decode(record["matrices"])
            self._memory = Decoder().decode(record.get("memory", {}))
            self._logged = {name: _checked_row(name, row) for name, row in record["logged"].items()}
            if not isinstance(self._matrices, dict) or not isinstance(self._memory, dict):
                raise TypeError("not a table of matrices")
        except ModelFileError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelFileError(f"the record of the run is corrupted ({error!r:.200}).") from error

    def restore_generators(self, model: Model) -> None:
        """
        Restore all random generators of this process, gSDE's exploration matrices and what policies remember.

        :param model: the algorithm
        :raises ModelFileError: if a state is corrupted
        """
        self._restore_matrices(model)
        self._restore_memory(model)
        try:
            if self._action_space is not None:
                space = Decoder().decode(self._action_space)
                _slots.check(space, "action_space")
                if space != model.action_space:
                    raise ValueError(f"{space} instead of {model.action_space}")
                model.action_space = space
            _restore_generators(model, self._generators)
        except ModelFileError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelFileError(f"the state of a random generator is corrupted ({error!r:.200}).") from error

    def _restore_matrices(self, model: Model) -> None:
        distribution = _noise_of(model)[1]
        if distribution is None:
            return
        for name in _MATRICES:
            matrix, own = self._matrices.get(name), getattr(distribution, name)
            fits = isinstance(matrix, np.ndarray) and matrix.dtype.kind == "f" and matrix.ndim == own.ndim
            if not fits or matrix.shape[-2:] != own.shape[-2:]:
                raise ModelFileError(f"{name} of the checkpoint does not fit the policy.")
            setattr(distribution, name, to_mlx(matrix))

    def _restore_memory(self, model: Model) -> None:
        own = model._memory()
        for name, array in own.items():
            stored = self._memory.get(name)
            fits = isinstance(stored, np.ndarray) and stored.dtype.kind == "f" and stored.shape == array.shape
            if not fits:
                raise ModelFileError(f"{name} of the checkpoint does not fit the policy.")
        if own:
            model._set_memory({name: self._memory[name] for name in own})

    def go_on(self, model: Model) -> None:
        """
        Restore the rest of the run; called at the end of the setup of ``learn``.

        :param model: the algorithm
        """
        if self.within_learn:
            model.start_time = time.time_ns() - self._elapsed
            model._num_timesteps_at_start = self._at_start
            _skip_next_draw(model)
        logger = model.logger
        for name, (value, count, excluded) in self._logged.items():
            logger.name_to_value[name] = value
            logger.name_to_excluded[name] = excluded
            if count is not None:
                logger.name_to_count[name] = count
        self.restore_generators(model)


def _skip_next_draw(model: Model) -> None:
    """
    A checkpoint within ``learn`` is taken after the exploration matrices of the next rollout are drawn, so
    the first draw is skipped.
    """
    owner, distribution = _noise_of(model)
    if distribution is None:
        return

    def keep(*_: Any, **__: Any) -> None:
        object.__delattr__(owner, "reset_noise")

    object.__setattr__(owner, "reset_noise", keep)
