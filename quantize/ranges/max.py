"""The largest magnitude: nothing is cut off, and outliers make the steps coarse.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018, arXiv:1712.05877, section 3.1.
Differs: Symmetric around zero, and one maximum over all calibration images.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import RangeEstimator
from edgemim.quantize.statistics.observed import Observed


@dataclass(frozen=True, kw_only=True)
class Max(RangeEstimator):
    """Needs no histogram."""

    def _estimate(self, observed: Observed, levels: int) -> float:
        return observed.maximum


RANGES.add("max", Max)
