"""The evaluation images of a bundle: which data set, which of its images, with which labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgemim.data.images import UNLABELLED, Images
from edgemim.data.open import open_splits
from edgemim.errors import DataError
from edgemim.models.checkpoint import Checkpoint
from edgemim.pipeline.calibration import trained_on

NONE = "none"


def evaluation_images(checkpoint: Checkpoint, spec: str) -> Images | None:
    """Test images of `spec`, or of the data that the checkpoint was trained on; None for `none`, or if there are none.

    Raises:
        DataError: Their classes are not the checkpoint's.
    """
    known = trained_on(checkpoint)
    if not (spec or known.spec) or spec == NONE:
        return None
    images = open_splits(spec or known.spec, seed=known.seed).test
    classes = checkpoint.num_classes
    if spec and classes and images.num_classes is not None and images.num_classes > classes:
        raise DataError(f"{spec} has {images.num_classes} classes, the checkpoint {classes}; they do not fit")
    own, theirs = checkpoint.class_names, images.class_names
    if spec and classes and own is None and theirs is not None and len(theirs) != classes:
        raise DataError(
            f"{spec} has {len(theirs)} classes by name, the checkpoint {classes} without names: nobody knows which is "
            "which; evaluate on images of all its classes, or on images without labels"
        )
    if own is not None and theirs is not None and own != theirs:
        shown = [", ".join(names[:5]) + (", ..." if len(names) > 5 else "") for names in (theirs, own)]
        raise DataError(f"{spec} has the classes {shown[0]}, the checkpoint {shown[1]}; evaluate on the same ones")
    return images


def gallery_images(checkpoint: Checkpoint, spec: str) -> Images:
    """Training images of `spec`, none of which is an evaluation image of the same data."""
    return open_splits(spec, seed=trained_on(checkpoint).seed).train


def has_labels(images: Images, checkpoint: Checkpoint) -> bool:
    """Whether top-1 can be measured: every image has a label, and the model has classes."""
    return is_labelled(images) and checkpoint.num_classes > 0


def is_labelled(images: Images) -> bool:
    """Whether every image has a label."""
    labels: Any = images.labels
    return labels is not None and not bool((np.asarray(labels) == UNLABELLED).any())


def encoded(images: Images, *, count: int, seed: int, labelled: bool) -> Iterator[tuple[bytes, int | None]]:
    """Up to `count` encoded images, chosen by the seed and in the data's order, with labels or without any."""
    rows: Sequence[int] = range(len(images))
    if len(images) > count:
        chosen = np.random.default_rng(seed).permutation(len(images))[:count]
        rows = sorted(int(i) for i in chosen)
    labels: Any = images.labels
    for i in rows:
        yield images.encoded(i), int(labels[i]) if labelled else None
