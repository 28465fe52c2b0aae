"""A set that lies on the device: the host draws, the device makes the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from edgemim.data.cache import decode_cached
from edgemim.data.images import Images
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, loader
from edgemim.training.feed.order import BatchOrder
from edgemim.training.feed.resident import DrawnImages, Resident, resident_on
from edgemim.training.loop.module import TrainingModule
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.training import TrainingSettings

SETTINGS: dict[str, Any] = {"colour_jitter": 0.4, "jitter_teacher": False}


@pytest.fixture
def images(tmp_path: Path, imagefolder: Callable[..., Path]) -> AugmentedImages:
    files = sorted(imagefolder("photos", classes=1, each=10, side=20).rglob("*.png"))
    encoded = Images(datasets.Dataset.from_dict({"image": [str(f) for f in files]}), name="photos")
    augmentation = Augmentation(size=(16, 16), settings=AugmentationSettings(**SETTINGS), seed=0)
    return AugmentedImages(decode_cached(encoded, cache=tmp_path / "cache"), np.arange(10), augmentation)


def order() -> BatchOrder:
    return BatchOrder(images=10, batch_size=4, steps=6, seed=3)


def resident(images: AugmentedImages, device: str) -> Resident:
    decoded = images.one_size
    assert decoded is not None
    return Resident(decoded, images.augmentation, torch.device(device))


@pytest.mark.parametrize("crops", [1, 2])
def test_the_device_makes_the_batches_of_the_host(images: AugmentedImages, crops: int) -> None:
    images.crops = crops
    made = resident(images, "cpu")
    batches = zip(loader(DrawnImages(images), order(), workers=0), loader(images, order(), workers=0), strict=True)
    for drawn, expected in batches:
        assert "images" not in drawn
        batch = made(drawn)
        assert batch.keys() == expected.keys()
        assert ("second.images" in batch) == (crops == 2)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_what_goes_to_the_device_does_not_grow_with_the_images(images: AugmentedImages) -> None:
    drawn = next(iter(loader(DrawnImages(images), order(), workers=0)))
    assert sum(t.nbytes for t in drawn.values()) < 100 * len(drawn["index"])


def test_a_step_takes_either_kind_of_batch(
    images: AugmentedImages, make_mae: Callable[..., Any], contract: Any
) -> None:
    module = TrainingModule(make_mae(), TrainingSettings(steps=6), contract, steps=6, seed=0)
    whole = module.batch(next(iter(loader(images, order(), workers=0))))
    module.resident = resident(images, "cpu")
    made = module.batch(next(iter(loader(DrawnImages(images), order(), workers=0))))
    assert torch.equal(made.images, whole.images)
    assert made.plain is not None
    assert whole.plain is not None
    assert torch.equal(made.plain, whole.plain)
    shown = module.batch({"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)})
    assert shown.images.shape == (2, 3, 16, 16)


def test_a_cpu_keeps_no_second_copy(images: AugmentedImages) -> None:
    assert resident_on(torch.device("cpu"), images) is None


@pytest.mark.gpu
def test_a_gpu_makes_the_batches_of_the_host(images: AugmentedImages) -> None:
    made = resident_on(torch.device("cuda", 0), images)
    assert made is not None
    batches = zip(loader(DrawnImages(images), order(), workers=0), loader(images, order(), workers=0), strict=True)
    for drawn, expected in batches:
        with torch.autocast("cuda", torch.bfloat16):
            batch = made({name: value.cuda() for name, value in drawn.items()})
        assert torch.equal(batch["labels"].cpu(), expected["labels"])
        assert (batch["plain"].cpu().int() - expected["plain"].int()).abs().max() <= 1


@pytest.mark.gpu
def test_images_of_several_sizes_stay_on_the_host(augmented: Callable[..., AugmentedImages]) -> None:
    assert resident_on(torch.device("cuda", 0), augmented(10)) is None
