"""Coloured noise: its filter against the plain reference, its spectrum, its counts, its fairness."""

from __future__ import annotations

from itertools import chain, pairwise
from types import ModuleType

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.masking.color import COLOURS, ColorMasking


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def power(reference: ModuleType, colour: str, side: int, edges: list[float], images: int = 120) -> list[float]:
    """Radial power of visible = 1, hidden = 0, by ring; edges in cycles per patch."""
    plan = ColorMasking(colour=colour).sample(images, (side, side), generator())
    maps = (plan.role == 0).float().view(images, side, side).tolist()
    radial: list[float] = reference.radial_power(maps, edges)
    return radial


# floor(L / 4) visible.
@pytest.mark.parametrize(("grid", "visible"), [((14, 14), 49), ((7, 7), 12), ((8, 8), 16), ((3, 5), 3), ((6, 28), 42)])
@pytest.mark.parametrize("colour", COLOURS)
def test_the_count_is_exact(colour: str, grid: tuple[int, int], visible: int) -> None:
    plan = ColorMasking(colour=colour).sample(6, grid, generator())
    assert plan.counts == (visible, grid[0] * grid[1] - visible, 0)
    assert (plan.role == 0).sum(dim=1).tolist() == [visible] * 6


# The widths are those of a grid of 14, and shrink and grow with the shorter side.
@pytest.mark.parametrize(
    ("grid", "scale"), [((14, 14), 1), ((7, 7), 0.5), ((8, 8), 8 / 14), ((21, 14), 1), ((5, 6), 5 / 14)]
)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_patches_with_the_largest_noise_stay(
    reference: ModuleType, colour: str, grid: tuple[int, int], scale: float
) -> None:
    masking = ColorMasking(colour=colour, narrow=0.6, wide=1.7)
    plan = masking.sample(4, grid, generator(3))
    white = torch.randn(4, *grid, generator=generator(3)).tolist()
    for values, kept in zip(white, plan.keep_ids.tolist(), strict=True):
        noise = chain.from_iterable(reference.coloured(values, colour, 0.6 * scale, 1.7 * scale))
        assert kept == sorted(reference.shuffle([-value for value in noise])[: len(kept)])


# Rings of equal width; the outermost reaches the corners of the spectrum at sqrt(1/2). 120 masks and at least 20
# frequencies in a ring: the mean of a ring is off by about 1 / sqrt(120 * 20) = 2 %, so 10 % are five deviations.
RINGS = [0.0, 0.12, 0.25, 0.4, 0.71]
CLEARLY = 1.1


def test_red_noise_decays_with_frequency(reference: ModuleType) -> None:
    radial = power(reference, "red", 14, RINGS)
    assert all(low > CLEARLY * high for low, high in pairwise(radial))
    assert radial[0] > 20 * radial[-1]


def test_blue_noise_rises_with_frequency(reference: ModuleType) -> None:
    radial = power(reference, "blue", 14, RINGS)
    assert radial[-1] > CLEARLY * radial[-2] > CLEARLY * CLEARLY * radial[-3]
    assert radial[-1] > 2 * radial[0]


def test_green_noise_peaks_in_the_middle(reference: ModuleType) -> None:
    low, middle, upper, high = power(reference, "green", 14, RINGS)
    assert middle > CLEARLY * max(low, upper)
    assert middle > 1.7 * max(low, high)


def test_purple_noise_dips_in_the_middle(reference: ModuleType) -> None:
    low, middle, upper, high = power(reference, "purple", 14, RINGS)
    assert CLEARLY * max(middle, upper) < min(low, high)
    assert 1.8 * middle < min(low, high)


def test_on_a_larger_grid_the_peak_has_the_same_cycles_per_image(reference: ModuleType) -> None:
    edges = [0.0, 0.09, 0.16, 0.25, 0.4, 0.71]
    fine = power(reference, "green", 28, [edge / 2 for edge in edges], images=30)
    coarse = power(reference, "green", 14, edges)
    assert fine.index(max(fine)) == coarse.index(max(coarse)) == 2


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("grid", [(14, 14), (8, 8)])
def test_every_patch_is_equally_likely_to_be_seen(colour: str, grid: tuple[int, int]) -> None:
    # 20,000 draws: the share of a patch has deviation sqrt(1/4 * 3/4 / 20000) = 0.0031, so 0.02 are 6.5 of them.
    plan = ColorMasking(colour=colour).sample(20_000, grid, generator())
    share = (plan.role == 0).float().mean(dim=0)
    assert (share - 0.25).abs().max() < 0.02
    # The mean of the corners, which a window of larger red noise would favour by 0.015, has at most that deviation.
    corners = share.view(grid)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert abs(float(corners.mean()) - 0.25) < 0.012


def test_no_mask_comes_twice() -> None:
    rng = generator()
    roles = torch.cat([ColorMasking().sample(500, (14, 14), rng).role for _ in range(2)])
    assert len(roles.unique(dim=0)) == 1000


@pytest.mark.parametrize("widths", [(0.0, 2.0), (2.0, 0.5), (1.0, 1.0), (0.5, float("inf")), (float("nan"), 2.0)])
def test_widths_that_leave_no_band_are_refused(widths: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="masking needs 0 < narrow < wide; got narrow"):
        ColorMasking(narrow=widths[0], wide=widths[1])


def test_an_unknown_colour_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match=r"masking\.colour must be one of blue, green, purple, red; got 'pink'"):
        ColorMasking(colour="pink")
