"""How much memory some work keeps."""

import gc
import tracemalloc

import mlx.core as mx


def growth(work, warm_up, count):
    """
    :param work: takes a number, and does as much
    :param warm_up: how much to do before the count begins
    :param count: how much to do then
    :return: bytes that MLX's arrays and Python's objects have grown by
    """
    work(warm_up)
    gc.collect()
    tracemalloc.start()
    before, traced = mx.get_active_memory(), tracemalloc.get_traced_memory()[0]
    work(count)
    gc.collect()
    arrays, objects = mx.get_active_memory() - before, tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    return arrays, objects
