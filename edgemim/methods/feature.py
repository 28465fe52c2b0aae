"""Plain feature distillation: the final tokens of the student predict those of a frozen teacher, nothing hidden.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550, section 2.2.
Command: distill
Needs: any backbone, convnets included; any teacher whose blocks can be tapped. The teacher gets images of such a
    size that both have the same grid (a ViT/16 sees 112 pixels beside a convnet that ends in 7 x 7)
Differs: the baseline of the masked methods, so what they do not share with FitNets is theirs: the last layers are
    matched instead of one half-way, the whole student learns at once and without labels afterwards, the regressor
    is one linear layer, the target is the teacher's last block with each token normalised, the distance smooth L1
    (FitNets: squared). Class and register tokens take part where both models have equally many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgemim.errors import ConfigError
from edgemim.losses import LOSSES
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._normalise import check_norm, normalise_tokens
from edgemim.methods._projector import build_projector
from edgemim.methods._relations import block_setting
from edgemim.methods._teacher_view import check_levels, look, shared_prefix, without_prefix
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher

_DISTANCES = ("smooth-l1", "mse", "l1", "cosine")


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Settings of `feature`.

    Args:
        teacher_block: Whose output is the target (0-based); -1: the teacher's last.
        target_norm: Of the teacher's tokens: `layer` (mean 0 and variance 1 of each), `l2` (unit length), `none`.
        projector: From the student's width to the teacher's: `linear`, `mlp`, `mlp2`, or `none` for equal widths.
        distance: `smooth-l1`, `mse`, `l1` or `cosine`, mean over all tokens.
    """

    teacher_block: int = -1
    target_norm: str = "layer"
    projector: str = "linear"
    distance: str = "smooth-l1"

    def __post_init__(self) -> None:
        check_norm(self.target_norm)
        if self.distance not in _DISTANCES:
            raise ConfigError(f"method.distance must be one of {', '.join(_DISTANCES)}; got {self.distance!r}")


class Feature(Method):
    """See the module.

    Raises:
        ConfigError: The teacher's block does not exist or lies on another grid than its last one.
    """

    Settings = FeatureSettings
    needs_teacher = True
    teacher_needs = ("full", "blocks")
    masks = False

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        last = teacher.adapter.depth - 1
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, last, teacher.adapter)
        check_levels(teacher, (self.teacher_block,))
        self.asked = Asked(blocks=(self.teacher_block,))
        width = teacher.adapter.width_of(self.teacher_block)
        self.projector = build_projector(settings.projector, adapter.width, width) or nn.Identity()
        self.distance = LOSSES.get(settings.distance)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        own, other = self.adapter, self.teacher.adapter
        kept = shared_prefix(own, other)
        view = look(self.teacher, batch, self.asked)
        target = without_prefix(view.taps[self.teacher_block], other.num_prefix, kept)
        tokens = without_prefix(self.adapter.forward(batch.images).final, own.num_prefix, kept)
        distance = self.distance(
            student=self.projector(tokens), teacher=normalise_tokens(target, self.settings.target_norm)
        )
        return Step.of({"features": (distance, 1.0)})


METHODS.add("feature", Feature)
