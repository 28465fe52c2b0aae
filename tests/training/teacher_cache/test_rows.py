"""Which row of a store belongs to an image in an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.teacher_cache.rows import TeacherRows, seen_by_teacher, taught_in
from edgemim.training.teacher_cache.store import Column, RowStore

IMAGES = 5
WHOLE: dict[str, Any] = {"min_scale": 1.0, "max_aspect": 1.0, "flip": False}


def rows_of(folder: Path, **settings: Any) -> TeacherRows:
    """Row r of the store holds r."""
    augmentation = AugmentationSettings(**settings)
    rows = IMAGES * seen_by_teacher(augmentation).different_views
    store = RowStore(folder, rows=rows, columns={"summary": Column(dtype="float32", shape=(1,))}, shard_rows=rows)
    store.write(0, {"summary": torch.arange(rows, dtype=torch.float32)[:, None]})
    return TeacherRows(store, IMAGES, augmentation)


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ({"views": 3}, [0, 1, 2, 3, 7], [4, 9, 14, 4, 9]),
        ({"views": 1}, [0, 1, 2], [4, 4, 4]),
        (WHOLE, [0, 1, 2], [4, 4, 4]),
        # The student's own jitter is another one in each epoch; the teacher does not see it.
        ({**WHOLE, "colour_jitter": 0.4, "jitter_teacher": False}, [0, 1, 2], [4, 4, 4]),
        ({"views": 2, "colour_jitter": 0.4}, [0, 1, 2], [4, 9, 4]),
    ],
)
def test_an_epoch_shows_its_view(tmp_path: Path, settings: dict[str, Any], epochs: list[int], expected: Any) -> None:
    raw = rows_of(tmp_path, **settings)(epochs, [4] * len(epochs))
    view = taught_in({**raw, "images": torch.zeros(1)})
    assert view is not None
    assert view.summary is not None
    assert view.summary.flatten().tolist() == expected


def test_a_batch_without_rows_says_nothing_of_a_teacher() -> None:
    assert taught_in({"images": torch.zeros(1), "index": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        ({}, 0),
        ({"views": 4}, 4),
        (WHOLE, 1),
        ({**WHOLE, "colour_jitter": 0.4}, 0),
        ({**WHOLE, "colour_jitter": 0.4, "jitter_teacher": False}, 1),
        ({**WHOLE, "flip": True}, 0),
    ],
)
def test_crops_come_again_with_views_or_without_chance(settings: dict[str, Any], views: int) -> None:
    assert seen_by_teacher(AugmentationSettings(**settings)).different_views == views
