"""What is known of one activation after some images: exact, and the same in whatever order it was learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemim.quantize.statistics.histogram import BINS, Counts, Doubles, Floats, bin_of, count_magnitudes, lower_edges

# Relative width of a bin that holds one value only, for those who divide by it.
_POINT = 1e-6


class NotFinite(ValueError):  # noqa: N818  (a fact about the values; the caller knows whose they are)
    """Values that hold a NaN or an infinity."""


@dataclass(kw_only=True, eq=False)
class Observed:
    """Grows by `add` and `merge`, which commute.

    Attributes:
        elements: How many values were seen.
        maximum: The largest |x|, exact; 0 before the first value.
        negative: Whether any value was below zero.
        counts: int64 [BINS] of magnitudes, see `edgemim.quantize.statistics.histogram`; None where only the
            maximum was asked for.
        channel_axis: Axis of the channels; None where they are not told apart.
        channel_maximum: float32 [C], the largest |x| of each channel; None before the first value, and without
            an axis.
    """

    elements: int = 0
    maximum: float = 0.0
    negative: bool = False
    counts: Counts | None
    channel_axis: int | None = None
    channel_maximum: Floats | None = None

    @classmethod
    def empty(cls, *, histogram: bool = True, channel_axis: int | None = None) -> Observed:
        """Nothing seen yet."""
        counts = np.zeros(BINS, dtype=np.int64) if histogram else None
        return cls(counts=counts, channel_axis=channel_axis)

    def add(self, values: Floats) -> None:
        """Learn of the values of one image, float32 of any shape with at least one element.

        Raises:
            NotFinite: There is a NaN or an infinity; nothing was learned.
        """
        largest, smallest, per_channel = _extremes(values, self.channel_axis)
        if not (np.isfinite(largest) and np.isfinite(smallest)):
            raise NotFinite
        negative = smallest < 0
        if self.counts is not None:
            # A zero may have its sign bit set, which says nothing of a value below zero but would miss its bin.
            found = count_magnitudes(values, negative=smallest <= 0)
            self.counts[: len(found)] += found
        self.elements += values.size
        self.maximum = max(self.maximum, largest, -smallest)
        self.negative = self.negative or negative
        self._widen(per_channel)

    def merge(self, other: Observed) -> None:
        """Learn what `other` has seen of the same tensor."""
        if self.counts is not None:
            assert other.counts is not None
            self.counts += other.counts
        self.elements += other.elements
        self.maximum = max(self.maximum, other.maximum)
        self.negative = self.negative or other.negative
        self._widen(other.channel_maximum)

    def share_above(self, threshold: float) -> float:
        """The share of the values whose magnitude is beyond `threshold`, in [0, 1].

        Exact where the threshold lies on the edge of a bin, and 0 from the maximum on; within a bin the values
        count as evenly spread.

        Raises:
            ValueError: The threshold is below the maximum, and there is no histogram.
        """
        if threshold >= self.maximum:
            return 0.0
        edges, counts = self.filled()
        upper, lower = edges[1:], edges[:-1]
        beyond = np.clip((upper - threshold) / (upper - lower), 0, 1)
        return float((counts * beyond).sum() / self.elements)

    def filled(self) -> tuple[Doubles, Counts]:
        """The histogram from the lowest filled bin to the maximum.

        Returns:
            Edges, float64 [n + 1] and rising, and counts, int64 [n]. The last edge is the maximum (where that is the
            lower edge of its bin: a millionth above) and belongs to the last bin. One edge and no count if nothing
            was seen but zeros.

        Raises:
            ValueError: There is no histogram.
        """
        if self.counts is None:
            raise ValueError("this tensor was observed without a histogram")
        if self.maximum == 0:
            return np.zeros(1), np.zeros(0, dtype=np.int64)
        last = int(bin_of(self.maximum))
        first = int(np.flatnonzero(self.counts)[0])
        edges = lower_edges(np.arange(first, last + 2))
        edges[-1] = max(self.maximum, edges[-2] * (1 + _POINT))
        return edges, self.counts[first : last + 1]

    def _widen(self, per_channel: Floats | None) -> None:
        if per_channel is None:
            return
        known = self.channel_maximum
        self.channel_maximum = per_channel if known is None else np.maximum(known, per_channel)


def _extremes(values: Floats, channel_axis: int | None) -> tuple[float, float, npt.NDArray[np.float32] | None]:
    """The largest value, the smallest, and the largest |x| of each channel."""
    if channel_axis is None:
        return float(values.max()), float(values.min()), None
    others = tuple(axis for axis in range(values.ndim) if axis != channel_axis % values.ndim)
    largest, smallest = values.max(axis=others), values.min(axis=others)
    return float(largest.max()), float(smallest.min()), np.maximum(largest, -smallest)
