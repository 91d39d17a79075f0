"""What two ways of running the same ``learn()`` are compared by."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mlx_baselines3.common.callbacks import BaseCallback
from mlx_baselines3.common.logger import JSONOutputFormat, Logger

TIMES = ("time/fps", "time/time_elapsed")


class Pages(Logger):
    """Keeps what is written, except for the time, in the order in which it was recorded."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.written: list[Any] = []

    def dump(self, step: int = 0) -> None:
        entry = [(key, value) for key, value in self.name_to_value.items() if key not in TIMES]
        self.written.append((step, entry))
        super().dump(step)


class Seen(BaseCallback):
    """Looks at the model whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def _on_step(self) -> bool:
        model: Any = self.model
        weights = [np.array(array).tolist() for array in model.policy.state_dict().values()]
        self.seen.append((self.num_timesteps, model._n_updates, weights))
        return True


def logs(kind: str, folder: str) -> Logger:
    """A user's logger, which sees the model at every entry, or one of this package's."""
    return Pages() if kind == "pages" else Logger(folder, [JSONOutputFormat(f"{folder}/log.json")])


def written(logger: Logger, folder: str) -> list[Any]:
    if isinstance(logger, Pages):
        return logger.written
    logger.close()
    with open(f"{folder}/log.json") as file:
        entries = [json.loads(line) for line in file]
    return [[item for item in entry.items() if item[0] not in TIMES] for entry in entries]


def assert_same(fused: Any, stepwise: Any) -> None:
    for key, value in fused[0].items():
        assert np.array_equal(value, stepwise[0][key]), key
    assert fused[0].keys() == stepwise[0].keys()
    assert fused[1:] == stepwise[1:]


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """Ctrl-C as at a terminal: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
