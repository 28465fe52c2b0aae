"""How many patches a ratio hides, and what is refused."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking.attention import AttentionMasking
from edgemim.masking.block import BlockMasking
from edgemim.masking.cells import CellMasking
from edgemim.masking.color import ColorMasking

Masking = type[CellMasking] | type[BlockMasking] | type[ColorMasking] | type[AttentionMasking]
ALL: list[Masking] = [CellMasking, BlockMasking, ColorMasking, AttentionMasking]
UP: list[Masking] = [ColorMasking, AttentionMasking]


def counts(masking: MaskingStrategy, grid: tuple[int, int]) -> tuple[int, ...]:
    context = MaskContext(signals={"teacher_attention": torch.ones(2, grid[0] * grid[1])})
    plan = masking.sample(2, grid, torch.Generator().manual_seed(0), context)
    assert plan.counts is not None
    return plan.counts


@pytest.mark.parametrize("ratio", ["0.1", "0.25", "0.5", "0.6", "0.7", "0.75", "0.85", "0.9"])
@pytest.mark.parametrize("grid", [(8, 8), (10, 10), (14, 14), (4, 5), (20, 20)])
@pytest.mark.parametrize("masking", UP)
def test_the_floor_of_the_visible_share_is_exact(
    reference: ModuleType, masking: Masking, grid: tuple[int, int], ratio: str
) -> None:
    # In binary, 100 * (1 - 0.9) is a little less than 10 and 400 * (1 - 0.7) a little more than 120.
    patches = grid[0] * grid[1]
    visible = reference.visible_count(patches, ratio)
    assert counts(masking(mask_ratio=float(ratio)), grid) == (visible, patches - visible, 0)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("masking", ALL)
def test_a_ratio_that_hides_all_or_nothing_is_refused(masking: Masking, ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"masking\.mask_ratio must lie in \(0, 1\); got"):
        masking(mask_ratio=ratio)


@pytest.mark.parametrize(
    ("masking", "ratio", "what"),
    [
        (CellMasking, 0.8, "0 of 4 cells"),
        (BlockMasking, 0.01, "64 of 64 patches"),
        (ColorMasking, 0.99, "0 of 64 patches"),
        (AttentionMasking, 0.99, "0 of 64 patches"),
    ],
)
def test_a_ratio_beyond_the_grid_is_refused_before_a_run(masking: Masking, ratio: float, what: str) -> None:
    grid = (4, 4) if masking is CellMasking else (8, 8)
    with pytest.raises(ConfigError, match=rf"masking\.mask_ratio {ratio} leaves {what} visible; choose"):
        masking(mask_ratio=ratio).check(grid, (16, 16))
