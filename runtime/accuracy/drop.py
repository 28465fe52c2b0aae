"""How far the drop in top-1 is uncertain because other images would have given another one.

A drop is a mean over images of +1 (only the reference was right), -1 (only the candidate was) and 0, so that drawing
the pairs anew with replacement is drawing three counts from a multinomial distribution: a bootstrap of 50,000 images
takes milliseconds.

Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7, 1979; Bonett and Price,
    "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data", Journal of
    Educational and Behavioral Statistics 37, 2012, for the two pairs that are added.
Differs: One pair of either kind is added before drawing. Without them, no flip in 20 images would make an interval of
    width 0, as though there could never be one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A drop that matters: half a point of top-1.
TOLD_APART = 0.005
_DRAWS = 20_000
_LEVEL = 95.0
_SEED = 20250


@dataclass(frozen=True, kw_only=True)
class DropInterval:
    """Where the drop lies with 95 % confidence, as shares of the images."""

    low: float
    high: float

    @property
    def resolution(self) -> float:
        """Half the width: a smaller drop cannot be told from none."""
        return (self.high - self.low) / 2

    @property
    def enough(self) -> bool:
        """Whether these images can tell a drop of half a point from none."""
        return self.resolution <= TOLD_APART


def drop_interval(to_wrong: int, to_right: int, n: int) -> DropInterval:
    """The interval of (to_wrong - to_right) / n; the same counts always give the same.

    Args:
        to_wrong, to_right: Images that only the reference, or only the candidate, gets right.
        n: All images, at least 1.
    """
    shares = np.array([to_wrong + 1, to_right + 1, n - to_wrong - to_right], dtype=np.float64) / (n + 2)
    drawn = np.random.default_rng(_SEED).multinomial(n, shares, size=_DRAWS)
    drops = (drawn[:, 0] - drawn[:, 1]) / n
    low, high = np.percentile(drops, [50 - _LEVEL / 2, 50 + _LEVEL / 2])
    return DropInterval(low=float(low), high=float(high))
