"""Is a ratio of latencies different from 1, by runs that took turns: a block bootstrap.

Statistic: each round gives the log of a ratio, of the median times of its two turns; the estimate is the mean of the
middle half of them (interquartile mean). The noise of a shared machine is level shifts that last for many runs, which
cancel within a round, and spikes that hit one turn, which the outer quarters take up. On recorded runs of one model
against itself it spread less than the mean of the logs and the ratio of the overall medians did; the median of the
logs did as well where it was noisy, and is less precise where it is calm.

Blocks: rounds of one opening of the engines have that opening in common, so openings are drawn, with all their
rounds; and neighbouring ones together, in circular blocks, where the rounds remain correlated for longer than one.

Interval: percentiles of the resampled estimates, no nearer than a normal distribution of their deviation has them,
since estimates drawn from a handful of blocks have no tails; widened by what few blocks make too narrow.

Source: Politis and Romano, "A circular block-resampling procedure for stationary data", 1992 (circular blocks);
    Politis and White, "Automatic block-length selection for the dependent bootstrap", Econometric Reviews 23 (2004),
    with the correction of Patton, Politis and White, 28 (2009) (length of a block);
    Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015),
    arXiv:1411.5279, section 3.2 (expanded percentile interval).
Differs: the interval is stretched about the estimate by Hesterberg's factor in place of taking further percentiles,
    for which more resamples would be needed.

Looks: who measures on while the answer is `unclear` looks again, and may be wrong each time; `level` holds for one
look. With k looks a false `slower` has a probability of at most k (1 - level) / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.student import student_quantile

LEVEL = 0.999
# A difference that nobody needs to know of.
MARGIN = 1.01
RESAMPLES = 20_000
_TRIMMED = 0.25
_SEED = 0
_BINS = 128
# Politis and White's: how far beyond chance an autocorrelation is, and for how many lags in a row it must not be.
_SIGNIFICANT, _LEAST_LAGS = 2.0, 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RatioInterval:
    """How many times as long one takes as the other.

    Attributes:
        ratio, low, high: Estimate and interval.
        level: Of the interval.
        n: Rounds.
        block: Rounds of a block, on average.
        blocks: How many blocks there were to draw from.
    """

    ratio: float
    low: float
    high: float
    level: float
    n: int
    block: float
    blocks: float

    @property
    def difference(self) -> str:
        """`slower` or `faster` beyond the margin, `none` within it, or `unclear`."""
        if self.low > MARGIN:
            return "slower"
        if self.high < 1 / MARGIN:
            return "faster"
        return "none" if self.low >= 1 / MARGIN and self.high <= MARGIN else "unclear"


def ratio_interval(
    ours: Floats, theirs: Floats, openings: npt.NDArray[Any], *, level: float = LEVEL, resamples: int = RESAMPLES
) -> RatioInterval:
    """How many times as long `ours` takes as `theirs`.

    Args:
        ours, theirs: Median time of each round, in order, [n] each and in any unit.
        openings: The opening of each round, [n], not falling; two or more different ones.
        level: Of the interval, 0 to 1.
        resamples: How many; the outermost (1 - level) / 2 of them on either side bound the interval.
    """
    logs = np.log(ours) - np.log(theirs)
    _, positions = np.unique(openings, return_inverse=True)
    count = int(positions[-1]) + 1
    assert count > 1, "one opening shows nothing of how openings differ"
    together = min(math.ceil(block_length(logs) * count / len(logs)), max(1, count // 4))
    bins = _Bins(logs, positions, count)
    estimate = float(bins.middle_means(np.ones((1, count)))[0])
    drawn = _resampled(bins, count, together, resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    least = NormalDist().inv_cdf(1 - tail) * float(drawn.std())
    blocks = count / together
    factor = stretch(blocks, tail)
    return RatioInterval(
        ratio=math.exp(estimate),
        low=math.exp(estimate - factor * max(estimate - float(low), least)),
        high=math.exp(estimate + factor * max(float(high) - estimate, least)),
        level=level,
        n=len(logs),
        block=len(logs) * together / count,
        blocks=blocks,
    )


def block_length(values: Floats) -> float:
    """Length of the blocks that suits how long values remain correlated, at least 1."""
    n = len(values)
    centred = values - values.mean()
    variance = float(centred @ centred) / n
    if n < 2 * _LEAST_LAGS or variance == 0:
        return 1.0
    most = min(n // 2, math.ceil(math.sqrt(n)) + _LEAST_LAGS)
    covariances = np.array([float(centred[: n - k] @ centred[k:]) / n for k in range(most + 1)])
    lags = min(2 * _last_correlated(covariances / variance, n), most)
    k = np.arange(-lags, lags + 1)
    window = np.minimum(1.0, 2 * (1 - np.abs(k) / max(lags, 1))) if lags else np.ones(1)
    weighted = window * covariances[np.abs(k)]
    spectrum, curvature = float(weighted.sum()), float((np.abs(k) * weighted).sum())
    if spectrum <= 0:
        return 1.0
    length = (2 * curvature**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * n ** (1 / 3)
    return float(np.clip(length, 1.0, math.ceil(min(3 * math.sqrt(n), n / 3))))


def _last_correlated(correlations: Floats, n: int) -> int:
    """The lag after which none of the next few is beyond chance."""
    limit = _SIGNIFICANT * math.sqrt(math.log10(n) / n)
    run = max(_LEAST_LAGS, math.ceil(math.sqrt(math.log10(n))))
    beyond = np.abs(correlations[1:]) > limit
    for lag in range(len(beyond)):
        if not beyond[lag : lag + run].any():
            return lag
    return len(beyond)


def _resampled(bins: _Bins, count: int, together: int, resamples: int) -> Floats:
    """The estimates of draws, with replacement, of as many openings as there are."""
    rng = np.random.default_rng(_SEED)
    draws = math.ceil(count / together)
    first = rng.integers(0, count, (resamples, draws))
    drawn = ((first[..., None] + np.arange(together)) % count).reshape(resamples, -1)[:, :count]
    times = np.zeros((resamples, count))
    np.add.at(times, (np.arange(resamples)[:, None], drawn), 1.0)
    return bins.middle_means(times)


class _Bins:
    """Values by opening, in bins of neighbouring values: a draw of openings is then a sum of rows, whatever n is."""

    def __init__(self, values: Floats, positions: npt.NDArray[Any], count: int) -> None:
        """Sort `values` [n], of the openings 0 to count - 1 in `positions` [n], into bins of equally many."""
        order = np.argsort(values, kind="stable")
        size = min(_BINS, len(values))
        bins = np.arange(len(values)) * size // len(values)
        self._counts, self._sums = np.zeros((count, size)), np.zeros((count, size))
        np.add.at(self._counts, (positions[order], bins), 1.0)
        np.add.at(self._sums, (positions[order], bins), values[order])

    def middle_means(self, times: Floats) -> Floats:
        """Interquartile mean when opening j is taken times[i, j] times, for each row i."""
        counts, sums = times @ self._counts, times @ self._sums
        upto = np.cumsum(counts, axis=1)
        low, high = _TRIMMED * upto[:, -1:], (1 - _TRIMMED) * upto[:, -1:]
        kept = np.clip(upto, low, high) - np.clip(upto - counts, low, high)
        # Of a bin that is cut, as much of its sum as of its values.
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        found: Floats = (kept * means).sum(axis=1) / (high - low)[:, 0]
        return found


def stretch(blocks: float, tail: float) -> float:
    """By how much percentiles of few blocks are too narrow: Student's quantile over the normal one, and the n - 1.

    Args:
        blocks: How many, above 1.
        tail: Probability beyond the percentile, in (0, 0.5).
    """
    return math.sqrt(blocks / (blocks - 1)) * student_quantile(tail, blocks - 1) / NormalDist().inv_cdf(1 - tail)
