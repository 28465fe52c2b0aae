"""How well one tensor of a model agrees with the same tensor of another, over several images.

The signal-to-noise ratio is 10 log10(|reference|^2 / |found - reference|^2), in dB: 6 dB more is half the error.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.accuracy.cosine import cosines

# Stands for "no difference at all", since JSON has no infinity.
EQUAL_DB = 300.0

# A gain and an offset per channel fit two values whatever they are, and explain half of the noise of four.
_LEAST_SAMPLES = 4

_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What is known of one tensor after all images.

    Attributes:
        snr_db: Signal-to-noise ratio over all images, from -300 to 300; None if a value is not finite, as below.
        aligned_db: The same after the best gain and offset per channel: what a channel was multiplied with, and
            divided by again later, is no error. None where there are too few values to tell.
        relative_error: |found - reference| / |reference|, Euclidean.
        cosine, cosine_worst: Mean and smallest over the images.
        max_abs: Largest difference.
        largest: Largest magnitude in the reference.
        finite: Whether every value was finite.
    """

    snr_db: float | None
    aligned_db: float | None
    relative_error: float | None
    cosine: float | None
    cosine_worst: float | None
    max_abs: float | None
    largest: float | None
    finite: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Comparison:
    """Sums over images; nothing of an image's size is kept."""

    def __init__(self) -> None:
        self._finite = True
        self._signal = self._noise = self._max_abs = self._largest = 0.0
        self._cosines: list[float] = []
        self._samples = 0
        self._channels: _Doubles | None = None

    def add(self, reference: npt.NDArray[Any], found: npt.NDArray[Any]) -> None:
        """One image: two float arrays of the same shape, of any float type."""
        ours, theirs = found.astype(np.float64), reference.astype(np.float64)
        self._finite &= bool(np.isfinite(ours).all() and np.isfinite(theirs).all())
        if not self._finite:
            return
        difference = ours - theirs
        self._signal += float(np.vdot(theirs, theirs))
        self._noise += float(np.vdot(difference, difference))
        self._max_abs = max(self._max_abs, float(np.abs(difference).max(initial=0.0)))
        self._largest = max(self._largest, float(np.abs(theirs).max(initial=0.0)))
        rows = (array.reshape(1, -1).astype(np.float32) for array in (found, reference))
        self._cosines.append(float(cosines(*rows)[0]))
        sums = _channel_sums(theirs, ours)
        self._channels = sums if self._channels is None else self._channels + sums
        self._samples += theirs.size // sums.shape[1]

    def result(self) -> Agreement:
        """What the images added so far say; there must be one."""
        if not self._finite:
            nothing = dict.fromkeys(("snr_db", "aligned_db", "relative_error", "cosine", "cosine_worst"))
            return Agreement(**nothing, max_abs=None, largest=None, finite=False)
        snr = _decibels(self._signal, self._noise)
        left = self._noise_after_fit()
        return Agreement(
            snr_db=snr,
            aligned_db=None if left is None else max(snr, _decibels(self._signal, left)),
            relative_error=10 ** (-snr / 20) if self._noise else 0.0,
            cosine=float(np.mean(self._cosines)),
            cosine_worst=min(self._cosines),
            max_abs=self._max_abs,
            largest=self._largest,
            finite=True,
        )

    def _noise_after_fit(self) -> float | None:
        """The noise that a least-squares line per channel, found = gain * reference + offset, leaves, over the gain.

        A channel without any such line keeps the noise it has.
        """
        if self._channels is None or self._samples < _LEAST_SAMPLES:
            return None
        a, b, aa, bb, ab = self._channels
        n = self._samples
        variance, spread, covariance = aa - a * a / n, bb - b * b / n, ab - a * b / n
        fits = (variance > 0) & (covariance != 0)
        gain = np.divide(covariance, variance, out=np.ones_like(a), where=fits)
        left = np.divide(spread - gain * covariance, gain**2, out=aa - 2 * ab + bb, where=fits)
        return float(np.maximum(left, 0).sum())


def _channel_sums(reference: _Doubles, found: _Doubles) -> _Doubles:
    """Sums of a, b, a^2, b^2 and a b by channel, [5, C], of the reference a and the other b."""
    axis = _channel_axis(reference.shape)
    a, b = (np.moveaxis(array, axis, -1).reshape(-1, reference.shape[axis]) for array in (reference, found))
    return np.stack([a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)])


def _channel_axis(shape: tuple[int, ...]) -> int:
    """The last axis, but the second one of a map [B, C, H, W]; maps are square more often than not."""
    return 1 if len(shape) == 4 and shape[1] != shape[2] else len(shape) - 1


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return EQUAL_DB
    if signal == 0:
        return -EQUAL_DB
    return max(-EQUAL_DB, min(EQUAL_DB, 10 * math.log10(signal / noise)))
