"""The contract of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.models.adapter import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True)
class Batch:
    """What a training step gets.

    Attributes:
        images: float32 [B, 3, H, W], normalised by the student's contract.
        labels: int64 [B], or None.
        index: int64 [B]: which images of the data set these are.
        epoch_share: How much of the run is over, in [0, 1].
    """

    images: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    epoch_share: float = 0.0


@dataclass(frozen=True)
class Step:
    """What a training step gives: the loss to minimise, and named scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """One way to train a backbone without labels.

    Args:
        adapter: Of the backbone being trained; its timm model is what ships.
        masking: Draws the plan of each step.
        settings: An instance of `Settings`.
        teacher: Frozen, for methods whose `needs_teacher` is true.
    """

    Settings: ClassVar[type]
    needs_teacher: ClassVar[bool] = False

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        if self.needs_teacher and teacher is None:
            raise ConfigError(f"{type(self).__name__} learns from a teacher; give one with --teacher")
        self.adapter = adapter
        self.model = adapter.backbone
        self.masking = masking
        self.settings = settings
        self.teacher = teacher

    @property
    def backbone(self) -> nn.Module:
        """The timm model that ships."""
        return self.model

    @abstractmethod
    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        """One training step's loss.

        Args:
            batch: On the device of the weights.
            rng: Every random number of the step; on the same device.
            plan: Used instead of drawing one.
        """

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        """Predicted images [B, 3, H, W] in the student's normalisation; None where there is none to show."""
        return None

    def draw(self, batch: Batch, rng: torch.Generator) -> MaskPlan:
        """A plan of the method's own masking for this batch."""
        context = MaskContext(epoch_share=batch.epoch_share, index=batch.index)
        return self.masking.sample(len(batch.images), self.adapter.grid, rng, context)

    def predictor_state(self) -> dict[str, Tensor]:
        """What the method trained beside the backbone and throws away at export."""
        outside = ("model.", "teacher.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(outside)}
