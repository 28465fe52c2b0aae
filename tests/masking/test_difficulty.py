"""From random to hard: which patches are certain to be hidden, and how the rest is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskContext
from edgemim.masking.difficulty import DifficultyMasking
from edgemim.models.mask_plan import MaskPlan

IMAGES = 20_000


def draw(difficulty: Tensor, grid: tuple[int, int], share: float, seed: int = 0, **settings: float) -> MaskPlan:
    rng = torch.Generator().manual_seed(seed)
    context = MaskContext(epoch_share=share, signals={"difficulty": difficulty})
    return DifficultyMasking(**settings).sample(len(difficulty), grid, rng, context)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("side", "hidden"), [(14, 147), (8, 48), (7, 37), (16, 192)])
def test_three_quarters_are_hidden_at_any_time(side: int, hidden: int, share: float) -> None:
    plan = draw(torch.randn(3, side * side), (side, side), share)
    assert plan.counts == (side * side - hidden, hidden, 0)


# Of 12 patches 9 are hidden; 9 * 0.5 * share, rounded down, are the hardest ones.
@pytest.mark.parametrize(("share", "certain"), [(0.0, 0), (0.2, 0), (0.23, 1), (0.5, 2), (0.99, 4), (1.0, 4)])
def test_the_share_of_the_hardest_grows_and_the_others_are_drawn_evenly(share: float, certain: int) -> None:
    difficulty = torch.tensor([0.1, -3.0, 0.7, 0.2, 9.0, -0.5, 0.3, 0.0, 2.0, -1.0, 0.4, 0.6])
    plan = draw(difficulty.expand(IMAGES, -1), (3, 4), share)
    seen = plan.mask.sum(dim=0)
    order = difficulty.argsort(descending=True)
    assert (seen[order[:certain]] == IMAGES).all()
    # The rest of the 9 fall on the rest of the 12, each alike: five deviations of a binomial count.
    likely = (9 - certain) / (12 - certain)
    deviation = math.sqrt(IMAGES * likely * (1 - likely))
    assert (seen[order[certain:]] - IMAGES * likely).abs().max() < 5 * deviation


def test_with_a_share_of_one_nothing_is_left_to_chance_at_the_end() -> None:
    difficulty = torch.randn(5, 64)
    plan = draw(difficulty, (8, 8), 1.0, hardest=1.0)
    assert torch.equal(plan.mask_ids, difficulty.topk(48, dim=1).indices.sort(dim=1).values)
    assert torch.equal(plan.role, draw(difficulty, (8, 8), 1.0, seed=1, hardest=1.0).role)


def test_each_image_follows_its_own_difficulty() -> None:
    difficulty = torch.eye(16)[[3, 15, 0]]
    for seed in range(10):
        plan = draw(difficulty, (4, 4), 0.2, seed=seed)  # one is certain: 12 * 0.5 * 0.2 = 1.2
        assert plan.mask[[0, 1, 2], [3, 15, 0]].all()


@pytest.mark.parametrize("difficulty", [torch.zeros(IMAGES, 6), torch.full((IMAGES, 6), -5.0)])
def test_where_all_are_alike_the_counts_still_hold(difficulty: Tensor) -> None:
    plan = draw(difficulty, (2, 3), 1.0, mask_ratio=0.5, hardest=0.4)
    assert (plan.mask.sum(dim=1) == 3).all()


def test_nothing_is_learnt_through_it() -> None:
    difficulty = torch.randn(2, 16, requires_grad=True)
    assert not draw(difficulty, (4, 4), 0.5).role.requires_grad


def test_without_the_difficulty_it_says_what_gives_it() -> None:
    for context in (None, MaskContext()):
        with pytest.raises(ConfigError) as error:
            DifficultyMasking().sample(2, (4, 4), torch.Generator(), context)
        assert str(error.value) == ("difficulty masking needs 'difficulty', which is not given; use it with method hpm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hardest": 1.1}, r"^masking\.hardest must lie in \[0, 1\]; got 1\.1$"),
        ({"hardest": -0.1}, r"^masking\.hardest must lie in \[0, 1\]; got -0\.1$"),
        ({"mask_ratio": 1.0}, r"^masking\.mask_ratio must lie in \(0, 1\); got 1\.0$"),
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DifficultyMasking(**settings)


def test_a_ratio_beyond_the_grid_is_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match=r"masking\.mask_ratio 0\.99 leaves 0 of 16 patches visible; choose"):
        DifficultyMasking(mask_ratio=0.99).check((4, 4), (16, 16))


def test_the_defaults_are_the_papers() -> None:
    assert DifficultyMasking() == DifficultyMasking(mask_ratio=0.75, hardest=0.5)
