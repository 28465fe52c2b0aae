"""The estimate of a percentile that MLPerf's single-stream scenario reports: pessimistic, and more so the fewer runs.

Of n runs, let t be the largest number such that at most t of them above the true percentile would be seen with a
probability of at most 1 %. Then the t-th largest run is, with 99 % confidence, not below that percentile.

That holds for runs that are independent of each other. Those of a machine are not: a clock that falls, or a neighbour
who comes, slows many in a row, and then the confidence is less than 99 %, by an unknown amount.

Source: MLPerf LoadGen, early stopping (mlcommons/inference, loadgen/early_stopping.cc and results.cc), tolerance 0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_DOUBT = 0.01


def early_stopping_estimate(values: npt.NDArray[np.int64], p: float = 90) -> float | None:
    """The t-th largest of the values, in their unit; None if they are too few for any (64 at p 90, 662 at p 99).

    Args:
        values: Latencies of all timed runs, [n].
        p: The percentile, in (0, 100).
    """
    discarded = runs_to_discard(len(values), p)
    if discarded is None:
        return None
    place = len(values) - 1 - discarded
    return float(np.partition(values, place)[place])


def runs_to_discard(n: int, p: float = 90) -> int | None:
    """How many of the slowest of n runs the estimate passes over, t - 1; None if there is no t of at least 1.

    Args:
        n: Number of runs.
        p: The percentile, in (0, 100).
    """
    above = (100 - p) / 100
    # The sought t lies below the mean: no need to look further.
    k = np.arange(1, int(n * above) + 1)
    # log of Binomial(k; n, above) from that of k - 1: nothing overflows, however large n is.
    steps = np.log((n - k + 1) / k) + np.log(above / (1 - above))
    logs = n * np.log1p(-above) + np.concatenate([[0.0], np.cumsum(steps)])
    t = int(np.searchsorted(np.cumsum(np.exp(logs)), _DOUBT, side="right")) - 1
    return t - 1 if t >= 1 else None
