"""DMAE: a small MAE that also matches an intermediate feature map of a frozen, bigger one.

Source: Bai et al., "Masked Autoencoders Enable Efficient Knowledge Distillers", CVPR 2023, arXiv:2208.12256.
Command: distill
Needs: a ViT-like backbone and a ViT-like teacher, best one pretrained with MAE
Differs: the teacher stops at the last matched block and its decoder is never run (the released loop runs both
    to the end and throws the result away); the feature term has a weight, and a sum over channels as an option,
    because the mean over channels of unit vectors is numerically tiny beside the pixel term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses import LOSSES
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._pixels import PixelReconstruction
from edgemim.methods._projector import build_projector
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher

_DISTANCES = ("l1", "mse")


@dataclass(frozen=True, kw_only=True)
class DMAESettings:
    """Settings of `dmae`; the defaults are those of the authors' released command.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the student's decoder.
        norm_pix: Normalise each target patch; the released command does not.
        student_blocks: Matched blocks of the student (0-based); empty: the one at 3/4 of its depth.
        teacher_blocks: Those of the teacher, in the same order; empty: the one at 3/4 of its depth.
        projector: `linear`, `mlp`, `mlp2`, or `none`, which also leaves out the l2 normalisation.
        distance: `l1` or `mse`.
        alignment_weight: Factor of the feature term.
        sum_channels: Sum the distance over channels instead of averaging it.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = False
    student_blocks: tuple[int, ...] = ()
    teacher_blocks: tuple[int, ...] = ()
    projector: str = "linear"
    distance: str = "l1"
    alignment_weight: float = 1.0
    sum_channels: bool = False

    def __post_init__(self) -> None:
        if self.distance not in _DISTANCES:
            raise ConfigError(f"method.distance must be one of {', '.join(_DISTANCES)}; got {self.distance!r}")
        if self.alignment_weight < 0:
            raise ConfigError(f"method.alignment_weight must not be negative; got {self.alignment_weight}")


class DMAE(Method):
    """See the module."""

    Settings = DMAESettings
    needs_teacher = True
    student_needs = teacher_needs = ("visible", "blocks")

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        _check_prefix(adapter, teacher.adapter)
        self.student_blocks = _blocks(settings.student_blocks, adapter, "student")
        self.teacher_blocks = _blocks(settings.teacher_blocks, teacher.adapter, "teacher")
        if len(self.student_blocks) != len(self.teacher_blocks):
            raise ConfigError(
                f"method.student_blocks {self.student_blocks} and method.teacher_blocks {self.teacher_blocks} "
                "are matched in order and must be equally many"
            )
        self.pixels = PixelReconstruction(
            adapter,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            norm_pix=settings.norm_pix,
        )
        self.projectors = nn.ModuleList(
            build_projector(settings.projector, adapter.width, teacher.adapter.width) or nn.Identity()
            for _ in self.student_blocks
        )
        self.distance = LOSSES.get(settings.distance)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        wanted = self._teacher_features(batch.for_teacher, plan)
        features = self.adapter.forward(batch.images, plan, mode="visible", taps=self.student_blocks)
        pixels = self.pixels(features.final, batch.images, plan)
        alignment = torch.stack(
            [
                self._distance(project(features.taps[block]), target)
                for project, block, target in zip(self.projectors, self.student_blocks, wanted, strict=True)
            ]
        ).sum()
        return Step.of({"pixels": (pixels, 1.0), "alignment": (alignment, self.settings.alignment_weight)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return self.pixels.images(tokens, batch.images, plan)

    def _teacher_features(self, images: Tensor, plan: MaskPlan) -> list[Tensor]:
        assert self.teacher is not None
        features = self.teacher(images, plan, mode="visible", taps=self.teacher_blocks, stop_early=True)
        return [features.taps[block] for block in self.teacher_blocks]

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = student.float(), teacher.float()
        if self.settings.projector != "none":
            student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        loss: Tensor = self.distance(student=student, teacher=teacher)
        return loss * teacher.shape[-1] if self.settings.sum_channels else loss


def _check_prefix(student: BackboneAdapter, teacher: BackboneAdapter) -> None:
    if student.num_prefix != teacher.num_prefix:
        raise ConfigError(
            f"the teacher has {teacher.num_prefix} class and register tokens, the student {student.num_prefix}; "
            "dmae compares them one to one, so choose backbones with equally many"
        )


def _blocks(given: tuple[int, ...], adapter: BackboneAdapter, whose: str) -> tuple[int, ...]:
    blocks = given or (adapter.block_at(0.75),)
    wrong = [b for b in blocks if not 0 <= b < adapter.depth]
    if wrong:
        raise ConfigError(f"method.{whose}_blocks has {wrong}; the {whose} has blocks 0 to {adapter.depth - 1}")
    return blocks


METHODS.add("dmae", DMAE)
