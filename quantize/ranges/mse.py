"""The threshold at which rounding and cutting off together make the smallest mean squared error.

Source: Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019,
    arXiv:1810.05723, section 3 (the error as the sum of clipping and rounding, minimised over the threshold).
Differs: No distribution is assumed: the error is the integral over the measured histogram, the values of a bin
    evenly spread, and rounding errors are integrated and not taken for uniform noise. The minimum is searched among
    the edges of the bins, from coarse to fine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import RangeEstimator
from edgemim.quantize.statistics.histogram import Counts, Doubles
from edgemim.quantize.statistics.observed import Observed

_COARSE = 48


@dataclass(frozen=True, kw_only=True)
class Mse(RangeEstimator):
    """Balances the error of many small values against that of a few large ones."""

    def _estimate(self, observed: Observed, levels: int) -> float:
        edges, counts = observed.filled()
        thresholds = edges[1:]
        first = _first_worth_trying(edges, counts, levels)
        coarse = np.unique(np.linspace(first, len(thresholds) - 1, _COARSE).round().astype(np.int64))
        best = int(np.argmin(squared_error(edges, counts, thresholds[coarse], levels)))
        low, high = coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)]
        fine = thresholds[low : high + 1]
        return float(fine[np.argmin(squared_error(edges, counts, fine, levels))])


def squared_error(edges: Doubles, counts: Counts, thresholds: Doubles, levels: int) -> Doubles:
    """Sum over all values of (x - quantized x)^2, for each threshold.

    Within a bin the values are evenly spread. In units of the step, the error integrates to
    `G(u) = n / 12 + (u - n)^3 / 3` from 0 to u, where n is the level that u is rounded or cut to.

    Args:
        edges: float64 [n + 1], rising.
        counts: [n].
        thresholds: float64 [T], above 0.
        levels: Steps up to the threshold.

    Returns:
        float64 [T].
    """
    density = counts / np.diff(edges)
    # What no threshold rounds to a level above 0 has the error x^2 at all of them: one number for all those bins.
    start = max(int(np.searchsorted(edges, thresholds.min() / levels / 2, side="right")) - 1, 0)
    always = (density[:start] * np.diff(edges[: start + 1] ** 3)).sum() / 3
    # The sum over bins of density x difference of G, gathered by edge.
    change = -np.diff(density[start:], prepend=0, append=0)
    steps = thresholds[:, None] / levels
    scaled = edges[start:] / steps
    level = np.minimum(np.floor(scaled + 0.5), levels)
    rest = scaled - level
    integral: npt.NDArray[np.float64] = level / 12 + rest * rest * rest / 3
    return np.asarray(always + (integral @ change) * steps[:, 0] ** 3)


def _first_worth_trying(edges: Doubles, counts: Counts, levels: int) -> int:
    """The lowest upper edge at which cutting off alone does not cost more than keeping everything."""
    below, above = edges[:-1], edges[1:]
    moments = (counts, counts * (below + above) / 2, counts * (below * below + below * above + above * above) / 3)
    # Number, sum and sum of squares of the values beyond each upper edge.
    number, total, squares = (np.cumsum(moment[::-1])[::-1] - moment for moment in moments)
    cut_off = squares - 2 * above * total + above * above * number
    keep_all = squared_error(edges, counts, edges[-1:], levels)[0]
    return int(np.argmax(cut_off <= keep_all))


RANGES.add("mse", Mse)
