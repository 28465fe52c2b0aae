"""What every masking strategy promises, whatever it draws."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking.random import RandomMasking
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan

# The middle three are the grids of images of 192, 224 and 256 pixels in patches of 16.
GRIDS = [(7, 7), (8, 8), (12, 12), (14, 14), (16, 16), (3, 5), (4, 4), (8, 14)]
PATCH = (16, 16)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def generator(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def draw(strategy: MaskingStrategy, batch: int, grid: tuple[int, int], rng: torch.Generator) -> MaskPlan:
    """A plan, with random signals for a strategy that needs some."""
    shape = (batch, grid[0] * grid[1])
    signals = {name: torch.rand(shape, generator=generator(9)).to(rng.device) for name in strategy.needs}
    return strategy.sample(batch, grid, rng, MaskContext(epoch_share=0.5, patch_size=PATCH, signals=signals))


def accepts(strategy: MaskingStrategy, grid: tuple[int, int]) -> bool:
    try:
        strategy.check(grid, PATCH)
    except ConfigError:
        return False
    return True


@pytest.fixture(params=MASKINGS.names())
def strategy(request: pytest.FixtureRequest) -> MaskingStrategy:
    made: MaskingStrategy = MASKINGS.get(request.param)()
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_image_has_the_same_counts_and_they_add_up(
    strategy: MaskingStrategy, grid: tuple[int, int], device: str
) -> None:
    if not accepts(strategy, grid):
        pytest.skip("it refuses this grid")
    plan = draw(strategy, 5, grid, generator(device=device))
    assert plan.grid == grid
    assert plan.role.shape == (5, grid[0] * grid[1])
    assert plan.role.dtype == torch.int8
    assert plan.role.device.type == device
    counts = torch.stack([(plan.role == role).sum(dim=1) for role in (VISIBLE, MASKED, DROPPED)], dim=1)
    assert (counts == counts[0]).all()
    assert tuple(counts[0].tolist()) == plan.counts
    assert sum(plan.counts or ()) == grid[0] * grid[1]
    assert counts[0, VISIBLE] > 0
    assert counts[0, MASKED] > 0


def test_the_usual_grids_are_accepted_and_most_others(strategy: MaskingStrategy) -> None:
    assert all(accepts(strategy, grid) for grid in [(12, 12), (14, 14), (16, 16)])
    assert sum(accepts(strategy, grid) for grid in GRIDS) > len(GRIDS) / 2


def test_the_generator_is_the_only_source_of_chance(strategy: MaskingStrategy) -> None:
    def role(seed: int) -> torch.Tensor:
        torch.rand(3)  # the global generator moves, the plan does not
        return draw(strategy, 4, (8, 8), generator(seed)).role

    assert torch.equal(role(1), role(1))
    assert not torch.equal(role(1), role(2))


def test_two_plans_of_one_generator_differ(strategy: MaskingStrategy) -> None:
    rng = generator()
    assert not torch.equal(draw(strategy, 4, (14, 14), rng).role, draw(strategy, 4, (14, 14), rng).role)


def test_images_of_a_batch_are_masked_differently(strategy: MaskingStrategy) -> None:
    role = draw(strategy, 8, (14, 14), generator()).role
    assert len({tuple(row.tolist()) for row in role}) > 1


def test_every_patch_is_hidden_at_times_and_seen_at_times(strategy: MaskingStrategy) -> None:
    hidden = (draw(strategy, 400, (14, 14), generator()).role != VISIBLE).sum(dim=0)
    assert hidden.min() > 0
    assert hidden.max() < 400


def test_the_settings_are_a_frozen_dataclass_with_defaults(strategy: MaskingStrategy) -> None:
    assert dataclasses.is_dataclass(strategy)
    name = next(iter(dataclasses.fields(strategy))).name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(strategy, name, 0)


def test_an_image_that_is_one_patch_is_refused_with_its_size(strategy: MaskingStrategy) -> None:
    with pytest.raises(ConfigError, match=r"^an image is one patch of 32x32 pixels, .* choose larger images \(preproc"):
        strategy.check((1, 1), (32, 32))


def test_too_few_masked_patches_for_a_method_are_refused() -> None:
    RandomMasking(mask_ratio=0.06).check((4, 4), PATCH)
    RandomMasking(mask_ratio=0.12).check((4, 4), PATCH, fewest=2)
    with pytest.raises(
        ConfigError, match=r"^1 of 16 patches is masked, and the method compares at least 2 of an image"
    ):
        RandomMasking(mask_ratio=0.06).check((4, 4), PATCH, fewest=2)
