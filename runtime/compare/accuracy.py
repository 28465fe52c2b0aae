"""Accuracy of all entries on the same images, each against the first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgemim.errors import DeviceError
from edgemim.preprocess import Pixels, Preprocess, read_image
from edgemim.runtime.accuracy.cosine import Floats
from edgemim.runtime.accuracy.measure import measure_accuracy
from edgemim.runtime.compare.entries import Entry
from edgemim.runtime.trial import Trial


def paired_accuracy(entries: Sequence[Entry], trials: Mapping[str, Trial], tick: Callable[[], None]) -> None:
    """Run the images of the first bundle, which all carry, through every trial, and set the trials' accuracy.

    Drops, flips and cosines are against the first entry; where another has other outputs than that, such as other
    classes, it has none of them.

    Args:
        entries: Of bundles that carry the same images.
        trials: By label; their sessions are open.
        tick: Called after every image.

    Raises:
        DeviceError: A session fails, or its outputs are not finite.
    """
    images = entries[0].bundle.evaluation
    assert images is not None
    rows: dict[str, list[Floats]] = {entry.label: [] for entry in entries}
    encoded = images.encoded()
    while part := list(itertools.islice(encoded, entries[0].bundle.batch)):
        decoded = [read_image(data) for data in part]
        prepared: dict[Preprocess, Pixels] = {}
        for entry in entries:
            contract = entry.bundle.preprocess
            if contract not in prepared:
                prepared[contract] = np.stack([contract.pixels(image) for image in decoded])
            outputs = trials[entry.label].infer(entry.bundle, entry.bundle.arrays(prepared[contract]))
            if outputs is None or not np.isfinite(outputs).all():
                reason = trials[entry.label].disqualified or "its outputs on the evaluation images are not all finite"
                raise DeviceError(f"{entry.label} cannot be compared: {reason}")
            rows[entry.label].append(outputs[: len(part)])
        for _ in part:
            tick()
    found = {label: np.concatenate(outputs) for label, outputs in rows.items()}
    first = entries[0]
    for entry in entries:
        ours, theirs = found[entry.label], found[first.label]
        alike = ours.shape == theirs.shape and entry.bundle.classifies == first.bundle.classifies
        trials[entry.label].accuracy = measure_accuracy(
            ours,
            labels=images.labels,
            reference=theirs if alike else None,
            classifies=entry.bundle.classifies,
        )
