"""What a teacher saw in the crops of a batch, as rows of a store that come along with the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from edgemim.methods._asked import TeacherView
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.teacher_cache.store import RowStore

_PREFIX = "teacher."


class TeacherRows:
    """Looks up a store by epoch and image; picklable.

    Row v * N + i holds what the teacher saw in view v of image i, of N.

    Args:
        store: Full.
        images: N.
        settings: Say which view of an image an epoch shows.
    """

    def __init__(self, store: RowStore, images: int, settings: AugmentationSettings) -> None:
        self.store = store
        self.images = images
        self.settings = seen_by_teacher(settings)

    def __call__(self, epochs: Sequence[int], indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of a batch, to be merged into it."""
        rows = [self.settings.view(e) * self.images + i for e, i in zip(epochs, indices, strict=True)]
        return with_prefix(self.store.read(rows))


def with_prefix(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a view as a raw batch has them, beside the images."""
    return {_PREFIX + name: tensor for name, tensor in rows.items()}


def taught_in(raw: Mapping[str, Tensor]) -> TeacherView | None:
    """What a raw batch says that the teacher saw; None where it says nothing."""
    rows = {name.removeprefix(_PREFIX): tensor for name, tensor in raw.items() if name.startswith(_PREFIX)}
    return TeacherView.of(rows) if rows else None


def seen_by_teacher(settings: AugmentationSettings) -> AugmentationSettings:
    """The augmentation as it reaches a teacher: without the jitter that is not for it."""
    return settings if settings.jitter_teacher else dataclasses.replace(settings, colour_jitter=0.0)
