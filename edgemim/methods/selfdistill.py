"""Self-distillation for further pre-training: MAE on the target images, held near an earlier run of the same MAE.

Stage 1 is `edgemim pretrain --method mae --init ORIGINAL --out STAGE1`, stage 2 starts from the same weights again:
`edgemim pretrain --method selfdistill --init ORIGINAL --teacher STAGE1 --out STAGE2`; stage 3 is fine-tuning.

Source: Lee et al., "Self-Distillation for Further Pre-training of Transformers", ICLR 2023, arXiv:2210.02871.
Command: pretrain
Needs: a ViT-like backbone, and as teacher the checkpoint of a further pre-training with the same architecture
Differs: one backward pass of the summed loss instead of two that accumulate, which is the same gradient; the decoder
    starts from the one that the --init checkpoint kept, where it kept one (the authors: from the public MAE's).
    Without a class token the mean of the patch tokens stands for it (the paper has one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._pixels import PixelReconstruction
from edgemim.methods._teacher_view import look, summary
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.build import classifiers
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class SelfDistillSettings:
    """Settings of `selfdistill`; the defaults are the authors'.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the decoder.
        norm_pix: Normalise each target patch by its own mean and deviation.
        alignment_weight: Factor of the feature term, which is a sum over channels and so grows with the width.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True
    alignment_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.alignment_weight < 0:
            raise ConfigError(f"method.alignment_weight must not be negative; got {self.alignment_weight}")


class SelfDistill(Method):
    """See the module.

    Raises:
        ConfigError: The teacher has another architecture than the student.
    """

    Settings = SelfDistillSettings
    needs_teacher = True
    teacher_hint = (
        "it is stage 2, so run stage 1 (edgemim pretrain --method mae --init ORIGINAL --out STAGE1) "
        "and give --init ORIGINAL --teacher STAGE1"
    )
    student_needs = ("full", "visible")
    asked = Asked(summary=True)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        _check_same(adapter, teacher.adapter)
        self.pixels = PixelReconstruction(
            adapter,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            norm_pix=settings.norm_pix,
        )

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        visible = self.adapter.forward(batch.images, plan, mode="visible").final
        pixels = self.pixels(visible, batch.images, plan)
        student = summary(self.adapter, self.adapter.forward(batch.images).final)
        teacher = look(self.teacher, batch, self.asked).summary
        assert teacher is not None
        alignment = (student.float() - teacher.float()).square().sum(dim=-1).mean()
        return Step.of({"pixels": (pixels, 1.0), "alignment": (alignment, self.settings.alignment_weight)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return self.pixels.images(tokens, batch.images, plan)


def _check_same(student: BackboneAdapter, teacher: BackboneAdapter) -> None:
    own, other = _shapes(student), _shapes(teacher)
    differing = [name for name in {**own, **other} if own.get(name) != other.get(name)]
    if differing:
        found, wanted = other.get(differing[0], "absent"), own.get(differing[0], "absent")
        raise ConfigError(
            f"the teacher must have the student's own architecture: its {differing[0]} is {found}, the student's "
            f"{wanted}; give the checkpoint of stage 1"
        )


def _shapes(adapter: BackboneAdapter) -> dict[str, list[int]]:
    """Shapes of a backbone's parameters by name, without its classifier."""
    head = classifiers(adapter.backbone)
    return {k: list(v.shape) for k, v in adapter.backbone.named_parameters() if not k.startswith(head)}


METHODS.add("selfdistill", SelfDistill)
