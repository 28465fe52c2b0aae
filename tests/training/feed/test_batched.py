"""A batch cropped and jittered at once is what its images are one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.batched import cropped, jittered
from edgemim.training.feed.draws import Crops
from edgemim.training.settings.augmentation import AugmentationSettings

COUNT = 24


def images(height: int, width: int, kind: str = "noise") -> np.ndarray[Any, Any]:
    """Noise swings from black to white between pixels: the filter overshoots as far as it can."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 2, (COUNT, height, width, 3), dtype=np.uint8) * 255
    ramp = np.linspace(0, 255, width)[None, None, :, None] * rng.uniform(0.2, 1, (COUNT, height, 1, 3))
    return ramp.round().astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "ramp"])
@pytest.mark.parametrize("shape", [(32, 32), (40, 24), (9, 50), (64, 64)])
@pytest.mark.parametrize("size", [(32, 32), (16, 24), (48, 8)])
def test_it_is_the_image_by_image_result_up_to_one_grey_level(
    shape: tuple[int, int], size: tuple[int, int], kind: str
) -> None:
    augment = Augmentation(size=size, settings=AugmentationSettings(min_scale=0.05), seed=0)
    pixels = images(*shape, kind)
    crops = augment.draw([(0, index) for index in range(COUNT)], [shape] * COUNT)
    expected = augment.crop_each(list(pixels), crops)
    found = augment.crop_together(torch.from_numpy(pixels), crops)
    assert found.shape == expected.shape == (COUNT, 3, *size)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert crops.mirrored.any()
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_crop_of_the_right_size_is_copied() -> None:
    pixels = images(20, 20)
    boxes = torch.tensor([[k % 5, k % 4, 16, 16] for k in range(COUNT)])
    crops = Crops(boxes=boxes, mirrored=torch.zeros(COUNT, dtype=torch.bool), factors=torch.ones(COUNT, 3))
    found = cropped(torch.from_numpy(pixels), crops, (16, 16))
    for k, (top, left, _, _) in enumerate(boxes.tolist()):
        expected = pixels[k, top : top + 16, left : left + 16].transpose(2, 0, 1)
        assert np.array_equal(found[k].numpy(), expected)


def test_autocast_around_it_changes_nothing() -> None:
    augment = Augmentation(size=(16, 16), settings=AugmentationSettings(), seed=0)
    pixels = torch.from_numpy(images(32, 32))
    crops = augment.draw([(0, index) for index in range(COUNT)], [(32, 32)] * COUNT)
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment.crop_together(pixels, crops)
    assert torch.equal(inside, augment.crop_together(pixels, crops))


def one_by_one(image: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors.tolist()
    image = functional.adjust_brightness(image, brightness)
    image = functional.adjust_contrast(image, contrast)
    return functional.adjust_saturation(image, saturation)


def test_jitter_is_torchvisions() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (COUNT, 3, 12, 12), dtype=np.uint8))
    factors = torch.from_numpy(rng.uniform(0.2, 1.8, (COUNT, 3)).astype(np.float32))
    found = jittered(pixels, factors)
    expected = torch.stack([one_by_one(image, f) for image, f in zip(pixels, factors, strict=True)])
    assert found.dtype == torch.uint8
    # A value just below a whole number may be rounded down by one of the two, and the next step may widen that.
    differences = (found.int() - expected.int()).abs()
    assert differences.max() <= 2
    assert (differences > 0).float().mean() < 0.01


def test_factors_of_one_change_nothing() -> None:
    pixels = torch.from_numpy(images(12, 12, "ramp").transpose(0, 3, 1, 2).copy())
    assert torch.equal(jittered(pixels, torch.ones(COUNT, 3)), pixels)
