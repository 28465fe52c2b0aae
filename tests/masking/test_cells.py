"""SimMIM's cells against the plain reference."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskContext
from edgemim.masking.cells import CellMasking
from edgemim.models.mask_plan import MaskPlan


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(size: tuple[int, int], patch: tuple[int, int], batch: int = 3, cell: int = 32, seed: int = 0) -> MaskPlan:
    grid = size[0] // patch[0], size[1] // patch[1]
    return CellMasking(cell=cell).sample(batch, grid, generator(seed), MaskContext(patch_size=patch))


# The paper's counts: 30 of the 49 cells of 224 pixels, 22 of the 36 of 192; 2 x 2 patches of a ViT, 8 x 8 of a Swin.
@pytest.mark.parametrize(("side", "hidden", "cells"), [(224, 30, 49), (192, 22, 36)])
@pytest.mark.parametrize(("patch", "repeated"), [(16, 2), (4, 8), (32, 1)])
def test_the_paper_s_counts_and_repetitions(side: int, hidden: int, cells: int, patch: int, repeated: int) -> None:
    plan = draw((side, side), (patch, patch))
    area = repeated * repeated
    assert plan.counts == ((cells - hidden) * area, hidden * area, 0)
    blocks = plan.mask.view(3, side // 32, repeated, side // 32, repeated)
    whole = blocks.all(dim=4).all(dim=2)
    assert torch.equal(whole, blocks.any(dim=4).any(dim=2))
    assert whole.sum(dim=(1, 2)).tolist() == [hidden] * 3


@pytest.mark.parametrize(
    ("size", "patch", "cell"), [((64, 96), (16, 16), 32), ((96, 64), (8, 16), 32), ((48, 32), (4, 4), 8)]
)
def test_the_cells_with_the_smallest_numbers_are_hidden(
    reference: ModuleType, size: tuple[int, int], patch: tuple[int, int], cell: int
) -> None:
    cells = (size[0] // cell) * (size[1] // cell)
    noise = torch.rand(3, cells, generator=generator(5)).tolist()
    plan = draw(size, patch, cell=cell, seed=5)
    hidden = cells - reference.visible_count(cells, "0.6")
    for row, mask in zip(noise, plan.mask.tolist(), strict=True):
        assert mask == reference.cell_mask(size, patch, cell, set(reference.shuffle(row)[:hidden]))


def test_a_vit_and_a_swin_hide_the_same_pixels() -> None:
    fine, coarse = draw((224, 224), (4, 4), seed=2), draw((224, 224), (16, 16), seed=2)
    assert torch.equal(coarse.at((56, 56)).mask, fine.mask)


def test_every_cell_is_equally_likely_to_be_hidden() -> None:
    # 4,000 draws of 30 from 49: the count of a cell has mean 2,449 and deviation sqrt(4000 * 30/49 * 19/49) = 30.8;
    # five deviations are exceeded by one of 49 once in 35,000 seeds, and the seed is fixed.
    plan = draw((224, 224), (32, 32), batch=4000)
    assert (plan.mask.sum(dim=0) - 4000 * 30 / 49).abs().max() < 154


def test_the_ceiling_is_of_the_ratio_as_it_is_written() -> None:
    # In binary, 0.55 * 100 is a little more than 55.
    plan = CellMasking(mask_ratio=0.55).sample(1, (10, 10), generator(), MaskContext(patch_size=(32, 32)))
    assert plan.counts == (45, 55, 0)


def test_cells_that_cut_patches_are_refused_and_the_fitting_ones_named() -> None:
    with pytest.raises(ConfigError) as error:
        CellMasking(cell=24).check((14, 14), (16, 16))
    assert str(error.value) == (
        "masking.cell 24 is no whole number of patches of 16x16 pixels; cells that fit: 16, 32, 112"
    )


def test_images_that_cut_cells_are_refused_and_the_fitting_ones_named() -> None:
    with pytest.raises(ConfigError) as error:
        CellMasking().check((5, 10), (16, 16))
    assert str(error.value) == (
        "images of 80x160 pixels are no whole number of masking.cell 32; cells that fit: 16, 80"
    )


def test_an_image_of_one_patch_has_no_cells() -> None:
    with pytest.raises(ConfigError, match="cells that fit: none"):
        CellMasking(cell=24).sample(1, (1, 1), torch.Generator())


def test_a_cell_of_no_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"masking\.cell must be at least 1 pixel; got 0"):
        CellMasking(cell=0)
