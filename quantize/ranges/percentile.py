"""The magnitude below which a given share of the values lies.

Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    arXiv:2004.09602, section 3.2.1.
Differs: Read from a histogram whose bins are 2^-7 of their octave wide, with the values of a bin evenly spread. Where
    so many values are zero that the percentile is zero as well, it is the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemim.errors import ConfigError
from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import RangeEstimator
from edgemim.quantize.statistics.observed import Observed


@dataclass(frozen=True, kw_only=True)
class Percentile(RangeEstimator):
    """Cuts off a fixed share of the values.

    Args:
        share: Of the values that are kept, in percent, in (0, 100].
    """

    share: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.share <= 100:
            raise ConfigError(f"share must lie in (0, 100] percent; got {self.share}")

    def _estimate(self, observed: Observed, levels: int) -> float:
        edges, counts = observed.filled()
        below = np.concatenate([[0], np.cumsum(counts)])
        wanted = observed.elements * self.share / 100
        position = min(int(np.searchsorted(below, wanted)), len(counts)) - 1
        if edges[position] == 0:
            return observed.maximum
        inside = (wanted - below[position]) / counts[position]
        return float(edges[position] + inside * (edges[position + 1] - edges[position]))


RANGES.add("percentile", Percentile)
