"""Counts of magnitudes in bins that need no range: the upper 15 bits of |x| as float32.

Bin `b` holds every x with `|x|.view(uint32) >> 16 == b`: the 8 bits of the exponent and the upper 7 of the mantissa,
so a bin is 2^-7 of its octave wide and nothing has to be known of the values beforehand. Counts are integers: they
add up to the same bits in every order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BINS = 1 << 15
_MAGNITUDE = np.uint16(BINS - 1)


def count_magnitudes(values: Floats, *, negative: bool) -> npt.NDArray[np.intp]:
    """Count finite float32 values of any shape by the bin of their magnitude.

    Args:
        values: What to count.
        negative: Whether some are below zero (or -0.0); False saves a pass.

    Returns:
        int [n]: the counts of bins 0 to n - 1, where n is one more than the highest bin that is filled.
    """
    # The upper halves are the odd ones: NumPy and ONNX Runtime run on little-endian machines only.
    upper = np.ascontiguousarray(values).reshape(-1).view(np.uint16)[1::2]
    return np.bincount(upper & _MAGNITUDE if negative else upper)


def bin_of(magnitudes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The bin of each magnitude >= 0, once rounded to float32."""
    patterns = np.asarray(magnitudes, dtype=np.float32).view(np.uint32)
    return np.asarray(patterns >> np.uint32(16), dtype=np.int64)


def lower_edges(bins: npt.NDArray[np.integer[Any]]) -> Doubles:
    """The smallest magnitude of each bin; that of the next bin is where it ends."""
    patterns = np.asarray(bins, dtype=np.uint32) << np.uint32(16)
    return np.asarray(patterns.view(np.float32), dtype=np.float64)
