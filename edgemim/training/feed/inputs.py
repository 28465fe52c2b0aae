"""From a data set's images to what a run reads: decoded once where that fits, else decoded as they come."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgemim.data.cache import Decoded, decode_cached
from edgemim.data.images import Images
from edgemim.preprocess import Pixels

_CACHE_BYTES = 8 << 30
_TYPICAL_ASPECT = 4 / 3


class Decodable(Protocol):
    """Images by index as uint8 [H, W, 3]."""

    def __len__(self) -> int: ...

    def get(self, i: int) -> Pixels:
        """Image `i`."""


class OnTheFly:
    """Decodes an image each time it is read, for sets whose pixels would fill the disk."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def get(self, i: int) -> Pixels:
        """Image `i`, uint8 [H, W, 3]."""
        return np.asarray(self.images.image(i))


def decoded(images: Images, size: tuple[int, int]) -> Decoded | OnTheFly:
    """The pixels of a set for a model that takes `size`.

    Photos are stored with a shorter side of twice the model's, so that a random crop of a fifth of the area
    still has about as many pixels as the model takes.
    """
    shorter = 2 * max(size)
    expected = len(images) * shorter * shorter * _TYPICAL_ASPECT * 3
    return decode_cached(images, shorter_side=shorter) if expected < _CACHE_BYTES else OnTheFly(images)
