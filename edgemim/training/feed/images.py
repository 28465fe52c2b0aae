"""A training set as what a DataLoader reads: augmented batches by (epoch, index)."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgemim.data.cache import Decoded
from edgemim.errors import EdgemimError
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.draws import Crops
from edgemim.training.feed.inputs import Decodable
from edgemim.training.feed.order import Place
from edgemim.training.feed.unreadable import Readable, Unreadable

Raw = dict[str, Tensor]

# Of the names of what belongs to the first and to the second crop of the images of a batch.
_PREFIXES = ("", "second.")
# Up to this side, in pixels, two matrix products for a batch take less time than a call for each image.
_SMALL = 40
_MOST_WORKERS = 16


class Feed(Protocol):
    """Gives whole batches; what a DataLoader reads."""

    @property
    def quick(self) -> bool:
        """Whether a batch is made in little time."""

    def __len__(self) -> int: ...

    def __getitems__(self, places: Sequence[Place]) -> Raw:
        """A batch."""


class AugmentedImages(Dataset[Raw]):
    """A decoded set whose items are whole batches.

    Args:
        decoded: uint8 images; of a set that is not `Readable`, every image must be.
        labels: int64 [N], or None.
        augmentation: Applied to each image.
        crops: Of each image in a batch, 1 or 2; `second` prefixes the names of the other one.

    Attributes:
        taught: Gives what a teacher saw in the crops of these epochs and indices, where that is stored; it becomes a
            part of each batch.
    """

    def __init__(self, decoded: Decodable, labels: Any, augmentation: Augmentation, *, crops: int = 1) -> None:
        strict = Unreadable(name="the set", images=len(decoded), share=0)
        self.decoded = decoded if isinstance(decoded, Readable) else Readable(decoded, strict)
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.augmentation = augmentation
        self.crops = crops
        self.taught: Callable[[Sequence[int], Sequence[int]], Raw] | None = None

    def __len__(self) -> int:
        return len(self.decoded)

    @property
    def one_size(self) -> Decoded | None:
        """The decoded set, where all its images have one size and lie in one array."""
        source = self.decoded.source
        return source if isinstance(source, Decoded) and source.array is not None else None

    @property
    def quick(self) -> bool:
        """Whether a batch is made at once, and in little time: images of one size, and a small one."""
        one_size = self.one_size
        return one_size is not None and max(*one_size.shapes.max(axis=0), *self.augmentation.size) <= _SMALL

    def __getitems__(self, places: Sequence[Place]) -> Raw:
        """uint8 images [B, 3, H, W], placed [B, 5], index [B], epoch [B] and, where there are some, labels [B].

        Where the colour jitter is not for a teacher, `plain` holds the same crops without it. What has to do with
        another crop of the same images has names that begin with `second`. An image that cannot be
        read is replaced by the next one that can: pixels, crop, index and label.
        """
        if self.quick:
            drawn = self.drawn(places)
            pixels = self._of_one_size().batch(drawn["index"].numpy())
            return finished(drawn, torch.from_numpy(pixels), self.augmentation)
        return self._one_by_one(places)

    def drawn(self, places: Sequence[Place]) -> Raw:
        """What is drawn for a batch of a set of one size, for whoever has the pixels.

        All but pixels as `__getitems__` gives it; `boxes`, `mirrored` and `factors` of each crop as in `Crops`.
        """
        epochs = [epoch for epoch, _ in places]
        indices = self.decoded.indices([index for _, index in places])
        shapes = self._of_one_size().shapes[indices]
        drawn = self._named(epochs, indices)
        for which, prefix in enumerate(_PREFIXES[: self.crops]):
            crops = self.augmentation.draw(list(zip(epochs, indices, strict=True)), shapes, which=which)
            drawn |= _prefixed(prefix, vars(crops) | {"placed": crops.placed(shapes)})
        return drawn

    def _of_one_size(self) -> Decoded:
        decoded = self.one_size
        assert decoded is not None
        return decoded

    def _one_by_one(self, places: Sequence[Place]) -> Raw:
        epochs = [epoch for epoch, _ in places]
        read = [self.decoded.read(index) for _, index in places]
        indices, images = [index for index, _ in read], [pixels for _, pixels in read]
        shapes = [p.shape[:2] for p in images]
        raw = self._named(epochs, indices)
        for which, prefix in enumerate(_PREFIXES[: self.crops]):
            crops = self.augmentation.draw(list(zip(epochs, indices, strict=True)), shapes, which=which)
            seen = self.augmentation.colours(self.augmentation.crop_each(images, crops), crops)
            raw |= _prefixed(prefix, seen | {"placed": crops.placed(shapes)})
        return raw

    def _named(self, epochs: list[int], indices: list[int]) -> Raw:
        index = torch.tensor(indices)
        named = {"index": index, "epoch": torch.tensor(epochs)}
        if self.taught is not None:
            named |= self.taught(epochs, indices)
        return named if self.labels is None else named | {"labels": self.labels[index]}


def finished(drawn: Raw, pixels: Tensor, augmentation: Augmentation) -> Raw:
    """What `AugmentedImages` gives, from what it has drawn and the whole images, uint8 [B, h, w, 3] on one device."""
    raw = dict(drawn)
    for prefix in _PREFIXES:
        if prefix + "boxes" in drawn:
            crops = Crops(**{name: raw.pop(prefix + name) for name in ("boxes", "mirrored", "factors")})
            raw |= _prefixed(prefix, augmentation.colours(augmentation.crop_together(pixels, crops), crops))
    return raw


def second_crop(raw: Raw) -> Raw | None:
    """The part of a batch that belongs to the other crop of its images, under plain names; None where there is none."""
    other = _PREFIXES[1]
    found = {name.removeprefix(other): value for name, value in raw.items() if name.startswith(other)}
    return found or None


def _prefixed(prefix: str, values: Raw) -> Raw:
    return {prefix + name: value for name, value in values.items()}


def workers_for(wanted: int, images: Feed, device: torch.device, *, cores: int) -> int:
    """How many processes read and augment.

    Args:
        wanted: So many; -1: none where the training process makes a batch in little time, or needs every core for the
            step itself (on a CPU), else the cores that training leaves.
        images: What they read.
        device: On which the steps run.
        cores: Processor cores for this training process and its workers.
    """
    if wanted >= 0:
        return wanted
    if images.quick or device.type == "cpu":
        return 0
    return min(_MOST_WORKERS, max(1, cores - 1))


def loader(images: Feed, order: Iterable[list[Place]], *, workers: int) -> DataLoader[Raw]:
    """Batches of the order, read by `workers` processes.

    Raises:
        EdgemimError: Whatever reading an image raises, as one line also where a worker process has raised it.
    """
    return _Batches(
        _Caught(images),
        batch_sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupts,
        pin_memory=torch.cuda.is_available(),
    )


class _Caught(Dataset[Any]):
    """Hands an error over as an item: torch would make a traceback of the one that a worker process raises."""

    def __init__(self, images: Feed) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, places: Sequence[Place]) -> Raw | EdgemimError:
        try:
            return self.images.__getitems__(places)
        except EdgemimError as error:
            return error


class _Batches(DataLoader[Raw]):
    """Raises the errors among the items."""

    def __iter__(self) -> Iterator[Raw]:  # type: ignore[override]
        batches = super().__iter__()
        try:
            for batch in batches:
                if isinstance(batch, EdgemimError):
                    raise batch
                yield batch
        except EdgemimError:
            # Nobody else holds the workers, so they end now; a traceback that is kept would keep them.
            self._iterator = None
            del batches
            raise


def _ignore_interrupts(worker: int) -> None:
    # What asks a run to stop reaches every process of a terminal, of torchrun or of a SLURM step, but it is the
    # training process that ends the run after its step.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    # They ignore the signal by which multiprocessing would end them here; it would wait for them forever.
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _as_it_is(batch: Any) -> Any:
    return batch
