"""From a data set's images to what a run reads: decoded once where that fits, else decoded as they come."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgemim.data.cache import Decoded, Skip, decode_cached
from edgemim.data.images import Images
from edgemim.errors import DataError
from edgemim.preprocess import Pixels
from edgemim.training.feed.unreadable import Readable, Unreadable, UnreadableImageError

_CACHE_BYTES = 8 << 30
_TYPICAL_ASPECT = 4 / 3


class Decodable(Protocol):
    """Images by index as uint8 [H, W, 3]."""

    def __len__(self) -> int: ...

    def get(self, i: int) -> Pixels:
        """Image `i`.

        Raises:
            UnreadableImageError: It cannot be decoded; a training run goes on without it. Any other error ends it.
        """


class OnTheFly:
    """Decodes an image each time it is read, for sets whose pixels would fill the disk."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def get(self, i: int) -> Pixels:
        """Image `i`, uint8 [H, W, 3].

        Raises:
            UnreadableImageError: It cannot be decoded, or its file is gone.
        """
        try:
            return np.asarray(self.images.image(i))
        except DataError as error:
            raise UnreadableImageError(self.images.describe(i), str(error)) from error


def decoded(images: Images, size: tuple[int, int]) -> Decoded | OnTheFly:
    """The pixels of a set for a model that takes `size`, every one of which can be read.

    Photos are stored with a shorter side of twice the model's, so that a random crop of a fifth of the area
    still has about as many pixels as the model takes.

    Raises:
        DataError: An image cannot be decoded; a set that is decoded as it comes says so later.
    """
    return _decoded(images, size, None)


def training_images(images: Images, size: tuple[int, int], *, max_unreadable: float) -> Readable:
    """As `decoded`, for training: a few images may be unreadable.

    Args:
        images: The training images.
        size: That the model takes.
        max_unreadable: Share of the images that may be unreadable.

    Raises:
        DataError: More cannot be read; a set that is decoded as it comes says so later.
    """
    unreadable = Unreadable(name=images.name, images=len(images), share=max_unreadable)

    def skip(i: int, error: DataError) -> None:
        unreadable.add(i, UnreadableImageError(images.describe(i), str(error)))

    return Readable(_decoded(images, size, skip), unreadable)


def _decoded(images: Images, size: tuple[int, int], skip: Skip | None) -> Decoded | OnTheFly:
    shorter = 2 * max(size)
    expected = len(images) * shorter * shorter * _TYPICAL_ASPECT * 3
    return decode_cached(images, shorter_side=shorter, skip=skip) if expected < _CACHE_BYTES else OnTheFly(images)
