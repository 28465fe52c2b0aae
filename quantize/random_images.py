"""Noise in place of images, for trials of speed: only who writes `random:N` gets it.

Ranges measured on noise are those of no photo, so whatever is calibrated on it says so in its record and notes.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgemim.errors import ConfigError
from edgemim.preprocess import Preprocess

PREFIX = "random"


@dataclass(frozen=True, kw_only=True)
class RandomImages:
    """Images of independent uniform pixels, each a function of the seed and its index.

    Attributes:
        count: How many there are.
        size: Height and width in pixels.
        seed: Another one gives other noise.
    """

    count: int
    size: tuple[int, int]
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def encoded(self, index: int, /) -> bytes:
        """A BMP file."""
        pixels = np.random.default_rng((self.seed, index)).integers(0, 256, (*self.size, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="BMP")
        return stream.getvalue()

    def image(self, index: int, /) -> Image.Image:
        """The same, decoded."""
        return Image.open(io.BytesIO(self.encoded(index))).convert("RGB")


def random_images(spec: str, preprocess: Preprocess, *, seed: int = 0) -> RandomImages | None:
    """The noise that `random:N` asks for, in a size that is cropped but not resized; None for any other spec.

    Raises:
        ConfigError: N is missing, or no whole number above 0.
    """
    if spec.partition(":")[0] != PREFIX:
        return None
    if not re.fullmatch(f"{PREFIX}:0*[1-9][0-9]*", spec):
        raise ConfigError(f"random calibration images are asked for by {PREFIX}:N with a number N; got {spec!r}")
    height, width = (int(side / preprocess.crop_ratio) for side in preprocess.size)
    return RandomImages(count=int(spec.partition(":")[2]), size=(height, width), seed=seed)
