"""Random crop, flip and colour jitter, a pure function of (seed, epoch, image index).

Source: the crop is Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842, as used by
He et al., arXiv:2111.06377, appendix A (RandomResizedCrop and horizontal flip, nothing else).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from edgemim.preprocess import Pixels
from edgemim.training.feed.batched import cropped, jittered
from edgemim.training.feed.draws import Crops, Shapes, draw_crops
from edgemim.training.feed.order import Place
from edgemim.training.settings.augmentation import AugmentationSettings


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Crops images at random to `size`, flips them and changes their colours.

    Args:
        size: Height and width of the result.
        settings: Areas, aspect ratios, flip, strength of the jitter.
        seed: Of the run.
    """

    size: tuple[int, int]
    settings: AugmentationSettings
    seed: int

    def __call__(self, pixels: Pixels, epoch: int, index: int) -> Tensor:
        """One image as an epoch shows it: uint8 [h, w, 3] to uint8 [3, H, W]."""
        crops = self.draw([(epoch, index)], [pixels.shape[:2]])
        return self.colours(self.crop_each([pixels], crops), crops)["images"][0]

    def draw(self, places: Sequence[Place], shapes: Shapes, *, which: int = 0) -> Crops:
        """What happens to the images of these (epoch, index) places, whose heights and widths are `shapes`."""
        return draw_crops(self.settings, self.size, self.seed, places, shapes, which=which)

    def crop_each(self, images: Sequence[Pixels], crops: Crops) -> Tensor:
        """Crops of images of any sizes, one after the other: uint8 [h, w, 3] each to uint8 [B, 3, H, W]."""
        each = zip(images, crops.boxes.tolist(), crops.mirrored.tolist(), strict=True)
        return torch.stack([self._crop(pixels, box, mirrored) for pixels, box, mirrored in each])

    def crop_together(self, pixels: Tensor, crops: Crops) -> Tensor:
        """Crops of images of one size, on their device: uint8 [B, h, w, 3] to uint8 [B, 3, H, W]."""
        return cropped(pixels, crops, self.size)

    def colours(self, plain: Tensor, crops: Crops) -> dict[str, Tensor]:
        """`images`, the crops [B, 3, H, W] in their new colours; and `plain`, the old ones, if a teacher sees those."""
        if not self.settings.colour_jitter:
            return {"images": plain}
        images = {"images": jittered(plain, crops.factors)}
        return images if self.settings.jitter_teacher else images | {"plain": plain}

    def _crop(self, pixels: Pixels, box: Sequence[int], mirrored: bool) -> Tensor:
        top, left, height, width = box
        image = torch.from_numpy(pixels[top : top + height, left : left + width].copy()).permute(2, 0, 1)
        if (height, width) != self.size:
            image = functional.resize(image, list(self.size), InterpolationMode.BICUBIC, antialias=True)
        return functional.horizontal_flip(image) if mirrored else image
