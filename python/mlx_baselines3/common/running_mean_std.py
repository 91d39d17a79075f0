"""Running mean and variance."""

import numpy as np


class RunningMeanStd:
    """
    Running mean and variance of a stream of batches.

    Two sets of statistics are merged as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979
    (https://en.wikipedia.org/wiki/Algorithms_for_calculating_variance#Parallel_algorithm).

    :param epsilon: weight of the initial statistics (mean 0, variance 1), in samples
    :param shape: shape of one sample
    """

    def __init__(self, epsilon: float = 1e-4, shape: tuple[int, ...] = ()) -> None:
        self.mean = np.zeros(shape, np.float64)
        self.var = np.ones(shape, np.float64)
        self.count: float = epsilon

    def copy(self) -> "RunningMeanStd":
        """
        :return: an independent copy of the statistics
        """
        other = RunningMeanStd(shape=self.mean.shape)
        other.mean = self.mean.copy()
        other.var = self.var.copy()
        other.count = float(self.count)
        return other

    def combine(self, other: "RunningMeanStd") -> None:
        """
        Merge other statistics into these.

        :param other: statistics of samples of the same shape; not changed
        """
        self.update_from_moments(other.mean, other.var, other.count)

    def update(self, arr: np.ndarray) -> None:
        """
        Add a batch of samples.

        :param arr: samples ``(batch, *shape)``
        """
        # NumPy sums float32 rows sequentially: bit-identical to SB3 for the usual numbers of environments.
        # For thousands of rows, use sums that do not lose the last digits.
        wide = np.float64 if len(arr) > 1024 else None
        mean, var = (np.asarray(moment(arr, axis=0, dtype=wide)) for moment in (np.mean, np.var))
        self.update_from_moments(mean, var, arr.shape[0])

    def update_from_moments(self, batch_mean: np.ndarray, batch_var: np.ndarray, batch_count: float) -> None:
        """
        Add a batch given by its statistics.

        :param batch_mean: mean of the batch, ``shape``
        :param batch_var: variance of the batch (divided by its size), ``shape``
        :param batch_count: number of samples in the batch
        """
        delta = batch_mean - self.mean
        total = self.count + batch_count
        # SB3's order of operations, for bit-identical statistics.
        sum_of_squares = (
            self.var * self.count
            + batch_var * batch_count
            + np.square(delta) * self.count * batch_count / total
        )
        self.mean = self.mean + delta * batch_count / total
        self.var = sum_of_squares / total
        self.count = batch_count + self.count
