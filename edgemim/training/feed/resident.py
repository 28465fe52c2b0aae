"""A whole set of images on the device, which makes its own batches: the host only draws where to crop.

resident = resident_on(device, images)            # None where the set does not fit
raw = resident(drawn)                             # uint8 images on the device
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from edgemim.data.cache import Decoded
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, Raw, finished
from edgemim.training.feed.order import Place

# Of all the device's memory, not of what is free: a resumed run has to make its batches as it did before.
_SHARE = 0.1
_BLOCK = 4096


class Resident:
    """Images of one size on a device.

    Args:
        decoded: The images; copied.
        augmentation: Applied to each image.
        device: Where they are kept, as uint8.
    """

    def __init__(self, decoded: Decoded, augmentation: Augmentation, device: torch.device) -> None:
        array = decoded.array
        assert array is not None
        self.augmentation = augmentation
        self.rows = torch.from_numpy(decoded.rows).to(device)
        self.pixels = torch.empty(array.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(array), _BLOCK):
            block = array[start : start + _BLOCK]
            self.pixels[start : start + len(block)] = torch.from_numpy(block.copy())

    def __call__(self, drawn: Raw) -> Raw:
        """The batch that `AugmentedImages.drawn` describes, as `AugmentedImages` gives it, up to one grey level."""
        return finished(drawn, self.pixels[self.rows[drawn["index"]]], self.augmentation)


class DrawnImages(Dataset[Raw]):
    """What a DataLoader reads for a resident set."""

    def __init__(self, images: AugmentedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def quick(self) -> bool:
        """Numbers alone are drawn in no time; what a teacher saw may be many megabytes, which have to be read."""
        return self.images.taught is None

    def __getitems__(self, places: Sequence[Place]) -> Raw:
        """What `AugmentedImages.drawn` gives."""
        return self.images.drawn(places)


def resident_on(device: torch.device, images: AugmentedImages) -> Resident | None:
    """The set on a GPU, where its images have one size and take at most a tenth of the GPU's memory; else None."""
    decoded = images.one_size
    if device.type != "cuda" or decoded is None or decoded.array is None:
        return None
    if decoded.array.nbytes > _SHARE * torch.cuda.get_device_properties(device).total_memory:
        return None
    return Resident(decoded, images.augmentation, device)
