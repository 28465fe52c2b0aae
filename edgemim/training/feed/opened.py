"""The images of a run without labels: a data set that is here, or a stream that is read where it lies."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from edgemim.data.images import Images
from edgemim.data.open import Splits, is_stream, open_splits
from edgemim.data.stratify import holdout_indices
from edgemim.data.streams.first import first_images
from edgemim.data.streams.index import StreamIndex
from edgemim.data.streams.open import open_stream
from edgemim.errors import DataError
from edgemim.training.feed.inputs import Decodable, decoded, training_images
from edgemim.training.feed.streamed import StreamedImages
from edgemim.training.feed.unreadable import Readable, Unreadable
from edgemim.training.settings.run import RunSettings
from edgemim.training.shown.counting import counted

# Enough for the pictures that a run draws, and how many are tried where some cannot be read.
_FEW = 8
_TRIED = 256
_KNOWN_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """What a run reads, and what it is measured on.

    Attributes:
        splits: What features are compared on and pictures are drawn of: the whole set, or, of a stream, the first
            images of its test shards in two halves.
        stream: The training images, where they are streamed.
    """

    splits: Splits
    stream: StreamIndex | None = None

    def __len__(self) -> int:
        return len(self.splits.train if self.stream is None else self.stream)

    @property
    def fingerprint(self) -> str:
        """Of the training images, sha256 (hex)."""
        return self.splits.train.fingerprint if self.stream is None else self.stream.fingerprint

    def training(self, size: tuple[int, int], settings: RunSettings, processes: int = 1) -> Readable:
        """The training images for a model that takes `size`.

        Args:
            size: Height and width.
            settings: Of the run.
            processes: That share the images of a stream.

        Raises:
            ConfigError: `stream.window_mb` is too small for what a shard has to be read in.
            DataError: Too many images cannot be read.
        """
        share = settings.training.max_unreadable
        if self.stream is None:
            return training_images(self.splits.train, size, max_unreadable=share)
        unreadable = Unreadable(name=self.stream.name, images=len(self.stream), share=share)
        return Readable(StreamedImages(self.stream, settings.stream, processes), unreadable)

    def known(self, size: tuple[int, int], train: Readable) -> Decodable:
        """The images of `splits.train`, for comparing their features with those of the test images.

        Args:
            size: That the model takes.
            train: What `training` gave; it is returned where there is nothing else or no labels to compare with.

        Raises:
            DataError: One of a stream's cannot be read.
        """
        labelled = self.stream is not None and self.splits.train.labels is not None
        return decoded(self.splits.train, size) if labelled else train


def open_run(settings: RunSettings) -> RunImages:
    """The images of a run without labels.

    Raises:
        DataError: There are none, or they cannot be read.
        MissingDependencyError: A package is not installed that this kind of set needs.
    """
    if not is_stream(settings.data):
        return RunImages(splits=open_splits(settings.data, seed=settings.seed))
    with counted("indexing shards") as progress:
        found = open_stream(settings.data, progress=progress)
    return RunImages(splits=_held_out(found.train, found.test, settings), stream=found.train)


def _held_out(train: StreamIndex, test: StreamIndex | None, settings: RunSettings) -> Splits:
    """Test images in two halves, by class: one whose classes are known, one that is asked for.

    Where there are none, or nothing is measured, a few images without labels.
    """
    evaluation = settings.evaluation
    if test is None or len(test) < 2 or (evaluation.probe == "none" and not evaluation.every):
        few = _readable(first_images(test or train, _TRIED, labelled=False))
        return Splits(train=few, test=few, test_split="train" if test is None else "test")
    images = first_images(test, evaluation.max_images)
    known, asked = holdout_indices(images.labels, count=len(images), share=_KNOWN_SHARE, seed=settings.seed)
    return Splits(train=images.select(known), test=images.select(asked), test_split="test")


def _readable(images: Images) -> Images:
    """The first few images that can be read."""
    rows: list[int] = []
    for row in range(len(images)):
        with suppress(DataError):
            images.image(row)
            rows.append(row)
        if len(rows) == _FEW:
            break
    if not rows:
        raise DataError(f"none of the first {len(images)} images of {images.name} can be read; give another data set")
    return images.select(rows)
