"""Which places of a map belong to visible cells, and how these are taken out and put back."""

from __future__ import annotations

import pytest
import torch

from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.active import ActivePlaces, MisalignedError

# Of 2 x 3 cells: 0 1 2 / 3 4 5.
PLAN = MaskPlan.from_keep_ids(torch.tensor([[0, 5], [4, 1]]), (2, 3))


def test_a_cell_is_as_many_places_as_the_map_has_for_it() -> None:
    active = ActivePlaces(PLAN)
    assert active.hidden(2, 3)[0, 0].tolist() == [[False, True, True], [True, True, False]]
    # Twice the rows, and three places for each column.
    wide = active.hidden(4, 9)[1, 0].tolist()
    shown, not_shown = [True] * 3 + [False] * 3 + [True] * 3, [True] * 3 + [False] * 3 + [True] * 3
    assert wide == [shown, shown, not_shown, not_shown]


def test_dropped_cells_are_hidden_too() -> None:
    role = torch.tensor([[0, 1, 2, 2, 0, 1]], dtype=torch.int8)
    hidden = ActivePlaces(MaskPlan(role, (2, 3))).hidden(2, 3)
    assert hidden[0, 0].tolist() == [[False, True, True], [True, False, True]]


def test_maps_are_emptied_at_hidden_places_and_nowhere_else() -> None:
    maps = torch.arange(2.0 * 1 * 2 * 3).view(2, 1, 2, 3) + 1
    cleared = ActivePlaces(PLAN).clear(maps)
    assert cleared[0, 0].tolist() == [[1, 0, 0], [0, 0, 6]]
    assert cleared[1, 0].tolist() == [[0, 8, 0], [0, 11, 0]]
    # What a hidden place held does not matter, not even where it was no number.
    maps[0, 0, 0, 1] = float("nan")
    assert torch.equal(ActivePlaces(PLAN).clear(maps), cleared)


@pytest.mark.parametrize("size", [(2, 3), (4, 9), (6, 6)])
def test_taken_cells_are_those_of_the_plan_and_come_back_to_their_places(size: tuple[int, int]) -> None:
    active = ActivePlaces(PLAN)
    maps = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0))
    cells = active.take(maps)
    height, width = size[0] // 2, size[1] // 3
    assert cells.shape == (2, 2, 5, height, width)
    for image, kept in enumerate([[0, 5], [1, 4]]):
        for cell, index in zip(cells[image], kept, strict=True):
            top, left = index // 3 * height, index % 3 * width
            assert torch.equal(cell, maps[image, :, top : top + height, left : left + width])
    assert torch.equal(active.put(cells), active.clear(maps))


def test_the_memory_format_of_a_map_does_not_matter() -> None:
    active = ActivePlaces(PLAN)
    maps = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(active.take(maps.contiguous(memory_format=torch.channels_last)), active.take(maps))


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (1, 3), (0, 3)])
def test_sides_that_are_no_multiple_of_the_cells_are_refused(size: tuple[int, int]) -> None:
    active = ActivePlaces(PLAN)
    for call in (active.clear, active.take):
        with pytest.raises(MisalignedError, match=f"{size[0]}x{size[1]} places are no whole multiple of 2x3 cells"):
            call(torch.zeros(2, 1, *size))
