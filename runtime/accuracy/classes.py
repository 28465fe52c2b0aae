"""From class scores to answers: what is the first choice, how sure is it, where does the right class come."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.accuracy.cosine import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_BLOCK = 1024


def first_choice(scores: Floats) -> Ints:
    """The class with the highest score, the first of equal ones; [N, K] to [N]."""
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def margins(scores: Floats) -> Floats:
    """How far the highest score is above the next, [N, K] to [N]; 0 where there is but one class."""
    if scores.shape[1] < 2:
        return np.zeros(len(scores), dtype=np.float32)
    starts = range(0, len(scores), _BLOCK)
    best = [np.partition(scores[i : i + _BLOCK], -2, axis=1)[:, -2:] for i in starts]
    return np.concatenate([pair[:, 1] - pair[:, 0] for pair in best])


def among_best(scores: Floats, labels: Ints, count: int) -> Bools:
    """Whether the right class is among the `count` highest scores, [N, K] and [N] to [N].

    Of equal scores the lower class number comes first, so that `count` 1 is `first_choice`.
    """
    starts = range(0, len(scores), _BLOCK)
    return np.concatenate([_rank(scores[i : i + _BLOCK], labels[i : i + _BLOCK]) < count for i in starts])


def per_class(answers: Ints, reference: Ints | None, labels: Ints) -> list[dict[str, Any]]:
    """One row for each class that an image has, in order.

    Args:
        answers, reference: First choices [N] of the candidate and, where there is one, the reference.
        labels: The right classes [N].

    Returns:
        `{"class", "n", "top1", "reference_top1"}`: class number, its images, and the share of them answered right;
        the last is None without a reference.
    """
    classes, n = np.unique(labels, return_counts=True)
    ours = _right(answers, labels, classes)
    theirs = None if reference is None else _right(reference, labels, classes)
    return [
        {
            "class": int(classes[i]),
            "n": int(n[i]),
            "top1": float(ours[i] / n[i]),
            "reference_top1": None if theirs is None else float(theirs[i] / n[i]),
        }
        for i in range(len(classes))
    ]


def _right(answers: Ints, labels: Ints, classes: Ints) -> Ints:
    """Right answers of each class."""
    counts = np.bincount(labels[answers == labels], minlength=int(classes[-1]) + 1)
    return np.asarray(counts[classes], dtype=np.int64)


def _rank(scores: Floats, labels: Ints) -> Ints:
    """How many classes come before the right one."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1), dtype=np.int64)
