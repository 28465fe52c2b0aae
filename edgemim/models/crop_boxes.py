"""Where each image of a batch was cut out of its original, so that what is known of the original can follow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CropBoxes:
    """Of B images.

    Attributes:
        boxes: float32 [B, 4]: top, left, height and width of each crop, as shares of its original's sides.
        mirrored: bool [B]: turned left to right after it was cut out.
    """

    boxes: Tensor
    mirrored: Tensor
