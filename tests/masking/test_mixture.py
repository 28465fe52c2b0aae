"""Places that the images of a group share out."""

from __future__ import annotations

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking.mixture import MixtureMasking
from edgemim.models.mask_plan import VISIBLE


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("images", "grid", "kept"), [(4, (14, 14), 49), (4, (8, 8), 16), (2, (3, 4), 6), (3, (2, 3), 2)]
)
def test_every_place_is_visible_in_one_image_of_a_group(images: int, grid: tuple[int, int], kept: int) -> None:
    patches = grid[0] * grid[1]
    plan = MixtureMasking(images=images).sample(5 * images, grid, generator())
    assert plan.counts == (kept, patches - kept, 0)
    for group in range(5):
        places = plan.keep_ids[group * images : (group + 1) * images].flatten().tolist()
        assert sorted(places) == list(range(patches))


def test_groups_share_the_places_out_differently() -> None:
    plan = MixtureMasking(images=4).sample(8, (8, 8), generator())
    assert not torch.equal(plan.role[:4], plan.role[4:])


def test_every_place_falls_to_every_image_of_a_group_equally_often() -> None:
    # Of 4,000 groups each image has a place in 1,000, with a deviation of sqrt(4000 * 1/4 * 3/4) = 27.4; five
    # deviations are exceeded by one of 4 * 16 counts once in 27,000 seeds, and the seed is fixed.
    plan = MixtureMasking(images=4).sample(16_000, (4, 4), generator())
    seen = (plan.role == VISIBLE).view(4000, 4, 16).sum(dim=0)
    assert (seen - 1000).abs().max() < 5 * 27.4


def test_a_last_group_with_fewer_images_gets_its_places_as_if_all_were_there() -> None:
    masking = MixtureMasking(images=4)
    whole, part = masking.sample(8, (4, 4), generator(3)), masking.sample(6, (4, 4), generator(3))
    assert torch.equal(whole.role[:6], part.role)
    masking.check((4, 4), (16, 16))


@pytest.mark.parametrize(
    ("grid", "fitting"), [((7, 7), "7, 49"), ((1, 2), "2"), ((1, 1), "none"), ((3, 5), "3, 5, 15")]
)
def test_a_grid_that_cannot_be_shared_out_equally_is_refused(grid: tuple[int, int], fitting: str) -> None:
    with pytest.raises(ConfigError) as error:
        MixtureMasking(images=4).sample(1, grid, generator(0))
    assert str(error.value) == (
        f"masking.images 4 does not divide the {grid[0] * grid[1]} patches of a grid of {grid[0]}x{grid[1]}; "
        f"numbers that do: {fitting}"
    )


def test_one_image_is_no_mixture() -> None:
    with pytest.raises(ConfigError, match=r"masking\.images must be at least 2, to have something to mix; got 1"):
        MixtureMasking(images=1)
