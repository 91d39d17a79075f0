"""A second MLX stream on the CPU, for independent networks.

MLX computes on one thread per stream. Two critics on the same batch are independent until their losses are
added: on two streams they keep two cores busy.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import mlx.core as mx

from mlx_baselines3._backend import threads_count
from mlx_baselines3.common.nn.threads import with_fork

__all__ = ["parallel_stream"]


@cache
def _second() -> Any:
    # One per Python thread: MLX's streams cannot be shared between threads.
    return mx.new_thread_local_stream(mx.Device(mx.cpu))


# The thread behind the parent's stream is not copied by a fork.
with_fork(renew=_second.cache_clear)


def parallel_stream(index: int) -> AbstractContextManager[Any]:
    """
    Context for the computations of independent networks 0, 1, 2, …: every other one uses the second stream,
    if MLX computes on the CPU, there is more than one core, and ``MLX_BASELINES3_THREADS`` is not 1. The
    results are the same.

    :param index: number of the network
    :return: the context
    """
    parallel = (
        index % 2 == 1
        and mx.default_device().type == mx.cpu
        and hasattr(mx, "new_thread_local_stream")
        and threads_count() > 1
    )
    return mx.stream(_second()) if parallel else nullcontext()
