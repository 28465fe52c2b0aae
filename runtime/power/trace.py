"""From readings at uneven times to the power in given windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Window = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Readings of several rails.

    Attributes:
        seconds: When, [S], growing.
        values: Watts, or joules so far, [S, R].
        counts: Whether they are joules so far.
        longest_gap_s: Two readings further apart than this leave a hole between them.
    """

    seconds: Floats
    values: Floats
    counts: bool
    longest_gap_s: float

    def mean_watts(self, windows: Sequence[Window]) -> Floats:
        """Mean power of every rail, [R], over what is covered of the windows; nan if nothing is.

        Power runs straight from one reading to the next; a counter's energy is spread evenly between two readings.
        """
        energies = np.concatenate([np.zeros((1, self.values.shape[1])), np.cumsum(self._joules(), axis=0)])
        covered = self.coverage(windows) * duration(windows)
        joules = np.array([sum(self._between(column, window) for window in windows) for column in energies.T])
        return joules / covered if covered > 0 else np.full(len(joules), np.nan)

    def peak_watts(self, windows: Sequence[Window]) -> Floats:
        """Largest power of every rail inside the windows, [R]; nan where two readings of a counter are not in one."""
        inside = np.array([(start <= self.seconds) & (self.seconds <= end) for start, end in windows])
        if not self.counts:
            return np.asarray(self.values[inside.any(axis=0)].max(axis=0))
        both = (inside[:, 1:] & inside[:, :-1]).any(axis=0)
        watts = np.diff(self.values, axis=0) / np.diff(self.seconds)[:, None]
        return np.asarray(watts[both].max(axis=0)) if both.any() else np.full(self.values.shape[1], np.nan)

    def readings(self, windows: Sequence[Window]) -> int:
        """How many readings fell into the windows."""
        return sum(int(((start <= self.seconds) & (self.seconds <= end)).sum()) for start, end in windows)

    def coverage(self, windows: Sequence[Window]) -> float:
        """Share of the windows' time that lies between two readings without a hole, 0 to 1."""
        covered = np.concatenate([[0.0], np.cumsum(np.where(self._whole(), np.diff(self.seconds), 0.0))])
        return sum(self._between(covered, window) for window in windows) / duration(windows)

    def _whole(self) -> npt.NDArray[np.bool_]:
        """Which steps from one reading to the next are no holes, [S - 1]."""
        return np.asarray(np.diff(self.seconds) <= self.longest_gap_s)

    def _joules(self) -> Floats:
        """Energy of every rail in every step that is no hole, [S - 1, R]."""
        if self.counts:
            joules = np.diff(self.values, axis=0)
        else:
            joules = (self.values[1:] + self.values[:-1]) / 2 * np.diff(self.seconds)[:, None]
        return np.where(self._whole()[:, None], joules, 0.0)

    def _between(self, column: Floats, window: Window) -> float:
        start, end = np.interp(window, self.seconds, column)
        return float(end - start)


def duration(windows: Sequence[Window]) -> float:
    """Seconds in all windows together."""
    return sum(end - start for start, end in windows)
