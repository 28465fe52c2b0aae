"""Batches of augmented images, read by this process or by others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from edgemim.training.feed.images import AugmentedImages, Raw, loader
from edgemim.training.feed.order import BatchOrder
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
    for worker in batches._workers:  # type: ignore[attr-defined]
        os.kill(worker.pid, signal.SIGINT)
    got += list(batches)
    assert all(same(a, b) for a, b in zip(expected, got, strict=True))
