"""SiT: recover corrupted pixels as GMML does, and find the other crop of the same image as a slow copy sees it.

Source: Atito et al., "SiT: Self-supervised vIsion Transformer", arXiv:2104.03602; released code.
Command: pretrain
Needs: a backbone without stages (ViT, BEiT)
Differs: the projector has layer norms in place of batch norms, so that neither the copy nor the number of processes
    depends on the statistics of a batch. Without a class token the mean of the patch tokens stands for it. Where a
    process makes several passes over its share of a batch, the negatives are those of one pass, of all processes. A
    fresh ViT has fixed sine and cosine positions instead of trained ones; places and contents of the rectangles are
    drawn in another way (see `_corruption.py`), weights of the head and the projector too. In the recipe every crop is
    jittered instead of eight in ten, its hue excepted and its saturation by more, and none is made grey, blurred or
    solarised, of which the released code does all; the gradients are clipped by the norm of all of them together, where
    the released code clips each tensor by its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._contrast import contrast, of_all_processes
from edgemim.methods._corruption import Corruption, corrupted_l1
from edgemim.methods._momentum import Momentum
from edgemim.methods._pixel_head import PixelHead
from edgemim.methods._teacher_view import summary
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class SiTSettings:
    """Settings of `sit`; the defaults are those of the released code.

    Args:
        zeros: Largest share of an image's area that is blanked, in (0, 0.8]; the least is 0.5, or `zeros` where that
            is less.
        foreign: The same of parts of another image; of each image it is one or the other.
        align: Corners and sides of the rectangles are multiples of this many pixels; 1: they lie anywhere.
        reconstruction_weight: Of the pixel term beside the contrastive one; the authors take 5 for small data sets.
        temperature: Of the contrastive term, above 0.
        momentum: Share of the copy that stays at each step, at the start of a run, in [0, 1].
        projector_width: Of the two hidden layers.
        projector_outputs: Numbers that are compared.
    """

    zeros: float = 0.5
    foreign: float = 0.3
    align: int = 1
    reconstruction_weight: float = 1.0
    temperature: float = 0.2
    momentum: float = 0.996
    projector_width: int = 4096
    projector_outputs: int = 256

    def __post_init__(self) -> None:
        self.corruption()
        if self.reconstruction_weight < 0:
            raise ConfigError(f"method.reconstruction_weight must not be negative; got {self.reconstruction_weight}")
        if self.temperature <= 0:
            raise ConfigError(f"method.temperature must be above 0; got {self.temperature}")
        if not 0 <= self.momentum <= 1:
            raise ConfigError(f"method.momentum must lie in [0, 1]; got {self.momentum}")
        for name in ("projector_width", "projector_outputs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name} must be at least 1; got {getattr(self, name)}")

    def corruption(self) -> Corruption:
        """As these settings have it."""
        return Corruption(blank="zeros", blank_share=self.zeros, foreign_share=self.foreign, align=self.align)


class SiT(Method):
    """See the module.

    Raises:
        ConfigError: The images do not fit `align`, or are no whole number of patches.
    """

    Settings = SiTSettings
    student_needs = ("full", "uniform")
    masks = False
    corrupts = True
    crops = 2

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        self.corruption = settings.corruption()
        self.corruption.check(adapter.size)
        self.head = PixelHead(adapter)
        self.projector = _projector(adapter.width, settings.projector_width, settings.projector_outputs)
        self.momentum = Momentum(adapter, {"projector": self.projector})
        # Of the run, at the last step: the copy's momentum follows it, and `after_step` is told epochs alone.
        self.share = 0.0

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert batch.second is not None
        self.share = batch.epoch_share
        crops = (batch.images, batch.second.images)
        corrupted = [self.corruption(crop, rng) for crop in crops]
        mask = torch.cat([crop.mask for crop in corrupted])
        seen = self.adapter.forward(torch.cat([crop.images for crop in corrupted])).final
        pixels = corrupted_l1(predicted=self.head(seen), clean=torch.cat(crops), mask=mask)
        first, second = self.projector(summary(self.adapter, seen)).chunk(2)
        of_first, of_second = self._of_copy(torch.cat((batch.for_teacher, batch.second.for_teacher))).chunk(2)
        contrastive = self._agreement(first, of_second) + self._agreement(second, of_first)
        return Step.of({"pixels": (pixels, self.settings.reconstruction_weight), "contrastive": (contrastive, 1.0)})

    def begin(self) -> None:
        self.momentum.begin()

    def after_step(self, epoch: float) -> None:
        self.momentum.follow(momentum_at(self.settings.momentum, self.share))

    @torch.no_grad()
    def _of_copy(self, clean: Tensor) -> Tensor:
        """What the copy makes of whole images: [B, projector_outputs]."""
        adapter = self.momentum.adapter
        projected: Tensor = self.momentum.heads["projector"](summary(adapter, adapter.forward(clean).final))
        return projected

    def _agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """InfoNCE: whether row i of the student [B, C] is found to belong to row i of the teacher, of all processes."""
        keys, own = of_all_processes(teacher)
        rows = torch.arange(len(student), device=student.device) + own
        positives = rows.unsqueeze(1) == torch.arange(len(keys), device=student.device)
        # The gradient is then about as large whatever the temperature is.
        distance: Tensor = 2 * self.settings.temperature * contrast(student, keys, positives, self.settings.temperature)
        return distance


def momentum_at(first: float, share: float) -> float:
    """From `first` to 1 along half a cosine, when `share` of the run, in [0, 1], is over."""
    return 1 - (1 - first) * (1 + math.cos(math.pi * share)) / 2


def _projector(width: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.LayerNorm(hidden, eps=1e-6),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden, eps=1e-6),
        nn.GELU(),
        nn.Linear(hidden, outputs),
        nn.LayerNorm(outputs, eps=1e-6, elementwise_affine=False),
    ).apply(initialise_linear)


METHODS.add("sit", SiT)
