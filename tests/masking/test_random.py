"""Uniform random masking against the plain reference."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# floor(L / 4) visible: 49 -> 12, 64 -> 16, 144 -> 36, 196 -> 49, 256 -> 64.
@pytest.mark.parametrize(("side", "visible"), [(7, 12), (8, 16), (12, 36), (14, 49), (16, 64)])
def test_three_quarters_hidden_leave_the_floor_of_a_quarter(reference: ModuleType, side: int, visible: int) -> None:
    plan = RandomMasking().sample(3, (side, side), generator())
    patches = side * side
    assert reference.visible_count(patches, "0.75") == visible
    assert plan.counts == (visible, patches - visible, 0)
    assert plan.keep_ids.shape == (3, visible)
    assert plan.mask_ids.shape == (3, patches - visible)


@pytest.mark.parametrize("ratio", ["0.5", "0.6", "0.9"])  # 10 x 10 at 0.9: 100 * (1 - 0.9) is 9.99... in binary
@pytest.mark.parametrize("side", [7, 8, 10, 12, 14, 16])
def test_other_ratios_leave_the_floor_too(reference: ModuleType, side: int, ratio: str) -> None:
    plan = RandomMasking(mask_ratio=float(ratio)).sample(1, (side, side), generator())
    assert plan.counts is not None
    assert plan.counts[0] == reference.visible_count(side * side, ratio)


def test_the_patches_with_the_smallest_numbers_stay(reference: ModuleType) -> None:
    grid, visible = (7, 7), 12
    plan = RandomMasking().sample(4, grid, generator(3))
    noise = torch.rand(4, 49, generator=generator(3)).tolist()
    for row, kept, hidden in zip(noise, plan.keep_ids.tolist(), plan.mask_ids.tolist(), strict=True):
        order = reference.shuffle(row)
        assert kept == sorted(order[:visible])
        assert hidden == sorted(order[visible:])


def test_restoring_undoes_the_shuffle(reference: ModuleType) -> None:
    plan = RandomMasking().sample(4, (14, 14), generator(5))
    sequence = torch.cat([plan.keep_ids, plan.mask_ids], dim=1)
    everything = torch.arange(196).expand(4, -1)
    assert torch.equal(sequence.gather(1, plan.restore_ids), everything)
    for order, places in zip(sequence.tolist(), plan.restore_ids.tolist(), strict=True):
        assert places == reference.inverse(order)


def test_every_patch_is_equally_likely_to_be_seen() -> None:
    # 4,000 draws of 16 from 64: the count of each patch has mean 1,000 and deviation sqrt(4000 * 1/4 * 3/4) = 27.4;
    # five deviations are exceeded once in 27,000 seeds, and the seed is fixed.
    plan = RandomMasking().sample(4000, (8, 8), generator(0))
    seen = (plan.role == 0).sum(dim=0)
    assert (seen - 1000).abs().max() < 137


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"masking\.mask_ratio must lie in \(0, 1\); got"):
        RandomMasking(mask_ratio=ratio)


def test_a_ratio_too_big_for_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves 0 of 16 patches visible"):
        RandomMasking(mask_ratio=0.95).sample(1, (4, 4), generator())
