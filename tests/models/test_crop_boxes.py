"""Maps that follow a crop: beside images that were painted, cropped and mirrored, and beside a plain reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from edgemim.models.crop_boxes import CropBoxes, follow_crop
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.settings.augmentation import AugmentationSettings

MAP, CELL = (4, 6), 12  # of images of 48 x 72 pixels


def painted(cell: int) -> Tensor:
    """An image that is 1 in one cell of the map and 0 elsewhere."""
    row, column = divmod(cell, MAP[1])
    image = torch.zeros(MAP[0] * CELL, MAP[1] * CELL)
    image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 1
    return image


def cropped(image: Tensor, box: tuple[int, int, int, int], mirrored: bool, size: tuple[int, int]) -> Tensor:
    """The mean brightness of each patch of a crop, whose sides are whole numbers of patches."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    crop = crop.flip(1) if mirrored else crop
    return crop.reshape(size[0], height // size[0], size[1], width // size[1]).mean(dim=(1, 3))


def crops_of(box: tuple[int, ...], mirrored: bool) -> CropBoxes:
    sides = torch.tensor([MAP[0] * CELL, MAP[1] * CELL] * 2)
    return CropBoxes(boxes=(torch.tensor([box]) / sides).float(), mirrored=torch.tensor([mirrored]))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [MAP, (2, 3)])
@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0, 0, 48, 72), id="the whole"),
        pytest.param((6, 10, 20, 30), id="between cells"),
        pytest.param((28, 0, 20, 36), id="lower left"),
        pytest.param((0, 42, 48, 30), id="right"),
        pytest.param((25, 13, 8, 6), id="within a cell"),
    ],
)
def test_a_cell_stays_on_what_it_was_painted_on(
    box: tuple[int, int, int, int], size: tuple[int, int], mirrored: bool
) -> None:
    for cell in range(MAP[0] * MAP[1]):
        delta = torch.zeros(1, *MAP)
        delta.view(-1)[cell] = 1
        found = follow_crop(delta, crops_of(box, mirrored), size)
        # Shares of cells in float32, of numbers up to 6.
        torch.testing.assert_close(found[0], cropped(painted(cell), box, mirrored, size), rtol=1e-5, atol=2e-6)


def test_a_batch_of_crops_is_that_of_the_reference(reference: Callable[[str], ModuleType]) -> None:
    rng = torch.Generator().manual_seed(0)
    maps, corner = torch.rand(5, 3, 4, generator=rng), torch.rand(5, 2, generator=rng) / 2
    sides = 0.1 + torch.rand(5, 2, generator=rng) * (0.9 - corner)
    crops = CropBoxes(boxes=torch.cat([corner, sides], dim=1), mirrored=torch.tensor([True, False, True, False, True]))
    found = follow_crop(maps, crops, (5, 2))
    assert found.shape == (5, 5, 2)
    for values, box, mirrored, own in zip(maps, crops.boxes.tolist(), crops.mirrored.tolist(), found, strict=True):
        expected = reference("amt").crop_map(values.double(), box, mirrored, (5, 2))
        # float32 against float64, with shares of cells that are a hundredth of the map.
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-6)


def test_it_follows_the_crops_that_a_run_draws() -> None:
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    image[16:32, 48:72] = 255  # the cell of row 1 and column 2, of 4 x 4
    augmentation = Augmentation(size=(32, 32), settings=AugmentationSettings(), seed=0)
    crops = augmentation.draw([(epoch, 0) for epoch in range(30)], [image.shape[:2]] * 30)
    seen = augmentation.crop_each([image] * 30, crops).float().mean(dim=1) / 255
    seen = seen.view(30, 4, 8, 4, 8).mean(dim=(2, 4))
    placed = crops.placed([image.shape[:2]] * 30)
    delta = torch.zeros(30, 4, 4)
    delta[:, 1, 2] = 1
    found = follow_crop(delta, CropBoxes(boxes=placed[:, :4], mirrored=placed[:, 4] > 0), (4, 4))
    # The resize blurs an edge over about a pixel on either side, and a patch has 8 of them.
    assert (found - seen).abs().max() < 0.1
    assert 5 < int(crops.mirrored.sum()) < 25
    assert int((found.amax(dim=(1, 2)) > 0.5).sum()) > 15


def test_what_is_the_same_everywhere_stays_so_under_any_crop() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.33, 0.7], [0.0, 0.0, 1.0, 1.0], [0.9, 0.9, 0.1, 0.1]])
    crops = CropBoxes(boxes=boxes, mirrored=torch.tensor([True, False, False]))
    # Parts of a line at 0.9 are known to 6e-8 of 14, and are a hundredth of it long.
    torch.testing.assert_close(
        follow_crop(torch.full((3, 14, 14), 0.25), crops, (14, 14)), torch.full((3, 14, 14), 0.25), rtol=1e-4, atol=0
    )


def test_half_precision_around_it_changes_nothing() -> None:
    maps = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.7], [0.3, 0.0, 0.6, 0.9]])
    crops = CropBoxes(boxes=boxes, mirrored=torch.tensor([False, True]))
    exact = follow_crop(maps, crops, (7, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = follow_crop(maps, crops, (7, 7))
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)
