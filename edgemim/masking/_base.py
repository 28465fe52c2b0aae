"""The contract of a masking strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True)
class MaskContext:
    """What a strategy may look at beside its random numbers.

    Attributes:
        epoch_share: How much of the run is over, in [0, 1].
        index: int64 [B], which images these are, for strategies that remember something about each.
        patch_size: Height and width in pixels of a patch of the grid.
        signals: What the strategy's `needs` asked for: `teacher_attention`, float32 [B, L], how much the
            teacher looks at each patch.
    """

    epoch_share: float = 0.0
    index: Tensor | None = None
    patch_size: tuple[int, int] = (16, 16)
    signals: Mapping[str, Tensor] = field(default_factory=dict)


class MaskingStrategy(ABC):
    """Draws which patches are hidden. A subclass is a frozen dataclass whose fields are its settings.

    Attributes:
        needs: Names of the signals that a method must give it; empty for a strategy that looks at nothing.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        """Draw a plan for `batch` images with a patch grid of `grid` = (height, width).

        The counts are exact and the same for each image; every random number comes from `rng`, on whose
        device the plan lies. Methods call `check` first, once.
        """

    def check(self, grid: tuple[int, int], patch_size: tuple[int, int], *, fewest: int = 1) -> None:
        """Refuse a grid on which nothing can be drawn, before a run has a folder.

        Args:
            grid: As in `sample`.
            patch_size: Height and width of a patch in pixels.
            fewest: Patches of an image that have to be masked.

        Raises:
            ConfigError: Says which setting leaves too few or too many patches.
        """
        if grid == (1, 1):
            raise ConfigError(
                f"an image is one patch of {patch_size[0]}x{patch_size[1]} pixels, so nothing is left to see where it "
                "is hidden; choose larger images (preprocess.size, for a ViT backbone.img_size), or a backbone with "
                "smaller patches"
            )
        signals = {name: torch.ones(1, grid[0] * grid[1]) for name in self.needs}
        plan = self.sample(1, grid, torch.Generator(), MaskContext(patch_size=patch_size, signals=signals))
        masked = plan.mask_ids.shape[1]
        if masked < fewest:
            raise ConfigError(
                f"{masked} of {grid[0] * grid[1]} patches is masked, and the method compares at least {fewest} of an "
                "image; choose a larger masking.mask_ratio, or smaller patches"
            )
