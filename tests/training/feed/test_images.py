"""Batches of augmented images, read by this process or by others."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from edgemim.data.cache import Decoded, decode_cached
from edgemim.data.images import Images
from edgemim.errors import DataError
from edgemim.preprocess import Pixels
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, Raw, loader, second_crop, workers_for
from edgemim.training.feed.order import BatchOrder
from edgemim.training.feed.resident import DrawnImages
from edgemim.training.feed.unreadable import Readable, Unreadable, UnreadableImageError
from edgemim.training.settings.augmentation import AugmentationSettings

Augmented = Callable[..., AugmentedImages]
# Python 3.12 and later warn of a fork in a process with threads, which is how torch starts its workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def order(start: int = 0, steps: int = 6) -> BatchOrder:
    return BatchOrder(images=10, batch_size=4, steps=steps, seed=3, start_step=start)


def same(left: Raw, right: Raw) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_batch_holds_pixels_indices_epochs_and_labels(augmented: Augmented) -> None:
    images = augmented(10)
    batches = list(loader(images, order(), workers=0))
    assert len(batches) == 6
    for batch, places in zip(batches, order(), strict=True):
        assert batch["images"].shape == (4, 3, 16, 16)
        assert batch["images"].dtype == torch.uint8
        assert list(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)) == places
        assert torch.equal(batch["labels"], batch["index"] % 3)
        for (epoch, index), image in zip(places, batch["images"], strict=True):
            assert torch.equal(image, images.augmentation(images.decoded.get(index), epoch, index))


def test_without_labels_there_are_none(augmented: Augmented) -> None:
    images = augmented(10)
    plain = AugmentedImages(images.decoded, None, images.augmentation)
    assert "labels" not in next(iter(loader(plain, order(), workers=0)))


def test_a_teacher_can_be_spared_the_jitter(augmented: Augmented) -> None:
    images = augmented(10)

    def batch(**settings: Any) -> Raw:
        augmentation = replace(images.augmentation, settings=AugmentationSettings(**settings))
        return next(iter(loader(AugmentedImages(images.decoded, None, augmentation), order(), workers=0)))

    crops = batch()["images"]
    spared = batch(colour_jitter=0.4, jitter_teacher=False)
    assert torch.equal(spared["plain"], crops)
    assert not torch.equal(spared["images"], crops)
    both = batch(colour_jitter=0.4)
    assert torch.equal(both["images"], spared["images"])
    assert "plain" not in both
    assert "plain" not in batch(jitter_teacher=False)


@pytest.mark.parametrize("quick", [False, True])
def test_a_second_crop_is_another_one_of_the_same_images(
    augmented: Augmented, small: Callable[..., AugmentedImages], quick: bool
) -> None:
    settings = AugmentationSettings(colour_jitter=0.4, jitter_teacher=False)
    one = small(colour_jitter=0.4, jitter_teacher=False) if quick else augmented(10)
    one.augmentation = replace(one.augmentation, settings=settings)
    two = AugmentedImages(one.decoded, one.labels, one.augmentation, crops=2)
    assert two.quick == quick
    both, alone = (next(iter(loader(images, order(), workers=0))) for images in (two, one))
    second = second_crop(both)
    assert second is not None
    assert second_crop(alone) is None
    # The first crop is the one that there is without another.
    assert all(torch.equal(both[name], alone[name]) for name in alone)
    assert second.keys() == {"images", "plain", "placed"}
    for name in second:
        assert second[name].shape == both[name].shape
        assert (second[name] != both[name]).flatten(1).any(dim=1).all(), name


def test_a_resumed_loader_gives_what_was_left(augmented: Augmented) -> None:
    whole = list(loader(augmented(10), order(), workers=0))
    rest = list(loader(augmented(10), order(start=4), workers=0))
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_workers_give_the_same_batches_and_survive_ctrl_c(augmented: Augmented) -> None:
    # A terminal sends Ctrl-C to every process of the run; the state is saved by this one, after the step.
    # Far more batches than are read ahead, so that the workers have to go on after it.
    expected = list(loader(augmented(10), order(steps=60), workers=0))
    batches = iter(loader(augmented(10), order(steps=60), workers=2))
    got = [next(batches), next(batches)]  # one of each worker: both are up
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    got += list(batches)
    assert all(same(a, b) for a, b in zip(expected, got, strict=True))


@pytest.fixture
def small(tmp_path: Path, imagefolder: Callable[..., Path]) -> Callable[..., AugmentedImages]:
    """`small(broken=[3])`: ten decoded images of 16 pixels, with labels; some of them cannot be read."""

    def make(broken: Sequence[int] = (), side: int = 16, size: int = 16, **settings: Any) -> AugmentedImages:
        folder = imagefolder(f"images{len(broken)}-{side}-{size}", classes=1, each=10, side=side)
        files = sorted(folder.rglob("*.png"))
        for i in broken:
            files[i].write_bytes(b"not an image")
        images = Images(datasets.Dataset.from_dict({"image": [str(f) for f in files]}), name="images")
        unreadable = Unreadable(name="images", images=10, share=0.5)

        def skip(i: int, error: DataError) -> None:
            unreadable.add(i, UnreadableImageError(str(i), str(error)))

        decoded = decode_cached(images, cache=tmp_path / "cache", skip=skip)
        augmentation = Augmentation(size=(size, size), settings=AugmentationSettings(**settings), seed=0)
        return AugmentedImages(Readable(decoded, unreadable), np.arange(10), augmentation)

    return make


def test_a_batch_of_small_images_is_the_same_up_to_one_grey_level(small: Callable[..., AugmentedImages]) -> None:
    images = small(broken=[3, 4], colour_jitter=0.4, jitter_teacher=False)
    assert images.quick

    class OneByOne:
        def __len__(self) -> int:
            return len(images)

        def get(self, i: int) -> Pixels:
            return images.decoded.source.get(i)

    other = AugmentedImages(Readable(OneByOne(), images.decoded.unreadable), np.arange(10), images.augmentation)
    assert not other.quick
    for batch, expected in zip(loader(images, order(), workers=0), loader(other, order(), workers=0), strict=True):
        assert batch.keys() == expected.keys()
        for name in ("index", "epoch", "labels"):
            assert torch.equal(batch[name], expected[name])
        assert (batch["plain"].int() - expected["plain"].int()).abs().max() <= 1
        # One level before the jitter is at most 1.4 ** 3 of them after it, and each of its steps rounds.
        assert (batch["images"].int() - expected["images"].int()).abs().max() <= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_replaced_with_its_index_and_label(
    small: Callable[..., AugmentedImages], workers: int
) -> None:
    whole, holed = small(), small(broken=[3, 4, 9])
    replaced = {3: 5, 4: 5, 9: 0}
    wanted = [replaced.get(index, index) for batch in order() for _, index in batch]
    batches = list(loader(holed, order(), workers=workers))
    assert [i for batch in batches for i in batch["index"].tolist()] == wanted
    for batch in batches:
        assert torch.equal(batch["labels"], batch["index"])
        places = list(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True))
        assert torch.equal(batch["images"], whole.__getitems__(places)["images"])


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_images_are_one_line_from_any_process(augmented: Augmented, workers: int) -> None:
    class Broken:
        def __len__(self) -> int:
            return 10

        def get(self, i: int) -> Pixels:
            raise UnreadableImageError(f"photo {i}", f"photo {i} is cut off")

    images = AugmentedImages(Broken(), None, augmented(10).augmentation)
    with pytest.raises(DataError, match=r"^photo \d is cut off \(training\.max_unreadable 0 of 10 images is none\)$"):
        list(loader(images, order(), workers=workers))


def test_workers_are_those_asked_for_or_as_many_as_pay(
    small: Callable[..., AugmentedImages], augmented: Augmented
) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    quick, slow = small(), augmented(10)
    assert [workers_for(n, images, gpu, cores=8) for n in (0, 3) for images in (quick, slow)] == [0, 0, 3, 3]
    # The step itself needs the cores of a CPU.
    assert workers_for(-1, slow, cpu, cores=8) == 0
    assert workers_for(-1, quick, gpu, cores=8) == 0
    assert workers_for(-1, DrawnImages(quick), gpu, cores=8) == 0
    assert [workers_for(-1, slow, gpu, cores=cores) for cores in (1, 8, 64)] == [1, 7, 16]


def test_large_images_are_not_made_in_one_go(small: Callable[..., AugmentedImages]) -> None:
    assert small(side=40, size=40).quick
    large = small(side=16, size=96)
    assert not large.quick
    assert isinstance(large.one_size, Decoded)
