"""The contract of a range estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edgemim.quantize.statistics.observed import Observed

# For a tensor of zeros, which any scale represents: the smallest power of two whose step is still a normal number
# in fp16 at 255 levels.
ZERO_THRESHOLD = 2.0**-6
# Below it, a step could leave the normal numbers of fp32.
_SMALLEST = 2.0**-110


class RangeEstimator(ABC):
    """Chooses a threshold T: magnitudes up to T are rounded to `levels` even steps, larger ones are cut to T.

    A subclass is a frozen dataclass whose fields are its settings.
    """

    def threshold(self, observed: Observed, *, levels: int) -> float:
        """Choose T, above 0; it follows from the arguments alone.

        Args:
            observed: At least one value of the tensor; with a histogram, unless the estimator needs the maximum
                alone.
            levels: Steps between 0 and T, above 0: 127 for int8, 255 for uint8 with zero point 0.

        Returns:
            T in the tensor's unit, at most its maximum; the scale is T / levels. `ZERO_THRESHOLD` if all values are
            zero, or too small for a step in fp32.

        Raises:
            ValueError: The tensor was observed without the histogram that is needed.
        """
        if observed.maximum < _SMALLEST:
            return ZERO_THRESHOLD
        return max(min(self._estimate(observed, levels), observed.maximum), _SMALLEST)

    @abstractmethod
    def _estimate(self, observed: Observed, levels: int) -> float:
        """T of a tensor whose maximum is above zero."""
