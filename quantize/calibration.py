"""The images on which INT8 ranges are measured: which ones, in which order, and a record of it.

    calibration = choose_calibration(images, preprocess, count=300, seed=0)
    for batch in calibration:            # float32 [1, 3, H, W], decoded on the fly, as often as wanted
        ...

Always one image at a time, so that no statistic depends on how images were batched. The record holds the
sha256 of every image's bytes: a calibration can be repeated, and its images kept out of the evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgemim.errors import ConfigError, DataError
from edgemim.preprocess import Preprocess

Floats = npt.NDArray[np.float32]

DEFAULT_COUNT = 300
# Below this the ranges of rare activations depend on which images were drawn.
ENOUGH = 128


class ImageSource(Protocol):
    """What calibration needs of `edgemim.data.Images`."""

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> Image.Image:
        """The decoded image, RGB."""
        ...

    def encoded(self, index: int, /) -> bytes:
        """The bytes of the image file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Chosen images in a fixed order; iterating yields float32 [1, 3, H, W], as often as wanted.

    Attributes:
        images: Where they come from.
        preprocess: The model's contract.
        indices: Positions in `images`, each at most once, in the order of use.
        requested: How many were asked for.
        seed: Of the order.
        notes: What a user should know about this choice, one sentence each.
        progress: Called with (images done, images per pass) during every pass.
    """

    images: ImageSource
    preprocess: Preprocess
    indices: tuple[int, ...]
    requested: int
    seed: int
    notes: tuple[str, ...] = ()
    progress: Callable[[int, int], None] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Floats]:
        for done, index in enumerate(self.indices, start=1):
            yield self.preprocess.normalise(self.preprocess.pixels(self.images.image(index))[None])
            if self.progress is not None:
                self.progress(done, len(self))

    def record(self) -> dict[str, Any]:
        """What `calibration.json` says: count, seed, and index and sha256 of each image in order."""
        return {
            "schema_version": 1,
            "count": len(self),
            "requested": self.requested,
            "seed": self.seed,
            "order": "seeded, without replacement",
            "notes": list(self.notes),
            "preprocess": self.preprocess.to_dict(),
            "images": [
                {"index": index, "sha256": hashlib.sha256(self.images.encoded(index)).hexdigest()}
                for index in self.indices
            ],
        }


def choose_calibration(
    images: ImageSource,
    preprocess: Preprocess,
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Choose images at random, each at most once.

    With one seed a smaller `count` chooses the first images of a larger one. Fewer images than asked for are
    all used; `Calibration.notes` says so, and warns where they are few.

    Raises:
        ConfigError: `count` is below 1.
        DataError: There is no image.
    """
    if count < 1:
        raise ConfigError(f"calibration needs a count of at least 1; got {count}")
    if not len(images):
        raise DataError("there are no calibration images; name a folder or data set that has some")
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return Calibration(
        images=images,
        preprocess=preprocess,
        indices=tuple(int(index) for index in order),
        requested=count,
        seed=seed,
        notes=_notes(len(order), count),
        progress=progress,
    )


def _notes(found: int, requested: int) -> tuple[str, ...]:
    notes = []
    if found < requested:
        notes.append(f"calibration uses all {found} images there are, {requested} were asked for")
    if found < ENOUGH:
        notes.append(f"calibration on {found} images is unreliable; use {ENOUGH} or more")
    return tuple(notes)
