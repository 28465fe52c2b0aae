"""Outputs on the evaluation images: against labels, and against fp32 on the same images.

A number that a bundle cannot give (top-1 without labels, agreement of an embedding) is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.accuracy.cka import linear_cka
from edgemim.runtime.accuracy.classes import among_best, first_choice, per_class
from edgemim.runtime.accuracy.cosine import Floats, cosines, mean_of_worst
from edgemim.runtime.accuracy.drop import drop_interval
from edgemim.runtime.accuracy.mcnemar import mcnemar_p

Answers = npt.NDArray[np.int64]

_SOME = 5


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Images that the candidate answers otherwise than the reference.

    Attributes:
        to_wrong: The reference is right, the candidate is not.
        to_right: The candidate is right, the reference is not.
        other: Both are wrong, each in its own way.
    """

    to_wrong: int
    to_right: int
    other: int


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A candidate's outputs on the evaluation images; a drop is the reference's share minus its own.

    Attributes:
        n: Images.
        top1: Share classified right, with its standard error `top1_se`; None without labels or classes.
        top1_drop: Drop in top-1 on the same images, with the standard error of that paired difference; None as above,
            or without a reference.
        top1_drop_low, top1_drop_high: Its 95 % interval (`edgemim.runtime.accuracy.drop`); None as above, and of the
            reference itself, of which the drop is no estimate.
        resolution: Half the width of that interval: the smallest drop that these images can tell from none.
        enough: Whether that is half a point of top-1 or less.
        flips: What the drop is made of; None as `top1_drop`.
        mcnemar_p: Two-sided exact p-value of "neither is right more often"; None as the interval.
        top5: Share with the right class among the five highest scores, and its drop; None also where the model has
            no more than five classes.
        per_class: Rows of `edgemim.runtime.accuracy.classes.per_class`; None as `top1`.
        agreement: Share of images given the same class as the reference.
        cosine, cosine_worst: Cosine with the reference's outputs, mean and smallest over the images.
        cosine_worst_1pct: Mean of the lowest 1 % of these cosines, of one image at least.
        cka: Linear centred kernel alignment with the reference's outputs, debiased; None of fewer than four images, and
            where either are the same for every image, or for all but one.
        knn_agreement: Share of images that get the same answer from the gallery as with the reference; None without
            a gallery or a reference.
    """

    n: int
    top1: float | None = None
    top1_se: float | None = None
    top1_drop: float | None = None
    top1_drop_se: float | None = None
    top1_drop_low: float | None = None
    top1_drop_high: float | None = None
    resolution: float | None = None
    enough: bool | None = None
    flips: Flips | None = None
    mcnemar_p: float | None = None
    top5: float | None = None
    top5_drop: float | None = None
    per_class: Sequence[dict[str, Any]] | None = None
    agreement: float | None = None
    cosine: float | None = None
    cosine_worst: float | None = None
    cosine_worst_1pct: float | None = None
    cka: float | None = None
    knn_agreement: float | None = None

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
        reference: The fp32 outputs on the same images, or None; `outputs` itself for the reference.
        classifies: Whether the outputs are class scores.
        answers, reference_answers: What a gallery says of each image, [N], to the candidate and to the reference; see
            `edgemim.runtime.accuracy.neighbours`.
    """
    ours = theirs = None
    if classifies:
        ours = first_choice(outputs)
        theirs = None if reference is None else first_choice(reference)
    return Accuracy(
        n=len(outputs),
        **_against_labels(outputs, reference, ours, theirs, labels),
        agreement=_share_equal(ours, theirs),
        **_against_reference(outputs, reference),
        knn_agreement=_share_equal(answers, reference_answers),
    )


def _against_labels(
    outputs: Floats, reference: Floats | None, ours: Answers | None, theirs: Answers | None, labels: Answers | None
) -> dict[str, Any]:
    """From `top1` to `per_class`, as far as they are known."""
    if ours is None or labels is None:
        return {}
    right = ours == labels
    found = {
        "top1": float(right.mean()),
        "top1_se": _standard_error(right),
        "per_class": per_class(ours, theirs, labels),
    }
    if outputs.shape[1] > _SOME:
        found |= _top5(outputs, reference, labels)
    if theirs is None:
        return found
    drop = (theirs == labels) - right.astype(np.float64)
    flips = _flips(ours, theirs, labels)
    found |= {"top1_drop": float(drop.mean()), "top1_drop_se": _standard_error(drop), "flips": flips}
    if outputs is reference:
        return found
    interval = drop_interval(flips.to_wrong, flips.to_right, len(labels))
    return found | {
        "top1_drop_low": interval.low,
        "top1_drop_high": interval.high,
        "resolution": interval.resolution,
        "enough": interval.enough,
        "mcnemar_p": mcnemar_p(flips.to_wrong, flips.to_right),
    }


def _against_reference(outputs: Floats, reference: Floats | None) -> dict[str, Any]:
    """From `cosine` to `cka`; nothing of outputs that are not finite."""
    if reference is None or not np.isfinite(outputs).all():
        return {}
    similar = cosines(outputs, reference)
    return {
        "cosine": float(similar.mean()),
        "cosine_worst": float(similar.min()),
        "cosine_worst_1pct": mean_of_worst(similar),
        "cka": linear_cka(outputs, reference),
    }


def _flips(ours: Answers, theirs: Answers, labels: Answers) -> Flips:
    right, reference_right = ours == labels, theirs == labels
    return Flips(
        to_wrong=int((reference_right & ~right).sum()),
        to_right=int((right & ~reference_right).sum()),
        other=int((~right & ~reference_right & (ours != theirs)).sum()),
    )


def _top5(outputs: Floats, reference: Floats | None, labels: Answers) -> dict[str, float]:
    ours = float(among_best(outputs, labels, _SOME).mean())
    if reference is None:
        return {"top5": ours}
    return {"top5": ours, "top5_drop": float(among_best(reference, labels, _SOME).mean()) - ours}


def _share_equal(ours: Answers | None, theirs: Answers | None) -> float | None:
    return None if ours is None or theirs is None else float((ours == theirs).mean())


def _standard_error(values: npt.NDArray[Any]) -> float:
    return float(values.std() / math.sqrt(len(values)))
