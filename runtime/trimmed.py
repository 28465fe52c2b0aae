"""The trimmed mean of a few values and its interval, which one or two outliers do not move and more values narrow.

Source: Tukey and McLaughlin, "Less vulnerable confidence and significance procedures for location based on a single
    sample: trimming/Winsorization 1", Sankhya A 25 (1963); Yuen, "The two-sample trimmed t for unequal population
    variances", Biometrika 61 (1974), for the standard error
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemim.runtime.student import student_quantile

TRIMMED = 0.2


@dataclass(frozen=True, kw_only=True)
class TrimmedMean:
    """Mean of what is left when the lowest and the highest fifth are cut off.

    Attributes:
        low, high: Ends of its interval; None of a single value, which has none.
    """

    mean: float
    low: float | None
    high: float | None


def trimmed_mean(values: npt.NDArray[np.float64], *, level: float) -> TrimmedMean:
    """The mean of values [n], n >= 1, without the floor(n / 5) lowest and as many highest, and its interval.

    Args:
        values: Independent of each other.
        level: Confidence of the interval, in (0, 1).
    """
    n = len(values)
    cut = int(TRIMMED * n)
    kept = n - 2 * cut
    ordered = np.sort(values)
    mean = float(ordered[cut : n - cut].mean())
    if kept < 2:
        return TrimmedMean(mean=mean, low=None, high=None)
    # What is cut off counts as much as the outermost that is kept.
    variance = float(np.clip(ordered, ordered[cut], ordered[n - cut - 1]).var(ddof=1))
    error = math.sqrt((n - 1) * variance / (kept * (kept - 1)))
    half = student_quantile((1 - level) / 2, kept - 1) * error
    return TrimmedMean(mean=mean, low=mean - half, high=mean + half)
