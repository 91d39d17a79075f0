"""What a run consists of besides its model: random generators, environments, what was logged so far."""

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
    twin = native_actor_or_none(model.policy)
    # A twin that is behind MLX's generator is seeded from it before it draws the next number.
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "mlx": to_numpy(key[0]).tolist(),
        "actor": list(twin.rng_state) if twin is not None and twin.is_seeded else None,
    }


def _action_space(model: Model, lost: list[str]) -> Any:
    """The space with its generator, which random actions are drawn from."""
    try:
        return Encoder().encode(model.action_space, "action_space")
    except Unencodable:
        lost.append("the random generator of the action space")
        return None


def _restore_generators(model: Model, state: dict[str, Any]) -> None:
    high, low = state["mlx"]
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    mx.random.seed(high << 32 | low)
    seeded_by_user()
    twin = native_actor_or_none(model.policy)
    if twin is not None and state["actor"] is not None:
        own, increment = state["actor"]
        twin.rng_state = own, increment
    elif twin is not None:
        twin.unseed()


def _checked_generators(state: Any) -> dict[str, Any]:
    """
    Hold the states of all generators against what they can be. Those of Python and NumPy are set as they are,
    and some that are taken end the process, or never end, at the next draw.
    """
    version, words, gauss = state["python"]
    if version != 3 or type(words) is not tuple or not (gauss is None or type(gauss) is float):
        raise ModelFileError("checkpoint/run: generators.python is no state of Python's generator.")
    key = {"key": np.array(words[:-1]), "pos": words[-1]}
    check_generator_state({"bit_generator": "MT19937", "state": key})
    numpy = state["numpy"]
    check_generator_state(numpy)
    if numpy["bit_generator"] != "MT19937" or numpy["has_gauss"] not in (0, 1):
        raise ModelFileError("checkpoint/run: generators.numpy is no state of NumPy's global generator.")
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
        raise ValueError(f"{value!r:.60} is no count")
    return value


def _checked_row(name: str, row: Any) -> tuple[Any, int | None, tuple[str, ...]]:
    """What waits for the next row of the log: a value, how often it was averaged, and who does not get it."""
    encoded, count, excluded = row
    value = Decoder().decode(encoded)
    try:
        _slots.check(value, f"logged.{name}")
    except UnknownName as error:
        raise ModelFileError(f"checkpoint/run: {error}.") from error
    if not isinstance(excluded, list) or not all(type(item) is str for item in excluded):
        raise TypeError(f"{excluded!r:.60} are no formats of a log")
    return value, None if count is None else _count(count), tuple(excluded)


def _noise_of(model: Model) -> tuple[Any, Any]:
    """The network whose exploration matrices are drawn (gSDE), and their distribution."""
    owner = getattr(model, "actor", model.policy)
    distribution = getattr(owner, "action_dist", None)
    return owner, distribution if isinstance(distribution, StateDependentNoiseDistribution) else None


def _logged(model: Model, lost: list[str]) -> dict[str, Any]:
    """What is waiting for the next row of the log."""
    logger = getattr(model, "_logger", None)
    rows: dict[str, Any] = {}
    if logger is None:
        return rows
    for name in list(logger.name_to_value):
        try:
            value = Encoder().encode(logger.name_to_value[name], name)
        except Unencodable:
            lost.append(f"the logged {name}")
            continue
        excluded = list(logger.name_to_excluded.get(name, ("",)))
        rows[name] = [value, logger.name_to_count.get(name), excluded]
    return rows


def run_record(model: Model, within_learn: bool, lost: list[str]) -> dict[str, Any]:
    """
    :param model: the algorithm
    :param within_learn: whether its ``learn`` is to be gone on with, or was finished
    :param lost: receives what cannot be expressed, in words
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
        "action_space": _action_space(model, lost),
        "matrices": Encoder().encode(matrices, "matrices"),
        "logged": _logged(model, lost) if within_learn or model._custom_logger else {},
    }


class RunRecord:
    """
    A run that was interrupted, until ``learn`` goes on with it.

    :param record: what :func:`run_record` gave, after a trip through JSON
    :raises ModelFileError: if it is damaged
    """

    def __init__(self, record: dict[str, Any]) -> None:
        try:
            self.within_learn = bool(record["within_learn"])
            self._elapsed, self._at_start = (_count(record[name]) for name in ("elapsed", "at_start"))
            self._generators = _checked_generators(Decoder().decode(record["generators"]))
            self._action_space = record["action_space"]
            self._matrices = Decoder().decode(record["matrices"])
            self._logged = {name: _checked_row(name, row) for name, row in record["logged"].items()}
            if not isinstance(self._matrices, dict):
                raise TypeError("no table of matrices")
        except ModelFileError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelFileError(f"the record of the run is damaged ({error!r:.200}).") from error

    def restore_generators(self, model: Model) -> None:
        """
        Let all generators of this process go on where the run's were, gSDE's exploration matrices included.

        :param model: the algorithm
        :raises ModelFileError: if a state is damaged
        """
        self._restore_matrices(model)
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
            raise ModelFileError(f"the state of a random generator is damaged ({error!r:.200}).") from error

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

    def go_on(self, model: Model) -> None:
        """
        Called when ``learn`` has set everything up.

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
    A checkpoint inside ``learn`` is taken when the exploration matrices of the next rollout are drawn
    already, so the first draw after it is left out.
    """
    owner, distribution = _noise_of(model)
    if distribution is None:
        return

    def keep(*_: Any, **__: Any) -> None:
        object.__delattr__(owner, "reset_noise")

    object.__setattr__(owner, "reset_noise", keep)
