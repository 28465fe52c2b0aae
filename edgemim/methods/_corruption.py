"""Corrupted images: rectangles of pixels that hold noise, nothing, or a part of another image.

Source: Atito et al., "GMML is All you Need", arXiv:2205.14986; released code of GMML and of SiT.
Differs: all images of a batch are corrupted at once, on their device: a fixed number of rectangles is drawn for each,
    and those after the one with which the target is passed are not used. Sides are uniform from one cell (a pixel,
    where nothing is aligned) to 30 % of the image's, the upper left corner is uniform over the image, and what sticks
    out at the right or below is cut off; the released code leaves out the longest side and the last corner. Foreign
    content comes from another image, the batch being rolled by a random number of places, never by none; the released
    code draws one for each image, which may be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgemim.errors import ConfigError

# With all of them 5.7 % of 224 x 224 cells stay uncovered on average, and 6.3 % at most however fine the cells are;
# the deviation is 1.5 %. The largest target that is allowed leaves 20 %: of 3,000 images the worst left 11.5 %. Of
# 64 x 64 cells it is 4.4 %, a deviation of 1.4 %, and 12.2 % as the worst of 8,000. A power of two, for the search by
# halves.
_RECTANGLES = 256
_LARGEST_TARGET = 0.8


@dataclass(frozen=True)
class Corrupted:
    """A corrupted batch.

    Attributes:
        images: [B, 3, H, W].
        mask: bool [B, 1, H, W], true where a pixel was replaced.
    """

    images: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """Adds rectangles to an image until more than a target of its area is covered, and replaces what they cover.

    An image gets its own target, uniform in [min(0.5, share), share], and one of two contents with equal chances.

    Args:
        blank: The first content: standard normal `noise`, or `zeros`, which is the mean colour.
        blank_share: Of that one.
        foreign_share: Of the second content: the same places of another image of the batch.
        align: Corners and sides of rectangles are multiples of this many pixels.

    Raises:
        ConfigError: A number is out of range.
    """

    blank: Literal["noise", "zeros"]
    blank_share: float
    foreign_share: float
    align: int

    def __post_init__(self) -> None:
        for name, share in ((self.blank, self.blank_share), ("foreign", self.foreign_share)):
            if not 0 < share <= _LARGEST_TARGET:
                raise ConfigError(
                    f"method.{name} is a share of the image's area, in (0, {_LARGEST_TARGET}]; got {share}"
                )
        if self.align < 1:
            raise ConfigError(f"method.align must be at least 1 pixel; got {self.align}")

    def check(self, size: tuple[int, int]) -> None:
        """Refuse images that are no whole number of `align`.

        Raises:
            ConfigError: Says what to choose.
        """
        if size[0] % self.align or size[1] % self.align:
            raise ConfigError(
                f"images of {size[0]}x{size[1]} pixels are no whole number of method.align {self.align}; "
                "choose a divisor of both sides, or 1"
            )

    @torch.no_grad()
    def __call__(self, images: Tensor, rng: torch.Generator) -> Corrupted:
        """Corrupt images [B, 3, H, W]; every random number comes from `rng`, on their device.

        Raises:
            ConfigError: There is no other image in the batch.
        """
        batch, _, height, width = images.shape
        foreign = torch.rand(batch, generator=rng, device=rng.device) < 0.5
        largest = torch.where(foreign, self.foreign_share, self.blank_share)
        smallest = largest.clamp(max=0.5)
        share = smallest + (largest - smallest) * torch.rand(batch, generator=rng, device=rng.device)
        cells = height // self.align, width // self.align
        covered = grow(share * cells[0] * cells[1], _spans(batch, cells[0], rng), _spans(batch, cells[1], rng))
        mask = covered.repeat_interleave(self.align, dim=1).repeat_interleave(self.align, dim=2).unsqueeze(1)
        blank = torch.zeros_like(images)
        if self.blank == "noise":
            blank = torch.randn(images.shape, generator=rng, device=rng.device, dtype=images.dtype)
        content = torch.where(foreign.view(-1, 1, 1, 1), _others(images, rng), blank)
        return Corrupted(torch.where(mask, content, images), mask)


def corrupted_l1(*, predicted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the corrupted pixels of a batch and their channels, in float32.

    Args:
        predicted, clean: [B, 3, H, W].
        mask: bool [B, 1, H, W], true where a pixel counts; somewhere it does.
    """
    error = (predicted.float() - clean.float()).abs()
    return (error * mask).sum() / (mask.sum() * error.shape[1])


def grow(targets: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Add rectangles, first to last, until more than the target is covered; all of them where that never happens.

    Args:
        targets: [B], in cells.
        rows: float [B, n, H], 1 where a rectangle has a row, else 0; n is a power of two.
        columns: float [B, n, W], the same of columns.

    Returns:
        bool [B, H, W]: what is covered.
    """
    # The area never shrinks with the number of rectangles, so the number is found by halves: how many leave the area
    # within the target, and one more.
    number = torch.arange(rows.shape[1], device=rows.device)
    within = torch.zeros(len(rows), 1, dtype=torch.int64, device=rows.device)
    step = rows.shape[1] // 2
    while step:
        more = within + step
        area = _union(rows, columns, number < more).sum(dim=(1, 2))
        within = torch.where((area <= targets).unsqueeze(1), more, within)
        step //= 2
    return _union(rows, columns, number <= within)


def _union(rows: Tensor, columns: Tensor, used: Tensor) -> Tensor:
    """bool [B, H, W]: what the rectangles cover of which `used` (bool [B, n]) is true."""
    # A product counts the rectangles over each cell: sums of ones, above 0 in any precision.
    return (rows * used.unsqueeze(-1)).transpose(1, 2) @ columns > 0


def _spans(batch: int, cells: int, rng: torch.Generator) -> Tensor:
    """float [B, n, cells]: the rows, or columns, of n rectangles, 1 where a rectangle has one."""
    longest = max(1, cells * 3 // 10)
    shape, device = (batch, _RECTANGLES, 1), rng.device
    lengths = torch.randint(1, longest + 1, shape, generator=rng, device=device)
    starts = torch.randint(0, cells, shape, generator=rng, device=device)
    places = torch.arange(cells, device=device)
    return ((places >= starts) & (places < starts + lengths)).float()


def _others(images: Tensor, rng: torch.Generator) -> Tensor:
    """For each image another one of the batch."""
    batch = len(images)
    if batch < 2:
        raise ConfigError(
            "a corruption with parts of other images needs at least 2 of them at a time, and there is 1; set a larger "
            "--batch-size, or less training.accumulate"
        )
    offset = torch.randint(1, batch, (1,), generator=rng, device=rng.device)
    return images[(torch.arange(batch, device=rng.device) + offset) % batch]
