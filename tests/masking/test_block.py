"""BEiT's blocks against the plain reference."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking.block import BlockMasking
from edgemim.masking.random import RandomMasking


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden"),
    [((14, 14), 0.4, 78), ((14, 14), 0.5, 98), ((8, 8), 0.4, 25), ((4, 4), 0.4, 6), ((14, 28), 0.4, 156)],
)
def test_the_paper_s_counts_and_those_of_other_grids(grid: tuple[int, int], ratio: float, hidden: int) -> None:
    plan = BlockMasking(mask_ratio=ratio).sample(4, grid, generator())
    assert plan.counts == (grid[0] * grid[1] - hidden, hidden, 0)


# The smallest area is 16, as on every grid of 128 patches and more, or an eighth of the patches.
@pytest.mark.parametrize(
    ("grid", "ratio", "count", "least"),
    [
        ((14, 14), 0.4, 78, 16),
        ((14, 14), 0.5, 98, 16),
        ((14, 14), 0.9, 176, 16),
        ((8, 20), 0.3, 48, 16),
        ((8, 8), 0.5, 32, 8),
        ((4, 5), 0.4, 8, 2),
        ((1, 9), 0.4, 3, 1),
    ],
)
def test_the_blocks_are_those_of_the_sampler(
    reference: ModuleType, grid: tuple[int, int], ratio: float, count: int, least: int
) -> None:
    images, patches = 40, grid[0] * grid[1]
    plan = BlockMasking(mask_ratio=ratio).sample(images, grid, generator(3))
    rng = generator(3)
    tries = torch.rand(images, 128, 4, generator=rng).tolist()
    single = torch.rand(images, patches, generator=rng).tolist()
    for numbers, keys, hidden in zip(tries, single, plan.mask_ids.tolist(), strict=True):
        assert hidden == sorted(reference.block_mask(grid, count, least, numbers, keys))


def test_a_smaller_minimum_gives_smaller_blocks() -> None:
    def borders(masking: BlockMasking | RandomMasking) -> float:
        """Neighbours of which one is hidden and one seen, per image."""
        mask = masking.sample(200, (14, 14), generator()).mask.view(-1, 14, 14)
        across = (mask[:, :, 1:] != mask[:, :, :-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
        return float(across) / len(mask)

    # 364 pairs of neighbours; of random masks with 78 of 196 hidden, 2 * 0.4 * 0.6 = 48 % have a border.
    large, small = borders(BlockMasking()), borders(BlockMasking(min_patches=1))
    assert large < 0.9 * small
    assert small < 0.6 * borders(RandomMasking(mask_ratio=0.6))


def test_the_last_patches_are_drawn_at_random_where_no_block_fits() -> None:
    # In one row no block is shorter than the grid: 3 of 9, each equally likely. Of 4,000 draws the count of a patch
    # has mean 1,333 and deviation sqrt(4000 * 2/9) = 29.8; five of them are exceeded once in 190,000 seeds.
    plan = BlockMasking(mask_ratio=1 / 3 + 0.01).sample(4000, (1, 9), generator())
    assert (plan.mask.sum(dim=0) - 4000 / 3).abs().max() < 149


def test_a_minimum_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"masking\.min_patches must be at least 1; got 0"):
        BlockMasking(min_patches=0)
