"""The contract of a masking strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True)
class MaskContext:
    """What a strategy may look at beside its random numbers.

    Attributes:
        epoch_share: How much of the run is over, in [0, 1].
        index: int64 [B], which images these are, for strategies that remember something about each.
        signals: Named tensors that other parts computed for this batch (`teacher_attention`: [B, L]).
    """

    epoch_share: float = 0.0
    index: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)


class MaskingStrategy(ABC):
    """Draws which patches are hidden. A subclass is a frozen dataclass whose fields are its settings."""

    @abstractmethod
    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        """Draw a plan for `batch` images with a patch grid of `grid` = (height, width).

        The counts are exact and the same for each image; every random number comes from `rng`, on whose
        device the plan lies.
        """
