"""The object that says which patches are visible, masked and dropped."""

from __future__ import annotations

import pytest
import torch

from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan, gather_tokens


def test_a_worked_example() -> None:
    # A 2 x 3 grid: image 0 sees 4 and 1, image 1 sees 0 and 5.
    plan = MaskPlan.from_keep_ids(torch.tensor([[4, 1], [0, 5]]), (2, 3))
    assert plan.role.tolist() == [[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]]
    assert plan.keep_ids.tolist() == [[1, 4], [0, 5]]
    assert plan.mask_ids.tolist() == [[0, 2, 3, 5], [1, 2, 3, 4]]
    # Place of each patch in visible + masked: patch 0 of image 0 is the first masked one, place 2.
    assert plan.restore_ids.tolist() == [[2, 0, 3, 4, 1, 5], [0, 2, 3, 4, 5, 1]]
    assert plan.mask.tolist() == [[True, False, True, True, False, True], [False, True, True, True, True, False]]


def test_dropped_patches_are_neither_seen_nor_predicted_and_come_last() -> None:
    plan = MaskPlan(torch.tensor([[DROPPED, VISIBLE, MASKED, MASKED]]), (1, 4))
    assert plan.counts == (1, 2, 1)
    assert plan.keep_ids.tolist() == [[1]]
    assert plan.mask_ids.tolist() == [[2, 3]]
    assert plan.hidden_ids.tolist() == [[2, 3, 0]]
    assert plan.mask.tolist() == [[False, False, True, True]]
    assert plan.restore_ids.tolist() == [[3, 0, 1, 2]]


def test_a_mask_and_the_ids_that_it_keeps_give_one_plan() -> None:
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
    plan = MaskPlan.from_mask(mask, (2, 2))
    assert torch.equal(plan.role, MaskPlan.from_keep_ids(plan.keep_ids, (2, 2)).role)
    assert plan.counts == (2, 2, 0)


def test_images_with_different_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="same counts"):
        MaskPlan(torch.tensor([[0, 1], [0, 0]]), (1, 2))


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="roles 0, 1 and 2"):
        MaskPlan(torch.tensor([[0, 3]]), (1, 2))


def test_roles_for_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, 6\]; got \[1, 4\]"):
        MaskPlan(torch.zeros(1, 4), (2, 3))


def test_gathering_picks_whole_tokens() -> None:
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    assert gather_tokens(tokens, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_on_a_finer_grid_each_patch_becomes_a_block_of_its_role() -> None:
    # 1 x 2 patches as 2 x 6: each is 2 rows by 3 columns.
    plan = MaskPlan(torch.tensor([[MASKED, VISIBLE]]), (1, 2)).at((2, 6))
    assert plan.grid == (2, 6)
    assert plan.role.tolist() == [[1, 1, 1, 0, 0, 0] * 2]
    assert plan.counts == (6, 6, 0)
    assert plan.keep_ids.tolist() == [[3, 4, 5, 9, 10, 11]]


def test_on_a_finer_grid_dropped_patches_stay_dropped() -> None:
    plan = MaskPlan(torch.tensor([[DROPPED, VISIBLE, MASKED]]), (1, 3)).at((1, 6))
    assert plan.role.tolist() == [[2, 2, 0, 0, 1, 1]]
    assert plan.counts == (2, 2, 2)


def test_a_plan_of_whole_cells_comes_back_from_the_finer_grid() -> None:
    noise = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    plan = MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, :2], (2, 3))
    for grid in ((2, 3), (4, 6), (6, 9), (10, 3), (2, 12)):
        back = plan.at(grid).at((2, 3))
        assert torch.equal(back.role, plan.role), grid
        assert back.counts == plan.counts
    assert plan.at((2, 3)) is plan


def test_between_grids_that_do_not_divide_the_patch_under_the_centre_decides() -> None:
    # Three patches over the same image as five: the centres 0.1, 0.3, 0.5, 0.7, 0.9 lie in thirds 0, 0, 1, 2, 2.
    role = torch.tensor([[VISIBLE, MASKED, DROPPED]])
    assert MaskPlan(role, (1, 3)).at((1, 5)).role.tolist() == [[0, 0, 1, 2, 2]]
    # And five as three: 1/6, 1/2 and 5/6 lie in fifths 0, 2 and 4.
    role = torch.tensor([[VISIBLE, MASKED, DROPPED, MASKED, MASKED]])
    assert MaskPlan(role, (5, 1)).at((3, 1)).role.tolist() == [[0, 2, 1]]


def test_a_coarser_grid_that_cuts_through_the_cells_is_refused_where_counts_then_differ() -> None:
    # Of two patches in a row the one behind the middle is asked: image 0 hides it, image 1 does not.
    plan = MaskPlan(torch.tensor([[VISIBLE, MASKED], [MASKED, VISIBLE]]), (1, 2))
    with pytest.raises(ValueError, match="same counts"):
        plan.at((1, 1))
