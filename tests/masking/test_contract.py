"""What every masking strategy promises, whatever it draws."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan

GRIDS = [(7, 7), (8, 8), (12, 12), (14, 14), (16, 16), (3, 5)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=MASKINGS.names())
def strategy(request: pytest.FixtureRequest) -> MaskingStrategy:
    made: MaskingStrategy = MASKINGS.get(request.param)()
    return made


@pytest.mark.parametrize("grid", GRIDS)
def test_every_image_has_the_same_counts_and_they_add_up(strategy: MaskingStrategy, grid: tuple[int, int]) -> None:
    plan = strategy.sample(5, grid, generator())
    assert plan.grid == grid
    assert plan.role.shape == (5, grid[0] * grid[1])
    counts = torch.stack([(plan.role == role).sum(dim=1) for role in (VISIBLE, MASKED, DROPPED)], dim=1)
    assert (counts == counts[0]).all()
    assert tuple(counts[0].tolist()) == plan.counts
    assert sum(plan.counts or ()) == grid[0] * grid[1]
    assert counts[0, VISIBLE] > 0
    assert counts[0, MASKED] > 0


def test_the_generator_is_the_only_source_of_chance(strategy: MaskingStrategy) -> None:
    def draw(seed: int) -> MaskPlan:
        torch.rand(3)  # the global generator moves, the plan does not
        return strategy.sample(4, (8, 8), generator(seed), MaskContext(epoch_share=0.5))

    assert torch.equal(draw(1).role, draw(1).role)
    assert not torch.equal(draw(1).role, draw(2).role)


def test_images_of_a_batch_are_masked_differently(strategy: MaskingStrategy) -> None:
    role = strategy.sample(8, (14, 14), generator()).role
    assert len({tuple(row.tolist()) for row in role}) > 1


def test_the_settings_are_a_frozen_dataclass_with_defaults(strategy: MaskingStrategy) -> None:
    assert dataclasses.is_dataclass(strategy)
    name = next(iter(dataclasses.fields(strategy))).name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(strategy, name, 0)
