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
