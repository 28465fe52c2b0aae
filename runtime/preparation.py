"""Whether this device prepares an image as the machine did that wrote the bundle."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgemim.errors import DataError, DeviceError
from edgemim.preprocess import read_image
from edgemim.runtime.bundle import Bundle
from edgemim.runtime.evaluation import Evaluation

# In grey levels of 255: other builds of Pillow and of the JPEG library round differently by one or two; another
# decoder, filter or order of channels is off by tens.
_LARGEST_LEVELS = 4
# Of values around 1: far above another order of float32 rounding, far below one step of a pixel (0.017).
_TOLERANCE = 1e-4


def compare_preparation(bundle: Bundle) -> dict[str, Any]:
    """How far this device is off when it prepares the golden images: decoding and resizing, then normalising.

    Returns:
        `max_levels`, the largest difference of a pixel in grey levels, None where the images stayed behind; `max_abs`,
        that of the normalised golden pixels, None where the graph normalises; `exact`, whether there is none at all.

    Raises:
        DeviceError: So far off that the model would see other images here.
    """
    levels = None if bundle.golden.images is None else _levels_off(bundle.golden.images, bundle)
    if bundle.encoding == "pixels":
        return {"exact": not levels, "max_levels": levels, "max_abs": None}
    ours, theirs = bundle.preprocess.normalise(bundle.golden.pixels), bundle.golden.inputs
    off = float(np.abs(ours - theirs).max())
    if not off <= _TOLERANCE:
        raise DeviceError(
            f"this device normalises the golden pixels differently by {off:.3g}: nothing measured here would "
            "be about the model in the bundle; install another numpy, or write the bundle again"
        )
    exact = bool(np.array_equal(ours, theirs))
    return {"exact": exact and not levels, "max_levels": levels, "max_abs": off}


def _levels_off(images: Evaluation, bundle: Bundle) -> int:
    """Largest difference between a golden image as decoded and resized here and its golden pixels."""
    levels = 0
    for index, data in enumerate(images.encoded()):
        try:
            ours = bundle.preprocess.pixels(read_image(data))
        except DataError as error:
            raise DeviceError(
                f"this device cannot decode the golden {images.members[index]}; install a Pillow that knows its format"
            ) from error
        difference = np.abs(ours.astype(np.int16) - bundle.golden.pixels[index])
        levels = max(levels, int(difference.max()))
    if levels > _LARGEST_LEVELS:
        raise DeviceError(
            f"this device decodes or resizes the golden images differently, by {levels} of 255 grey levels "
            f"(at most {_LARGEST_LEVELS} can be rounding): the model would see other images here; install the "
            "Pillow that the bundle was made with"
        )
    return levels
