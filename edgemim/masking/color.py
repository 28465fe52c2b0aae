"""Thresholded noise of one colour: masks with blobs of a chosen size, at no cost and blind to the image.

Source: Hinojosa et al., "ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders",
    ECCV 2024, arXiv:2407.13036, section 3.
Needs: nothing
Differs: each image gets fresh noise, filtered by a Fourier transform of a few hundred numbers, instead of one
    common window of a bank made beforehand, so that no mask comes twice and nothing is kept; the noise is periodic
    over the grid, which makes every patch equally likely to be seen (in a window of larger red noise the corners
    are seen more often), and lets a blob at one border go on at the opposite one; the flips and the normalisation
    are left out, since neither changes which masks are how likely. Unverified and recalled: the four filters and
    the widths 0.5 and 2 of green; that red takes the wide and blue the narrow one is our choice, so that
    red + green + blue = white; so is that the widths grow and shrink with the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio, hidden_count
from edgemim.models.mask_plan import MaskPlan

COLOURS = ("blue", "green", "purple", "red")
_DESIGN_SIDE = 14


@dataclass(frozen=True, kw_only=True)
class ColorMasking(MaskingStrategy):
    """Keep the patches where filtered white noise is largest.

    Args:
        mask_ratio: Share of patches hidden, in (0, 1); floor(L * (1 - mask_ratio)) stay visible.
        colour: Frequencies that the noise has. `red`: low ones, large blobs. `green`: middle ones, blobs of a
            few patches. `blue`: high ones, single patches evenly spread. `purple`: low and high ones.
        narrow: Standard deviation of the Gaussian that separates high from middle frequencies, in patches of a
            grid of 14; on another grid it has the same size relative to the shorter side.
        wide: Of the one that separates middle from low frequencies; greater than `narrow`.

    Raises:
        ConfigError: A setting is out of range, or the ratio hides all patches of a grid or none.
    """

    mask_ratio: float = 0.75
    colour: str = "green"
    narrow: float = 0.5
    wide: float = 2.0

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if self.colour not in COLOURS:
            raise ConfigError(f"masking.colour must be one of {', '.join(COLOURS)}; got {self.colour!r}")
        if not 0 < self.narrow < self.wide < math.inf:
            raise ConfigError(f"masking needs 0 < narrow < wide; got narrow {self.narrow} and wide {self.wide}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        visible = patches - hidden_count(patches, self.mask_ratio)
        white = torch.randn(batch, *grid, generator=rng, device=rng.device)
        noise = torch.fft.irfft2(torch.fft.rfft2(white) * self._gain(grid, rng.device), s=grid)
        order = noise.flatten(1).argsort(dim=1, descending=True)
        return MaskPlan.from_keep_ids(order[:, :visible], grid)

    def _gain(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """float32 [H, W // 2 + 1]: what the filter of the colour does to each frequency of the grid."""
        scale = min(grid) / _DESIGN_SIDE
        weak, strong = (_blur(grid, width * scale, device) for width in (self.narrow, self.wide))
        if self.colour == "red":
            return strong
        if self.colour == "blue":
            return 1 - weak
        return weak - strong if self.colour == "green" else 1 - weak + strong


def _blur(grid: tuple[int, int], width: float, device: torch.device) -> Tensor:
    """The Fourier transform of a Gaussian with standard deviation `width`, at the frequencies of `rfft2`."""
    rows, columns = torch.fft.fftfreq(grid[0], device=device), torch.fft.rfftfreq(grid[1], device=device)
    return torch.exp(-2 * (math.pi * width) ** 2 * (rows[:, None] ** 2 + columns**2))


MASKINGS.add("color", ColorMasking)
