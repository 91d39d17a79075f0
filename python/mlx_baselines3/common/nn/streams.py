"""A second stream of MLX on the CPU, for networks that do not wait for each other.

MLX computes on one thread for each stream. Two critics on the same batch have nothing to say to each other
until their losses are added: on two streams they keep two cores busy.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import mlx.core as mx

from mlx_baselines3._backend import threads_count
from mlx_baselines3.common.nn.threads import with_fork

__all__ = ["beside"]


@cache
def _second() -> Any:
    # Each Python thread gets its own of it: MLX's streams cannot be shared between threads.
    return mx.new_thread_local_stream(mx.Device(mx.cpu))


# The thread behind the parent's stream is not copied by a fork.
with_fork(renew=_second.cache_clear)


def beside(turn: int) -> AbstractContextManager[Any]:
    """
    For the computations of the networks 0, 1, 2, … that may run at the same time: every other one goes to a
    stream of its own, where the CPU computes, there is more than one core, and ``MLX_BASELINES3_THREADS``
    does not say 1. The numbers that come out are the same.

    :param turn: number of the network
    :return: a context in which to compute
    """
    parallel = (
        turn % 2 == 1
        and mx.default_device().type == mx.cpu
        and hasattr(mx, "new_thread_local_stream")
        and threads_count() > 1
    )
    return mx.stream(_second()) if parallel else nullcontext()
