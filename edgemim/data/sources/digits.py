"""1,797 handwritten digits that come with scikit-learn: real images without a download.

The 8x8 grey images are enlarged to 32x32 (bicubic) and kept as PNG; 1,437 train, 360 test, the same
on every machine.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.

Licence: CC BY 4.0.

Needs: scikit-learn, datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

import io
from functools import partial

import datasets
import numpy as np
from PIL import Image

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import Source, SplitOpeners
from edgemim.data.stratify import holdout_indices
from edgemim.errors import DataError, MissingDependencyError
from edgemim.preprocess import Pixels

_SIDE = 32
_WHITE = 16  # the largest value in the data set
_TEST_SHARE = 0.2


class Digits(Source):
    """The bundled digits; their only name is `digits`."""

    def matches(self, spec: str) -> bool:
        return spec.strip().lower() == "digits"

    def splits(self, spec: str) -> SplitOpeners:
        if spec and not self.matches(spec):
            raise DataError(f"the bundled digits have one name, 'digits'; got {spec!r}")
        return {"train": partial(_open, "train"), "test": partial(_open, "test")}


def _open(split: str) -> Images:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingDependencyError("data source 'digits'", "scikit-learn", "train") from error
    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = holdout_indices(labels, count=len(labels), share=_TEST_SHARE, seed=0)
    rows = train if split == "train" else test
    pixels = np.rint(digits.images[rows] * (255 / _WHITE)).astype(np.uint8)
    return Images(
        datasets.Dataset.from_dict({"image": [_png(p) for p in pixels]}),
        name=f"digits [{split}]",
        labels=labels[rows],
        class_names=[str(n) for n in digits.target_names],
    )


def _png(grey: Pixels) -> bytes:
    """uint8 [8, 8] to an RGB PNG of 32x32; not compressed, so that no zlib version changes the bytes."""
    image = Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).convert("RGB")
    stream = io.BytesIO()
    image.save(stream, "png", compress_level=0)
    return stream.getvalue()


SOURCES.add("digits", Digits)
