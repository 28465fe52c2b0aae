"""The images on which INT8 ranges are measured: which ones, in which order, and a record of it.

    calibration = choose_calibration(images, preprocess, count=300, seed=0)
    for batch in calibration:            # float32 [1, 3, H, W], decoded on the fly, as often as wanted
        ...

Always one image at a time, so that no statistic depends on how images were batched. The record holds the
sha256 of every image's bytes: a calibration can be repeated, and its images kept out of the evaluation.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgemim.errors import ConfigError, DataError
from edgemim.preprocess import Pixels, Preprocess
from edgemim.quantize.random_images import RandomImages

Floats = npt.NDArray[np.float32]

DEFAULT_COUNT = 300
# Below this the ranges of rare activations depend on which images were drawn.
ENOUGH = 128

_ORIENTATION = 0x0112  # EXIF: from 5 on, height and width are exchanged


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
        digests: sha256 (hex) of the bytes of each image, by position in `images`.
        requested: How many were asked for.
        seed: Of the order.
        synthetic: Whether they are noise, on which no accuracy can be built.
        notes: What a user should know about this choice, one sentence each.
        progress: Called with (images done, images per pass) during every pass.
    """

    images: ImageSource
    preprocess: Preprocess
    indices: tuple[int, ...]
    digests: Mapping[int, str]
    requested: int
    seed: int
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    progress: Callable[[int, int], None] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Floats]:
        for position in range(len(self)):
            yield self.preprocess.normalise(self.pixels(position)[None])
            if self.progress is not None:
                self.progress(position + 1, len(self))

    @property
    def hashes(self) -> tuple[str, ...]:
        """sha256 (hex) of the bytes of each image, in the order of use."""
        return tuple(self.digests[index] for index in self.indices)

    def pixels(self, position: int) -> Pixels:
        """The image at `position` in the order of use, decoded, resized and cropped: uint8 [H, W, 3].

        Raises:
            DataError: It cannot be read.
        """
        return self.preprocess.pixels(self.images.image(self.indices[position]))

    def record(self) -> dict[str, Any]:
        """What `calibration.json` says: count, seed, and index and sha256 of each image in order."""
        return {
            "schema_version": 1,
            "count": len(self),
            "requested": self.requested,
            "seed": self.seed,
            "order": "seeded, without replacement",
            "synthetic": self.synthetic,
            "notes": list(self.notes),
            "preprocess": self.preprocess.to_dict(),
            "images": [{"index": index, "sha256": self.digests[index]} for index in self.indices],
        }


def choose_calibration(
    images: ImageSource,
    preprocess: Preprocess,
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Choose images at random, each at most once; each is read once, for its hash and its size.

    With one seed a smaller `count` chooses the first images of a larger one. Fewer images than asked for are
    all used. `Calibration.notes` says so, and warns where there are few, where they are smaller than the model's
    input, and where they are noise.

    Raises:
        ConfigError: `count` is below 1.
        DataError: There is no image, or the file of one is gone.
    """
    if count < 1:
        raise ConfigError(f"calibration needs a count of at least 1; got {count}")
    if not len(images):
        raise DataError("there are no calibration images; name a folder or data set that has some")
    order = [int(index) for index in np.random.default_rng(seed).permutation(len(images))[:count]]
    digests, smaller = {}, 0
    for index in order:
        encoded = images.encoded(index)
        digests[index] = hashlib.sha256(encoded).hexdigest()
        smaller += _is_smaller(encoded, preprocess.size)
    synthetic = isinstance(images, RandomImages)
    return Calibration(
        images=images,
        preprocess=preprocess,
        indices=tuple(order),
        digests=digests,
        requested=count,
        seed=seed,
        synthetic=synthetic,
        notes=_notes(len(order), count, smaller, preprocess, synthetic=synthetic),
        progress=progress,
    )


def _notes(found: int, requested: int, smaller: int, preprocess: Preprocess, *, synthetic: bool) -> tuple[str, ...]:
    if synthetic:
        return (
            f"calibration on {found} images of random pixels is for trials of speed only: their accuracy says nothing",
        )
    notes = []
    if found < requested:
        notes.append(f"calibration uses all {found} images there are, {requested} were asked for")
    if found < ENOUGH:
        notes.append(f"calibration on {found} images is unreliable; use {ENOUGH} or more")
    if smaller:
        height, width = preprocess.size
        notes.append(
            f"{smaller} of {found} calibration images are smaller than the input of {height} x {width} pixels and "
            "were enlarged; use images as large as those the device sees"
        )
    return tuple(notes)


def _is_smaller(encoded: bytes, size: tuple[int, int]) -> bool:
    """Whether an image would have to be enlarged to cover `size`, from its header alone."""
    height, width = size
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            stored, turned = (h < height or w < width for w, h in (image.size, image.size[::-1]))
            # Asking some formats for their EXIF decodes the image: only where it matters.
            is_turned = stored != turned and image.getexif().get(_ORIENTATION, 1) >= 5
            return bool(turned if is_turned else stored)
    except (OSError, EOFError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError):
        return False  # decoding it will say what is wrong, and with which file
