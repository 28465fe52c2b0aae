"""Random crop, flip and colour jitter of one image, a pure function of (seed, epoch, image index).

Source: the crop is Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842, as used by
He et al., arXiv:2111.06377, appendix A (RandomResizedCrop and horizontal flip, nothing else).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from edgemim.preprocess import Pixels
from edgemim.training.settings.augmentation import AugmentationSettings

_ATTEMPTS = 10
# Its numbers are apart from the crop's, so that the crops of a run are the same with and without it.
_JITTER = 1


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Crops an image at random to `size`, flips it and changes its colours.

    Args:
        size: Height and width of the result.
        settings: Areas, aspect ratios, flip, strength of the jitter.
        seed: Of the run.
    """

    size: tuple[int, int]
    settings: AugmentationSettings
    seed: int

    def __call__(self, pixels: Pixels, epoch: int, index: int) -> Tensor:
        """uint8 [h, w, 3] to uint8 [3, H, W]."""
        return self.jitter(self.crop(pixels, epoch, index), epoch, index)

    def crop(self, pixels: Pixels, epoch: int, index: int) -> Tensor:
        """The crop, flipped or not, in its own colours: uint8 [h, w, 3] to uint8 [3, H, W]."""
        rng = np.random.default_rng((self.seed, epoch, index))
        top, left, height, width = self._box(rng, pixels.shape[0], pixels.shape[1])
        image = torch.from_numpy(pixels[top : top + height, left : left + width].copy())
        image = image.permute(2, 0, 1)
        if (height, width) != self.size:
            image = functional.resize(image, list(self.size), InterpolationMode.BICUBIC, antialias=True)
        if self.settings.flip and rng.random() < 0.5:
            image = functional.horizontal_flip(image)
        return image

    def jitter(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """Other brightness, then contrast, then saturation (He et al. use none; Ren et al., arXiv:2301.01296, do)."""
        strength = self.settings.colour_jitter
        if not strength:
            return image
        rng = np.random.default_rng((self.seed, epoch, index, _JITTER))
        brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3)
        image = functional.adjust_brightness(image, brightness)
        image = functional.adjust_contrast(image, contrast)
        jittered: Tensor = functional.adjust_saturation(image, saturation)
        return jittered

    def _box(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a crop: random area, log-uniform aspect; the centre after ten misses."""
        wanted = self.size[1] / self.size[0]
        spread = math.log(self.settings.max_aspect)
        for _ in range(_ATTEMPTS):
            area = height * width * rng.uniform(self.settings.min_scale, self.settings.max_scale)
            aspect = wanted * math.exp(rng.uniform(-spread, spread))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        h, w = min(height, max(1, round(width / wanted))), min(width, max(1, round(height * wanted)))
        return (height - h) // 2, (width - w) // 2, h, w
