"""SparK that also matches what a frozen ViT, shown the same visible pixels, says of each visible cell.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
    arXiv:2301.03580, with the alignment of Bai et al., "Masked Autoencoders Enable Efficient Knowledge Distillers",
    CVPR 2023, arXiv:2208.12256.
Command: distill
Needs: a convnet as student, as `spark` does, and a ViT-like teacher, best one pretrained with MAE
Differs: the combination is ours and no paper's. The student is matched at its last level, since the levels before it
    are finer than a cell; the teacher, as in `dmae`, at 3/4 of its depth, where it stops. Its patch grid becomes the
    whole multiple of the cells that is nearest to its own, by images of another size, and its tokens are averaged over
    the patches of a cell. A convnet has no class token, so that of the teacher is left out.
    Everything else is as in `spark`, its `Differs` included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses.l1 import l1
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._cells import CellReconstruction
from edgemim.methods._relations import block_setting
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.adapters.conv import ConvAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class SparKDMAESettings:
    """Settings of `spark-dmae`; the defaults are those of `spark` and `dmae`.

    Args:
        decoder_width: Channels of the decoder at the coarsest level, halved with each doubling of the sides; a multiple
            of the backbone's total stride.
        teacher_block: Matched block of the teacher (0-based); -1: the one at 3/4 of its depth.
        alignment_weight: Factor of the feature term.
        sum_channels: Sum the distance over channels instead of averaging it, which makes it tiny beside the pixel term.
    """

    decoder_width: int = 768
    teacher_block: int = -1
    alignment_weight: float = 1.0
    sum_channels: bool = False

    def __post_init__(self) -> None:
        if self.alignment_weight < 0:
            raise ConfigError(f"method.alignment_weight must not be negative; got {self.alignment_weight}")


class SparKDMAE(Method):
    """See the module.

    Raises:
        ConfigError: What `spark` raises, the teacher has no such block, or cannot take images of the size needed.
    """

    Settings = SparKDMAESettings
    needs_teacher = True
    matches_grid = False
    student_needs = ("sparse",)
    teacher_needs = ("visible", "blocks")
    experimental = "no paper combines SparK with a teacher; compare it with `spark` on your own images"

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert isinstance(adapter, ConvAdapter)
        assert teacher is not None
        self.cells = CellReconstruction(adapter, width=settings.decoder_width)
        taught = teacher.adapter
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, taught.block_at(0.75), taught)
        side = _side(adapter.grid, taught.output_grid)
        teacher.match((adapter.grid[0] * side, adapter.grid[1] * side))
        width = teacher.adapter.width_of(self.teacher_block)
        self.project = nn.Linear(self.cells.levels[-1].width, width).apply(initialise_linear)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        wanted = self._said(batch.for_teacher, plan)
        levels = self._levels(batch.images, plan)
        pixels = self.cells(levels, batch.images, plan)
        alignment = self._distance(gather_tokens(levels[self.cells.blocks[-1]], plan.keep_ids), wanted)
        return Step.of({"pixels": (pixels, 1.0), "alignment": (alignment, self.settings.alignment_weight)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        return self.cells.images(self._levels(batch.images, plan), batch.images, plan)

    def _levels(self, images: Tensor, plan: MaskPlan) -> dict[int, Tensor]:
        return self.adapter.forward(images, plan, mode="sparse", taps=self.cells.blocks, stop_early=True).taps

    def _said(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """[B, K, D]: of each visible cell, the mean of the teacher's tokens; it sees no other patches than theirs.

        Where the images are resized for it, whole, a few pixels around them are mixed in.
        """
        assert self.teacher is not None
        taught, block = self.teacher.adapter, self.teacher_block
        patches = plan.at(taught.output_grid)
        seen = self.teacher(images, patches, mode="visible", taps=(block,), stop_early=True).taps[block]
        return gather_tokens(_means(seen[:, taught.num_prefix :], patches, plan.grid), plan.keep_ids)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = F.normalize(self.project(student).float(), dim=-1), F.normalize(teacher.float(), dim=-1)
        loss = l1(student=student, teacher=teacher)
        return loss * teacher.shape[-1] if self.settings.sum_channels else loss


def _side(cells: tuple[int, int], patches: tuple[int, int]) -> int:
    """How many patches side by side a cell becomes, so that the teacher's grid changes as little as it can."""
    return max(1, round(math.sqrt(patches[0] * patches[1] / (cells[0] * cells[1]))))


def _means(tokens: Tensor, patches: MaskPlan, cells: tuple[int, int]) -> Tensor:
    """[B, L, D]: the mean over the patches of each cell, given tokens [B, K, D] of the visible ones; 0 elsewhere."""
    ids = patches.keep_ids.unsqueeze(-1).expand_as(tokens)
    whole = torch.zeros(len(tokens), patches.role.shape[1], tokens.shape[2], dtype=tokens.dtype, device=tokens.device)
    rows, columns = patches.grid[0] // cells[0], patches.grid[1] // cells[1]
    placed = whole.scatter(1, ids, tokens).view(len(tokens), cells[0], rows, cells[1], columns, -1)
    return placed.mean(dim=(2, 4)).flatten(1, 2)


METHODS.add("spark-dmae", SparKDMAE)
