"""Masking and throwing against drawing one patch after the other."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskContext
from edgemim.masking.throwing import ThrowingMasking
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan

WEIGHTS = [0.5, 4.0, 1.0, 0.25, 2.0, 0.0]
IMAGES = 20_000
PATCH = (16, 16)


def draw(
    attention: Tensor | None,
    grid: tuple[int, int],
    *,
    batch: int = 2,
    seed: int = 0,
    patch: tuple[int, int] = PATCH,
    **settings: Any,
) -> MaskPlan:
    rng = torch.Generator().manual_seed(seed)
    signals = {} if attention is None else {"own_attention": attention}
    context = MaskContext(patch_size=patch, signals=signals)
    images = batch if attention is None else len(attention)
    return ThrowingMasking(**settings).sample(images, grid, rng, context)


def members(plan: MaskPlan, *roles: int) -> list[list[int]]:
    wanted = torch.stack([plan.role == role for role in roles]).any(dim=0)
    return [[i for i, there in enumerate(row) if there] for row in wanted.tolist()]


def assert_frequencies(sets: list[list[int]], expected: dict[frozenset[int], float]) -> None:
    """Each set comes as often as expected, within five deviations of its binomial count (once in 1.7 million)."""
    for wanted, probability in expected.items():
        seen = sum(set(s) == wanted for s in sets)
        mean = len(sets) * probability
        assert abs(seen - mean) <= 5 * (mean * (1 - probability)) ** 0.5 + 1, (wanted, seen, mean)


def test_the_first_drawn_are_masked_and_the_next_thrown_away(reference: ModuleType) -> None:
    plan = draw(torch.tensor(WEIGHTS).expand(IMAGES, -1), (2, 3), mask_ratio=0.34, throw_ratio=0.34)
    assert plan.counts == (2, 2, 2)
    assert_frequencies(members(plan, MASKED), reference.sequential_probabilities(WEIGHTS, 2))
    assert_frequencies(members(plan, MASKED, DROPPED), reference.sequential_probabilities(WEIGHTS, 4))


# By hand: 88.2 and 166.6 of 196, 28.8 and 54.4 of 64, 64.8 and 122.4 of 144, 115.2 and 217.6 of 256, rounded down.
@pytest.mark.parametrize(
    ("side", "masked", "thrown"), [(14, 88, 78), (8, 28, 26), (12, 64, 58), (16, 115, 102), (7, 22, 19)]
)
def test_the_papers_counts_of_patches(side: int, masked: int, thrown: int) -> None:
    plan = draw(torch.rand(2, side * side), (side, side))
    assert plan.counts == (side * side - masked - thrown, masked, thrown)
    assert [[len(m) for m in members(plan, role)] for role in (MASKED, DROPPED)] == [[masked] * 2, [thrown] * 2]


def test_the_papers_counts_of_cells() -> None:
    plan = draw(torch.rand(3, 196), (14, 14), cell=32, mask_ratio=0.44, throw_ratio=0.26)
    assert plan.counts == (14 * 4, 22 * 4, 13 * 4)  # what survives are 36 cells, masked or visible
    cells = plan.role.view(3, 7, 2, 7, 2)
    assert (cells == cells[:, :, :1, :, :1]).all()
    counts = torch.stack([(cells[:, :, 0, :, 0] == role).sum(dim=(1, 2)) for role in (VISIBLE, MASKED, DROPPED)])
    assert counts.tolist() == [[14] * 3, [22] * 3, [13] * 3]


def test_a_cell_weighs_what_its_patches_weigh_together(reference: ModuleType) -> None:
    # Cells of 2 x 1 patches on a grid of 4 x 2: four cells, whose weights come from different places of them.
    patches = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.5, 0.0], [0.0, 4.0]])
    weights = [2.0, 2.0, 0.5, 4.0]
    plan = draw(
        patches.flatten().expand(IMAGES, -1), (4, 2), cell=32, patch=(16, 32), mask_ratio=0.25, throw_ratio=0.25
    )
    assert plan.counts == (4, 2, 2)
    cells = MaskPlan(plan.role.view(IMAGES, 2, 2, 2)[:, :, 0].flatten(1), (2, 2), (2, 1, 1))
    assert_frequencies(members(cells, MASKED), reference.sequential_probabilities(weights, 1))
    assert_frequencies(members(cells, MASKED, DROPPED), reference.sequential_probabilities(weights, 2))


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, (49, 147, 0)),
        ({"plain_ratio": 0.6}, (78, 118, 0)),  # 117.6 rounded up
        ({"cell": 32, "plain_ratio": 0.44}, (27 * 4, 22 * 4, 0)),
    ],
)
def test_without_attention_it_masks_evenly_and_throws_nothing_away(
    settings: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    plan = draw(None, (14, 14), batch=4_000, **settings)
    assert plan.counts == counts
    masked, share = plan.mask.sum(dim=0), counts[1] / 196
    # Five and a half deviations of a binomial count: one patch of 196 is beyond in a run of 100,000.
    assert (masked - 4_000 * share).abs().max() < 5.5 * (4_000 * share * (1 - share)) ** 0.5


def test_nothing_need_be_thrown_away() -> None:
    assert draw(torch.rand(2, 196), (14, 14), mask_ratio=0.75, throw_ratio=0.0).counts == (49, 147, 0)


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e30])
def test_equal_weights_of_any_size_give_a_fair_draw(weight: float) -> None:
    plan = draw(torch.full((IMAGES, 6), weight), (2, 3), mask_ratio=0.5, throw_ratio=0.17)
    assert plan.counts == (2, 3, 1)
    # Half of 20,000: deviation 71; a sixth: 53.
    assert ((plan.role == MASKED).sum(dim=0) - IMAGES / 2).abs().max() < 5 * 71
    assert ((plan.role == DROPPED).sum(dim=0) - IMAGES / 6).abs().max() < 5 * 53


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 0.0}, r"^masking\.mask_ratio must lie in \(0, 1\); got 0\.0$"),
        (
            {"throw_ratio": 0.6},
            r"^masking\.throw_ratio must not be negative, and with mask_ratio 0\.45 less than 1; got 0\.6$",
        ),
        ({"throw_ratio": -0.1}, r"^masking\.throw_ratio must not be negative, .* got -0\.1$"),
        ({"plain_ratio": 1.0}, r"^masking\.plain_ratio must lie in \(0, 1\); got 1\.0$"),
        ({"cell": -1}, r"^masking\.cell must not be negative; got -1$"),
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ThrowingMasking(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 0.05}, "of 16 patches masking.mask_ratio 0.05 masks 0 and throw_ratio 0.4 leaves 9 visible"),
        ({"plain_ratio": 0.99}, "plain_ratio 0.99 leaves 0; choose ratios that mask some and show some"),
        (
            {"cell": 32, "mask_ratio": 0.6, "throw_ratio": 0.3},
            "of 4 cells masking.mask_ratio 0.6 masks 3 and throw_ratio 0.3 leaves 0 visible, plain_ratio 0.75 leaves 1",
        ),
    ],
)
def test_ratios_beyond_the_grid_are_refused_before_a_run(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ThrowingMasking(**settings).check((4, 4), PATCH)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("grid", "patch", "cell"), [((14, 14), (16, 16), 24), ((7, 14), (16, 16), 32), ((4, 4), (16, 16), 8)]
)
def test_a_cell_that_does_not_fit_is_refused_in_one_line(
    grid: tuple[int, int], patch: tuple[int, int], cell: int
) -> None:
    with pytest.raises(ConfigError) as error:
        ThrowingMasking(cell=cell).check(grid, patch)
    assert str(error.value) == (
        f"masking.cell {cell} must be a whole number of patches of 16x16 pixels and divide images of "
        f"{grid[0] * 16}x{grid[1] * 16}; set another one, or 0 for single patches"
    )


def test_the_defaults_are_the_papers() -> None:
    assert ThrowingMasking() == ThrowingMasking(mask_ratio=0.45, throw_ratio=0.4, cell=0, plain_ratio=0.75)
