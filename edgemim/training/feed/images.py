"""Decoded images as what a DataLoader reads: augmented batches by (epoch, index)."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.inputs import Decodable
from edgemim.training.feed.order import BatchOrder, Place

Raw = dict[str, Tensor]


class AugmentedImages(Dataset[Raw]):
    """A decoded set whose items are whole batches.

    Args:
        decoded: uint8 images.
        labels: int64 [N], or None.
        augmentation: Applied to each image.
    """

    def __init__(self, decoded: Decodable, labels: Any, augmentation: Augmentation) -> None:
        self.decoded = decoded
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitems__(self, places: Sequence[Place]) -> Raw:
        """uint8 images [B, 3, H, W], index [B], epoch [B] and, where there are some, labels [B].

        Where the colour jitter is not for a teacher, `plain` holds the same crops without it.
        """
        crops = [self.augmentation.crop(self.decoded.get(index), epoch, index) for epoch, index in places]
        images = [self.augmentation.jitter(crop, *place) for crop, place in zip(crops, places, strict=True)]
        index = torch.tensor([i for _, i in places])
        batch = {"images": torch.stack(images), "index": index, "epoch": torch.tensor([e for e, _ in places])}
        settings = self.augmentation.settings
        if settings.colour_jitter and not settings.jitter_teacher:
            batch["plain"] = torch.stack(crops)
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        return batch


def loader(images: AugmentedImages, order: BatchOrder, *, workers: int) -> DataLoader[Raw]:
    """Batches of the order, read by `workers` processes."""
    return DataLoader(
        images,
        batch_sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupts,
        pin_memory=torch.cuda.is_available(),
    )


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal, but it is the training process that ends the run after its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
