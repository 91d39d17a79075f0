"""Where a program's kernel (program.cu) finds what: the fields of its tasks, settings, and what it gives."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from importlib.resources import files

import numpy as np

__all__ = [
    "ACTIVATIONS",
    "BLOCKS_AT_ONCE",
    "CONTROL_SIZE",
    "HEADS",
    "METRIC_COLUMNS",
    "MOST_CHOICES",
    "MOST_NARROW",
    "MOST_TASKS",
    "PORTION",
    "STOP",
    "THREADS",
    "Outcome",
    "Space",
    "control_of",
    "kernel_source",
    "task",
]

_WIDTH, MOST_TASKS = 40, 96
# Fields in front of those of the kind: kind, whether a phase ends with the task, side of a product's tiles.
_COMMON = ("KIND", "LAST", "TILE")
METRIC_COLUMNS = 6
# What the kernel writes to the host's memory: a flag for each network that is not finite, the number of steps
# done, whether the last of them stopped the update; then the metrics of each step.
_OUTCOME = {"NONFINITE": 0, "DONE": 8, "STOPPED": 9, "METRICS": 16}
# Numbers in front of the steps' flags, or of the order of the rows.
CONTROL_SIZE = 64
_OPTIMIZER = ("RATE", "BETA1", "BETA2", "EPS", "CORRECTS", "STEPS", "MAX_NORM", "TAU")
_FIRST_OPTIMIZER = 8
_CONTROL = {
    "CLIP": 0, "CLIP_VALUES": 1, "ENTROPY_WEIGHT": 2, "VALUE_WEIGHT": 3, "TARGET_KL": 4, "NORMALIZES": 5,
    "ENTROPY_COEFFICIENT": 6, "TARGET_ENTROPY": 7,
}  # fmt: skip
# Numbers and rows that a block takes at a time.
PORTION, THREADS = 1024, 256
# Units of a layer that a thread computes for a row by itself.
MOST_NARROW = 4
# Blocks that have to be on a multiprocessor at the same time, at most.
BLOCKS_AT_ONCE = 3
# Place in the scratch memory where a step says that it was the last.
STOP = 0
ACTIVATIONS = {"identity": 0, "tanh": 1, "relu": 2}
HEADS = {"categorical": 0, "gaussian": 1}
# Choices of a multi-categorical distribution.
MOST_CHOICES = 7
# Space, place, what a step adds to it, numbers from row to row.
_MATRIX = 4
# Kind of task -> its fields, each with its size. Kinds that share fields have the same ones.
_SUM = {
    "SUM_FROM": 1, "SUM_PARTS": 1, "SUM_STRIDE": 1, "SUM_SIZE": 1, "REDUCE_TO": 1, "REDUCE_SQUARES": 1,
    "ADAM_P": 1, "ADAM_M": 1, "ADAM_V": 1, "ADAM_CONTROL": 1, "ADAM_SQUARES": 1, "ADAM_SQUARE_COUNT": 1,
    "ADAM_TARGET": 1, "ADAM_STOP": 1, "ADAM_NETWORK": 1,
}  # fmt: skip
_COPY = {
    "COPY_X": _MATRIX, "COPY_Y": _MATRIX, "COPY_COLUMNS": 1, "COPY_ORDER": 1, "COPY_STEPS": 1, "COPY_ENVS": 1,
    "SCALARS_X": 4, "SCALARS_Y": 1, "SCALARS_SUMS": 1,
}  # fmt: skip
_SQUASH = {
    "SQUASH_OUT": _MATRIX, "SQUASH_NOISE": _MATRIX, "SQUASH_ACTIONS": _MATRIX, "SQUASH_BY_OUT": _MATRIX,
    "SQUASH_SIZE": 1, "SQUASH_LOG_PROB": 1, "SQUASH_ENTROPY": 1, "SQUASH_CRITICS": 1, "SQUASH_BY_ACTIONS": 1,
    "SQUASH_CRITIC_STRIDE": 1,
}  # fmt: skip
_CRITIC = {
    "CRITICS": 1, "CRITIC_Q": 1, "CRITIC_STRIDE": 1, "CRITIC_TARGET_Q": 1, "CRITIC_TARGET_STRIDE": 1,
    "CRITIC_BY_Q": 1, "CRITIC_BY_STRIDE": 1, "CRITIC_LOG_PROB": 1, "CRITIC_ENTROPY": 1, "CRITIC_PARTS": 1,
    "CRITIC_REWARDS": _MATRIX, "CRITIC_DONES": _MATRIX, "CRITIC_DISCOUNTS": _MATRIX,
}  # fmt: skip
_FORWARD = {
    "FORWARD_X": _MATRIX, "FORWARD_Y": _MATRIX, "FORWARD_WEIGHTS": 1, "FORWARD_BIAS": 1, "FORWARD_UNITS": 1,
    "FORWARD_INPUTS": 1, "FORWARD_ACTIVATION": 1,
}  # fmt: skip
_FIELDS: dict[str, dict[str, int]] = {
    "FORWARD": _FORWARD, "NARROW": _FORWARD,
    "BACKWARD": {
        "BACKWARD_DX": _MATRIX, "BACKWARD_DY": _MATRIX, "BACKWARD_H": _MATRIX, "BACKWARD_INPUTS": 1,
        "BACKWARD_ACTIVATION": 1, "BACKWARD_WEIGHTS_STRIDE": 1, "BACKWARD_PARTS": 1, "BACKWARD_PART": 18,
    },
    "WEIGHTS": {
        "WEIGHTS_DY": _MATRIX, "WEIGHTS_X": _MATRIX, "WEIGHTS_UNITS": 1, "WEIGHTS_INPUTS": 1,
        "WEIGHTS_OUT": 1, "WEIGHTS_BIAS": 1, "WEIGHTS_SPLITS": 1, "WEIGHTS_SPLIT_STRIDE": 1,
    },
    "REDUCE": _SUM, "ADAM": _SUM,
    "ZERO": {"ZERO_AT": 1, "ZERO_SIZE": 1},
    "COPY": _COPY, "GATHER": _COPY, "SCALARS": _COPY,
    "ON_POLICY": {
        "PPO_OUT": _MATRIX, "PPO_BY_OUT": _MATRIX, "PPO_VALUES": _MATRIX, "PPO_BY_VALUES": _MATRIX,
        "PPO_SCALARS": 1, "PPO_SUMS": 1, "PPO_ACTIONS": 1, "PPO_ACTION_COLUMNS": 1, "PPO_HEAD": 1,
        "PPO_HAS_RATIO": 1, "PPO_PARTS": 1, "PPO_LOG_STD": 1, "PPO_BY_LOG_STD": 1, "PPO_CHOICES": 1,
        "PPO_OPTIONS": MOST_CHOICES,
    },
    "FINISH_ON_POLICY": {"FINISH_PARTS": 1},
    "SQUASH": _SQUASH, "SQUASH_BACK": _SQUASH,
    "CRITIC_LOSS": _CRITIC, "ACTOR_LOSS": _CRITIC,
    "FINISH_SOFT": {"SOFT_CRITIC_PARTS": 1, "SOFT_ACTOR_PARTS": 1, "SOFT_ENTROPY": 1, "SOFT_BY_ENTROPY": 1},
}  # fmt: skip
_KINDS = {kind: number for number, kind in enumerate(_FIELDS)}


class Space(IntEnum):
    """
    Memory of the kernel: parameters with their moments, what it computes in between, what the host sent for
    the whole call, what it drew, and settings.
    """

    STATE = 0
    SCRATCH = 1
    DATA = 2
    EXTRA = 3
    CONTROL = 4


def _places(kind: str) -> dict[str, int]:
    places, at = {}, len(_COMMON)
    for name, size in _FIELDS[kind].items():
        places[name] = at
        at += size
    assert at <= _WIDTH, f"{kind} has {at} numbers"
    return places


_PLACES = {kind: _places(kind) for kind in _FIELDS}


def task(kind: str, tile: int = 0, **fields: int | Sequence[int]) -> list[int]:
    """
    :param kind: what to do
    :param tile: side of a product's tiles, 32 or 64
    :param fields: its fields; those left out are 0
    :return: the task as the kernel reads it
    """
    numbers = [0] * _WIDTH
    numbers[0], numbers[2] = _KINDS[kind], tile
    for name, value in fields.items():
        at, values = _PLACES[kind][name], [value] if isinstance(value, int) else [*value]
        assert len(values) <= _FIELDS[kind][name], f"{kind} takes {_FIELDS[kind][name]} numbers as {name}"
        numbers[at : at + len(values)] = map(int, values)
    return numbers


def ends_phase(numbers: list[int]) -> None:
    """
    :param numbers: a task, the last of its phase from now on
    """
    numbers[1] = 1


def optimizer_at(network: int) -> int:
    """
    :param network: its number
    :return: where the settings of its optimizer begin
    """
    return _FIRST_OPTIMIZER + network * len(_OPTIMIZER)


def control_of(settings: Mapping[str, float], optimizers: Sequence[Mapping[str, float]]) -> np.ndarray:
    """
    :param settings: name -> number, of the losses
    :param optimizers: for each network name -> number
    :return: (CONTROL_SIZE,) float32
    """
    control = np.zeros(CONTROL_SIZE, np.float32)
    for name, value in settings.items():
        control[_CONTROL[name]] = value
    for network, numbers in enumerate(optimizers):
        for name, value in numbers.items():
            control[optimizer_at(network) + _OPTIMIZER.index(name)] = value
    return control


class Outcome:
    """
    What a launch left in the host's memory.

    :param numbers: float32
    """

    def __init__(self, numbers: np.ndarray):
        self._numbers = numbers

    @staticmethod
    def size(steps: int) -> int:
        """
        :param steps: of a launch
        :return: numbers that it may write
        """
        return _OUTCOME["METRICS"] + steps * METRIC_COLUMNS

    @property
    def done(self) -> int:
        """:return: steps whose metrics are there"""
        return int(self._numbers[_OUTCOME["DONE"]])

    @property
    def has_stopped(self) -> bool:
        """:return: whether the last of them ended the update, and changed nothing"""
        return bool(self._numbers[_OUTCOME["STOPPED"]])

    def is_finite(self, network: int) -> bool:
        """
        :param network: its number
        :return: whether all its parameters are
        """
        return not self._numbers[_OUTCOME["NONFINITE"] + network]

    def metrics(self) -> np.ndarray:
        """:return: (steps, METRIC_COLUMNS) float64"""
        first = _OUTCOME["METRICS"]
        rows = self._numbers[first : first + self.done * METRIC_COLUMNS]
        return rows.reshape(-1, METRIC_COLUMNS).astype(np.float64)


def kernel_source(head: str) -> str:
    """
    :param head: what differs between compilers: ``SHARED``, ``PAUSE``
    :return: the kernel in CUDA C++
    """
    numbers: dict[str, int] = {name: i for i, name in enumerate(_COMMON)}
    numbers |= {"WIDTH": _WIDTH, "MOST_TASKS": MOST_TASKS, "METRIC_COLUMNS": METRIC_COLUMNS, "STOP": STOP}
    numbers |= {"FLAGS": CONTROL_SIZE, "PORTION": PORTION, "THREADS": THREADS}
    numbers |= {"MOST_NARROW": MOST_NARROW, "BLOCKS_AT_ONCE": BLOCKS_AT_ONCE}
    numbers |= _OUTCOME | _CONTROL | _KINDS
    numbers |= {f"OPT_{name}": i for i, name in enumerate(_OPTIMIZER)}
    numbers |= {space.name: space.value for space in Space}
    numbers |= {name.upper(): i for names in (ACTIVATIONS, HEADS) for name, i in names.items()}
    for places in _PLACES.values():
        numbers |= places
    defines = "".join(f"#define {name} {value}\n" for name, value in numbers.items())
    return head + defines + (files("mlx_baselines3.common.cuda") / "program.cu").read_text(encoding="utf-8")
