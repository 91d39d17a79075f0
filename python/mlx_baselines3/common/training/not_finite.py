"""An update that gave nan or infinite numbers is thrown away; the error says where they were."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from mlx_baselines3.common.nn.packed_optimizer import Arrays

__all__ = ["check_finite", "sum_of_arrays"]


def sum_of_arrays(arrays: Arrays) -> mx.array:
    """
    :param arrays: name -> array
    :return: their sum, a scalar: nan or infinite if one number is
    """
    sums = [array.sum() for array in arrays.values()]
    return sum(sums[1:], sums[0]) if sums else mx.array(0.0)


def check_finite(metrics: Mapping[str, np.ndarray], wrong: Mapping[str, tuple[list[str], int]]) -> None:
    """
    To be called before the outcome of an update is put into the networks.

    :param metrics: name -> (minibatches,) numbers that have to be finite
    :param wrong: name of a network whose parameters have no finite sum -> names of those that are nan or
        infinite (none, if they are only so large that their sum is), and the number of all its parameters
    :raises FloatingPointError: if a metric is nan or infinite, or a network is wrong
    """
    seen = []
    for name, values in metrics.items():
        if (rows := np.flatnonzero(~np.isfinite(values))).size:
            seen.append(f"the {name} of minibatch {rows[0]} (of {values.size}) was {values[rows[0]]}")
    for network, (names, count) in wrong.items():
        if names:
            seen.append(f"{len(names)} of {count} parameters of {network}, first {names[0]}")
        else:
            seen.append(f"the parameters of {network} are so large that their sum is infinite")
    if seen:
        raise FloatingPointError(
            f"The update gave numbers that are nan or infinite: {'; '.join(seen)}. Nothing was changed: "
            "networks and optimizers are as they were before. Wrap the environments in "
            "VecCheckNan(env, raise_exception=True) to see whether they come from there; if not, try a "
            "smaller learning rate."
        )
