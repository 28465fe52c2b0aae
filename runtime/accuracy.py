"""How right a candidate is: against labels, against fp32 on the same images, against the golden outputs.

A number that a bundle cannot give (top-1 without labels, agreement of an embedding) is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Answers = npt.NDArray[np.int64]

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


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A candidate's outputs on the evaluation images.

    Attributes:
        n: Images.
        top1: Share classified right, with its standard error `top1_se`; None without labels or classes.
        top1_drop: Reference's top-1 minus its own on the same images, with the standard error of that paired
            difference; None as above, or without a reference.
        agreement: Share of images given the same class as the reference.
        cosine, cosine_worst: Cosine with the reference's outputs, mean and smallest over the images.
        knn_agreement: Share of images that get the same answer from the gallery as with the reference; None without
            a gallery or a reference.
    """

    n: int
    top1: float | None
    top1_se: float | None
    top1_drop: float | None
    top1_drop_se: float | None
    agreement: float | None
    cosine: float | None
    cosine_worst: float | None
    knn_agreement: float | None

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


def measure_accuracy(
    outputs: Floats,
    *,
    labels: npt.NDArray[np.int64] | None,
    reference: Floats | None,
    classifies: bool,
    answers: Answers | None = None,
    reference_answers: Answers | None = None,
) -> Accuracy:
    """Accuracy of outputs [N, K], N >= 1, on labels [N] and against the reference's outputs [N, K].

    Args:
        labels: Class numbers, or None.
        reference: The fp32 outputs on the same images, or None.
        classifies: Whether the outputs are class scores.
        answers, reference_answers: What a gallery says of each image, [N], to the candidate and to the reference; see
            `edgemim.runtime.neighbours`.
    """
    predicted = outputs.argmax(axis=1)
    right = drop = agreement = None
    if classifies and labels is not None:
        right = (predicted == labels).astype(np.float64)
    if classifies and reference is not None:
        agreement = float((predicted == reference.argmax(axis=1)).mean())
    if right is not None and reference is not None:
        drop = (reference.argmax(axis=1) == labels) - right
    finite = np.isfinite(outputs).all()
    similar = cosines(outputs, reference) if reference is not None and finite else None
    return Accuracy(
        n=len(outputs),
        top1=_mean(right),
        top1_se=_standard_error(right),
        top1_drop=_mean(drop),
        top1_drop_se=_standard_error(drop),
        agreement=agreement,
        cosine=_mean(similar),
        cosine_worst=None if similar is None else float(similar.min()),
        knn_agreement=_share_equal(answers, reference_answers),
    )


def cosines(ours: Floats, theirs: Floats) -> npt.NDArray[np.float64]:
    """Cosine of each row with the same row of the other, [N, K] to [N]; of two zero rows it is 1."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    # One root of the product, so that equal rows give exactly 1.
    lengths = np.sqrt(np.einsum("nk,nk->n", a, a) * np.einsum("nk,nk->n", b, b))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    products = np.einsum("nk,nk->n", a, b)
    similar = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.where(both_zero, 1.0, np.clip(similar, -1.0, 1.0))


def _share_equal(ours: Answers | None, theirs: Answers | None) -> float | None:
    return None if ours is None or theirs is None else float((ours == theirs).mean())


def _mean(values: npt.NDArray[np.float64] | None) -> float | None:
    return None if values is None else float(values.mean())


def _standard_error(values: npt.NDArray[np.float64] | None) -> float | None:
    return None if values is None else float(values.std() / math.sqrt(len(values)))


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
