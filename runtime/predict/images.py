"""Whatever a program holds an image in, one at a time, as the model's pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgemim.errors import DataError
from edgemim.preprocess import Pixels, Preprocess, read_image

# An array uint8 [H, W, 3] in RGB, a Pillow image, the path of a file, or the bytes of one.
Source = npt.NDArray[Any] | Image.Image | str | os.PathLike[str] | bytes
# One of these, an array uint8 [N, H, W, 3], or any number of them, each of a size of its own.
Sources = Source | Iterable[Source]


def each(images: Sources) -> Iterator[Source]:
    """The images one after the other; a single one is given as it is."""
    if isinstance(images, np.ndarray):
        yield from images if images.ndim == 4 else (images,)
    elif isinstance(images, Image.Image | str | os.PathLike | bytes):
        yield images
    else:
        yield from images


def to_pixels(source: Source, contract: Preprocess) -> Pixels:
    """Decode what is encoded, resize and crop: uint8 [H, W, 3] as the model takes it.

    A Pillow image is turned upright by its EXIF orientation, as a file is.

    Raises:
        DataError: It is not an image, cannot be read, or is an array of another type or shape.
    """
    if isinstance(source, np.ndarray):
        return contract.pixels(_image(source))
    if isinstance(source, Image.Image):
        return contract.pixels(ImageOps.exif_transpose(source))
    if isinstance(source, bytes):
        return contract.pixels(read_image(source))
    if isinstance(source, str | os.PathLike):
        return contract.pixels(read_image(Path(source)))
    raise DataError(f"an image is an array, a Pillow image, a path or bytes; got {type(source).__name__}")


def _image(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(
            f"an image is a uint8 array [H, W, 3] in RGB, values 0 to 255; got {array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))
