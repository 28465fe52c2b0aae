"""The threshold whose quantized distribution loses the least information (Kullback-Leibler divergence).

Source: Migacz, "8-bit Inference with TensorRT", GPU Technology Conference 2017, pages 31 to 38.
Differs: The linear histogram is resampled from one whose bins are 2^-7 of their octave wide, so a sparse tail looks
    smooth where its bins are wider than the linear ones. Exact zeros, which every scale represents, do not count.
    Thresholds are tried in steps of a sixteenth of the smallest one, not bin by bin. The threshold is the upper end of
    the last bin, not half a bin above it. One whose last bin is empty while values lie beyond it has no finite
    divergence and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import RangeEstimator
from edgemim.quantize.statistics.histogram import Counts, Doubles
from edgemim.quantize.statistics.observed import Observed

# Linear bins per quantized value (2048 for the 128 of int8, as in the source); steps up to the smallest threshold.
_BINS_PER_VALUE = 16
_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class Entropy(RangeEstimator):
    """Compares what is kept, with everything beyond it in its last bin, with itself after quantization."""

    def _estimate(self, observed: Observed, levels: int) -> float:
        groups = levels + 1
        bins = groups * _BINS_PER_VALUE
        histogram = resample(*observed.filled(), bins)
        kept = np.append(np.arange(groups, bins, max(groups // _STEPS, 1)), bins)
        best = kept[np.argmin(divergences(histogram, kept, groups))]
        return float(observed.maximum * best / bins)


def resample(edges: Doubles, counts: Counts, bins: int) -> Doubles:
    """Counts in `bins` equal bins from 0 to the last edge, without exact zeros; float64, they need not be whole."""
    counts = np.where(edges[:-1] == 0, 0, counts)
    below = np.concatenate([[0], np.cumsum(counts)])
    return np.diff(np.interp(np.linspace(0, edges[-1], bins + 1), edges, below))


def divergences(histogram: Doubles, kept: Counts, groups: int) -> Doubles:
    """KL(P || Q) in nats when only the first bins are kept.

    P has the first `kept` bins, and all that lies beyond in the last of them. Q has the same bins in `groups` groups;
    the count of a group is spread evenly over those of its bins that are not empty.

    Args:
        histogram: float64 [bins], not all zero.
        kept: int [C], each from `groups` to the number of bins.
        groups: Number of quantized values.

    Returns:
        float64 [C]; infinite where Q is zero and P is not.
    """
    total = histogram.sum()
    up_to, filled, entropy = _running(histogram), _running(histogram > 0), _running(_x_log_x(histogram))
    last, inside = histogram[kept - 1], up_to[kept]
    beyond = total - inside
    bounds = kept[:, None] * np.arange(groups + 1) // groups
    group, members = np.diff(up_to[bounds]), np.diff(filled[bounds])
    # log of Q's value in each group, before Q is normalised; an empty group has no value and no weight.
    height = np.log(np.where(group > 0, group, 1) / np.maximum(members, 1))
    p_log_p = entropy[kept] - _x_log_x(last) + _x_log_x(last + beyond) - total * np.log(total)
    p_log_q = (group * height).sum(axis=1) + beyond * height[:, -1] - total * np.log(np.maximum(inside, 1e-300))
    return np.where((last == 0) & (beyond > 0), np.inf, (p_log_p - p_log_q) / total)


def _running(values: npt.NDArray[Any]) -> Doubles:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: Doubles) -> Doubles:
    return values * np.log(np.where(values > 0, values, 1))


RANGES.add("entropy", Entropy)
