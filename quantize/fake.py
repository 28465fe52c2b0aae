"""What INT8 makes of numbers, in numpy: the roundings that `edgemim.quantize.insert` writes into a graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgemim.quantize.insert import INT8_LEVELS, UINT8_LEVELS, store_weight

Floats = npt.NDArray[np.float32]


def fake_activation(values: Floats, threshold: float, levels: int) -> Floats:
    """Values rounded to one scale for all, threshold / levels; a threshold of 0 stands for any."""
    scale = np.float32((threshold or 1.0) / levels)
    lowest = 0 if levels == UINT8_LEVELS else -INT8_LEVELS - 1
    steps: Floats = np.rint(values / scale)
    np.clip(steps, lowest, levels, out=steps)
    steps *= scale
    return steps


def fake_weight(weight: Floats, axis: int) -> Floats:
    """Weights rounded to one scale for each channel along `axis`."""
    stored, steps = store_weight(weight, axis)
    spread = [1] * weight.ndim
    spread[axis] = -1
    found: Floats = stored * steps.reshape(spread)
    return found
