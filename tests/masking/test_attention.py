"""Masking by the teacher's attention against drawing one patch after the other."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskContext
from edgemim.masking.attention import AttentionMasking
from edgemim.models.mask_plan import MaskPlan

WEIGHTS = [0.5, 4.0, 1.0, 0.25, 2.0, 0.0]
DRAWS = 20_000


def draw(attention: Tensor, grid: tuple[int, int], seed: int = 0, **settings: object) -> MaskPlan:
    rng = torch.Generator().manual_seed(seed)
    masking = AttentionMasking(**settings)  # type: ignore[arg-type]
    return masking.sample(len(attention), grid, rng, MaskContext(signals={"teacher_attention": attention}))


def repeated(weights: list[float], images: int = DRAWS) -> Tensor:
    return torch.tensor(weights).expand(images, -1)


def assert_frequencies(sets: list[list[int]], expected: dict[frozenset[int], float]) -> None:
    """Each set comes as often as expected, within five deviations of its binomial count (once in 1.7 million)."""
    for members, probability in expected.items():
        seen = sum(set(s) == members for s in sets)
        mean = len(sets) * probability
        assert abs(seen - mean) <= 5 * (mean * (1 - probability)) ** 0.5 + 1, (members, seen, mean)


@pytest.mark.parametrize(("ratio", "kept"), [(0.8, 1), (0.6, 2), (0.5, 3), (0.3, 4)])
def test_the_kept_patches_are_the_first_of_sequential_draws(reference: ModuleType, ratio: float, kept: int) -> None:
    plan = draw(repeated(WEIGHTS), (2, 3), mask_ratio=ratio)
    assert plan.counts == (kept, 6 - kept, 0)
    expected = reference.sequential_probabilities(WEIGHTS, kept)
    assert sum(expected.values()) == pytest.approx(1)
    assert_frequencies(plan.keep_ids.tolist(), expected)


def test_mask_first_hides_the_first_of_sequential_draws(reference: ModuleType) -> None:
    plan = draw(repeated(WEIGHTS), (2, 3), mask_ratio=0.3, order="mask-first")
    assert plan.counts == (4, 2, 0)
    assert_frequencies(plan.mask_ids.tolist(), reference.sequential_probabilities(WEIGHTS, 2))


@pytest.mark.parametrize(("side", "visible"), [(14, 58), (7, 14), (16, 76)])
def test_three_tenths_stay(side: int, visible: int) -> None:
    plan = draw(torch.rand(2, side * side), (side, side))
    assert plan.counts == (visible, side * side - visible, 0)


def test_patches_without_attention_come_last_in_random_order() -> None:
    # 3 of 6 patches have weight; keeping 4 takes these and one of the others, each a third of the time: deviation
    # sqrt(20000 * 2/9) = 67 around 6,667.
    plan = draw(repeated([0.0, 1.0, 0.0, 2.0, 0.5, 0.0]), (2, 3), mask_ratio=0.3)
    seen = (plan.role == 0).sum(dim=0)
    # A weight of a millionth beats one of the others in about 1e-5 of the draws.
    assert seen[[1, 3, 4]].min() > DRAWS - 10
    assert (seen[[0, 2, 5]] - DRAWS / 3).abs().max() < 5 * 67


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_attention_of_any_size_gives_a_fair_draw(scale: float) -> None:
    plan = draw(torch.full((DRAWS, 6), scale), (2, 3), mask_ratio=0.5)
    # Half of 20,000 draws: deviation 71.
    assert ((plan.role == 0).sum(dim=0) - DRAWS / 2).abs().max() < 5 * 71


def test_only_the_ratios_of_the_attention_matter() -> None:
    attention = torch.rand(64, 49)
    assert torch.equal(draw(attention, (7, 7)).role, draw(attention / 1024, (7, 7)).role)


def test_half_precision_is_taken() -> None:
    attention = torch.rand(64, 49).half()
    assert torch.equal(draw(attention, (7, 7)).role, draw(attention.float(), (7, 7)).role)


def test_each_image_follows_its_own_attention() -> None:
    attention = torch.full((2, 16), 1e-4)
    attention[0, :8] = attention[1, 8:] = 1
    kept = draw(attention, (4, 4), mask_ratio=0.5).keep_ids
    assert kept[0].tolist() == list(range(8))
    assert kept[1].tolist() == list(range(8, 16))


def test_without_attention_it_says_what_gives_it() -> None:
    rng = torch.Generator()
    for context in (None, MaskContext()):
        with pytest.raises(ConfigError) as error:
            AttentionMasking().sample(2, (4, 4), rng, context)
        assert str(error.value) == (
            "attention masking needs 'teacher_attention', which is not given; "
            "use it with a method that has a plain ViT as teacher"
        )


def test_attention_on_another_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"attention to 4x4 patches of 2 images; got \[2, 9\]: student and teacher"):
        draw(torch.ones(2, 9), (4, 4))


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"masking\.order must be one of keep-first, mask-first; got 'last'"):
        AttentionMasking(order="last")
