"""Outputs on the evaluation images: against labels, and against fp32 on the same images.

A number that a bundle cannot give (top-1 without labels, agreement of an embedding) is None, never 0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.accuracy.cosine import Floats, cosines

Answers = npt.NDArray[np.int64]


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
            `edgemim.runtime.accuracy.neighbours`.
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


def _share_equal(ours: Answers | None, theirs: Answers | None) -> float | None:
    return None if ours is None or theirs is None else float((ours == theirs).mean())


def _mean(values: npt.NDArray[np.float64] | None) -> float | None:
    return None if values is None else float(values.mean())


def _standard_error(values: npt.NDArray[np.float64] | None) -> float | None:
    return None if values is None else float(values.std() / math.sqrt(len(values)))
