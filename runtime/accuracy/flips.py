"""Images that a candidate answers otherwise than the reference, for a person to look at, and all answers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.preprocess import read_image
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.targets._base import PRECISIONS
from edgemim.runtime.trial import Trial, still_in

MOST = 24
_FOLDER = "flips"
_LONGEST_SIDE = 96
_QUALITY = 85
# What a person wants to see first: right to wrong, then wrong to right, then wrong to another wrong.
_TO_WRONG, _TO_RIGHT, _OTHER, _SAME = range(4)

Ints = npt.NDArray[np.int64]


def write_flips(folder: Path, bundle: Bundle, trials: Sequence[Trial], reference: Trial | None) -> list[dict[str, Any]]:
    """Write thumbnails of up to `MOST` flipped images to `folder`/flips, and say what each was taken for.

    Looked at are the candidates that are still in and were timed; see `choose_flips` for the order.

    Args:
        folder: Of the report that is being written.
        reference: What `edgemim.runtime.trial.evaluate` returned.

    Returns:
        `{"index", "file", "label", "reference", "answers"}` per image: its number in the evaluation set, its thumbnail
        relative to `folder`, its class or None, the reference's answer, and that of every candidate looked at, by
        label (`int8 on openvino`). Empty where the model has no classes or nothing flipped.

    Raises:
        ArtifactError: The evaluation images are damaged.
    """
    shown = _candidates(trials, reference)
    if bundle.evaluation is None or reference is None or reference.answers is None or not shown:
        return []
    labels = bundle.evaluation.labels
    rows = []
    for index in choose_flips(shown, reference, labels):
        file = f"{_FOLDER}/{index:05d}.jpg"
        (folder / _FOLDER).mkdir(exist_ok=True)
        (folder / file).write_bytes(thumbnail(bundle.evaluation.read(index)))
        rows.append(
            {
                "index": index,
                "file": file,
                "label": None if labels is None else int(labels[index]),
                "reference": int(reference.answers[index]),
                "answers": {trial.label: int(trial.answers[index]) for trial in shown if trial.answers is not None},
            }
        )
    return rows


def choose_flips(candidates: Sequence[Trial], reference: Trial, labels: Ints | None) -> list[int]:
    """Numbers of at most `MOST` images that a candidate answers otherwise than the reference, best shown first.

    Images that went from right to wrong come first (without labels all flips count alike), of these the ones that the
    most exact candidate flipped, and of these the ones on which the reference was surest. A candidate is more exact by
    its precision, then by the fewer flips.
    """
    assert reference.answers is not None
    assert reference.margins is not None
    flipped = {trial.label: trial.answers != reference.answers for trial in candidates if trial.answers is not None}
    ordered = sorted(
        (trial for trial in candidates if trial.answers is not None),
        key=lambda trial: (PRECISIONS.index(trial.pair.candidate.precision), int(flipped[trial.label].sum())),
    )
    kind = np.full(len(reference.answers), _SAME)
    flipper = np.zeros(len(reference.answers), dtype=np.int64)
    for position, trial in enumerate(ordered):
        assert trial.answers is not None
        kinds = _kinds(trial.answers, reference.answers, labels)
        better = kinds < kind
        kind[better], flipper[better] = kinds[better], position
    # The last key decides first; numbers of images break ties, since the sort is stable.
    order = np.lexsort((-reference.margins, flipper, kind))
    return [int(index) for index in order[:MOST] if kind[index] != _SAME]


def thumbnail(encoded: bytes) -> bytes:
    """A JPEG, upright, its longer side at most 96 pixels, of an encoded image."""
    image = read_image(encoded)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def answer_arrays(bundle: Bundle, trials: Sequence[Trial]) -> dict[str, npt.NDArray[np.int32]]:
    """Arrays for `samples.npz` from which every number about classes can be computed again.

    Returns:
        `NAME@BACKEND.answer`, the class given to each evaluation image, of every trial that is still in, and
        `evaluation.label`, the right ones; int32 [N] each. Empty where the model has no classes.
    """
    arrays = {
        f"{trial.key}.answer": trial.answers.astype(np.int32) for trial in still_in(trials) if trial.answers is not None
    }
    if arrays and bundle.evaluation is not None and bundle.evaluation.labels is not None:
        arrays["evaluation.label"] = bundle.evaluation.labels.astype(np.int32)
    return arrays


def _candidates(trials: Sequence[Trial], reference: Trial | None) -> list[Trial]:
    """Those that would ship if they pass their gates."""
    return [t for t in still_in(trials) if t.pair.timed and t is not reference and t.answers is not None]


def _kinds(answers: Ints, reference: Ints, labels: Ints | None) -> Ints:
    """Of each image, which of the four kinds it is."""
    changed = answers != reference
    if labels is None:
        return np.where(changed, _TO_WRONG, _SAME)
    chosen = [changed & (reference == labels), changed & (answers == labels), changed]
    return np.select(chosen, [_TO_WRONG, _TO_RIGHT, _OTHER], _SAME)
