"""Outputs on the golden inputs against those that the bundle carries: whether a candidate computes the model at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgemim.runtime.accuracy.cosine import Floats, cosines

FP32_TOLERANCE = 1e-3
# Cosines below these do not come from rounding: the engine computes something else.
LEAST_COSINE = {"fp16": 0.999, "bf16": 0.99, "int8": 0.9}
# The same file on two backends: INT8 rounds to the same steps, but for values that lie between two of them.
_LEAST_COSINE_SAME_FILE = LEAST_COSINE | {"int8": 0.98}


@dataclass(frozen=True, kw_only=True)
class GoldenMatch:
    """A candidate's outputs on the golden inputs against the fp32 outputs stored in the bundle.

    Attributes:
        max_abs: Largest difference; None if an output is not finite.
        cosine: Mean over the images; None as above.
        cosine_worst: Smallest over the images; None as above.
        reason: Why the candidate is disqualified, or None.
    """

    max_abs: float | None
    cosine: float | None
    cosine_worst: float | None
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self)


def compare_golden(outputs: Floats, golden: Floats, precision: str) -> GoldenMatch:
    """Compare outputs with the golden ones, [G, K] each, by the rule of the candidate's precision.

    fp32 may differ by `FP32_TOLERANCE` of the largest golden output (of 1 if that is larger), since another
    library sums in another order; lower precisions must keep the mean cosine of `LEAST_COSINE`.
    """
    return _compare(outputs, golden, precision, LEAST_COSINE, "the golden ones")


def compare_same_file(outputs: Floats, reference: Floats, precision: str) -> GoldenMatch:
    """Compare outputs with those of the reference backend running the same file, [G, K] each.

    As `compare_golden`, and stricter with INT8: what quantizing costs is in both.
    """
    return _compare(outputs, reference, precision, _LEAST_COSINE_SAME_FILE, "those of ONNX Runtime for the same file")


def _compare(outputs: Floats, expected: Floats, precision: str, least: Mapping[str, float], called: str) -> GoldenMatch:
    if outputs.shape != expected.shape:
        reason = f"its outputs have the shape {list(outputs.shape)}, {called} {list(expected.shape)}"
        return GoldenMatch(max_abs=None, cosine=None, cosine_worst=None, reason=reason)
    if not np.isfinite(outputs).all():
        reason = "its outputs on the golden inputs are not finite"
        return GoldenMatch(max_abs=None, cosine=None, cosine_worst=None, reason=reason)
    max_abs = float(np.abs(outputs - expected).max())
    similar = cosines(outputs, expected)
    cosine, worst = float(similar.mean()), float(similar.min())
    allowed = FP32_TOLERANCE * max(1.0, float(np.abs(expected).max()))
    trouble = None
    if precision == "fp32" and max_abs > allowed:
        trouble = f"its outputs differ from {called} by {max_abs:.3g}, fp32 may by {allowed:.3g}"
    elif precision != "fp32" and cosine < least[precision]:
        trouble = f"the cosine of its outputs with {called} is {cosine:.3f}, {precision} needs {least[precision]}"
    return GoldenMatch(max_abs=max_abs, cosine=cosine, cosine_worst=worst, reason=trouble)
