"""TinyMIM: match the relations of query to key and value to value of one block of a masked image model.

Source: Ren et al., "TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models", CVPR 2023, arXiv:2301.01296.
Command: distill
Needs: a plain ViT as student and as teacher, the student's width a multiple of the teacher's heads; best a teacher
    pretrained with MAE
Differs: the student's matched block is not built with the teacher's number of heads: its queries, keys and values
    are cut into that many when they are compared, which gives the same loss and the same gradients, since nothing
    behind its attention is run. What ships then has its own heads in every block, as the authors fine-tune their
    tiny model. Depths other than the authors' 12 and 24: the teacher's last block up to 12 blocks, beyond that
    the one at 3/4. Drop path is the backbone's own setting, which timm lets rise linearly with depth, where the
    authors' is 0.1 in all blocks but the last. Not verified: the recipe's smallest crop, which is MAE's. Class and
    register tokens take part where both models have equally many, else they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgemim.errors import ConfigError
from edgemim.losses.kl import kl
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._relations import block_setting, comparable, relation
from edgemim.methods._teacher_view import look
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class TinyMIMSettings:
    """Settings of `tinymim`; the defaults are the paper's.

    Args:
        student_block: Matched block of the student (0-based); -1: its last. Nothing behind it is trained.
        teacher_block: That of the teacher; -1: its last, for more than 12 blocks the one at 3/4 of the depth.
    """

    student_block: int = -1
    teacher_block: int = -1


class TinyMIM(Method):
    """See the module."""

    Settings = TinyMIMSettings
    needs_teacher = True
    masks = False
    student_needs = teacher_needs = ("full", "qkv")

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        taught = teacher.adapter
        default = taught.depth - 1 if taught.depth <= 12 else taught.block_at(0.75)
        self.student_block = block_setting("student_block", settings.student_block, adapter.depth - 1, adapter)
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, default, taught)
        self.asked = Asked(qkv=(self.teacher_block,))
        self.heads = taught.heads_of(self.teacher_block)
        _check_width(adapter.width, self.heads)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        own, taught = self.adapter, self.teacher.adapter
        view = look(self.teacher, batch, self.asked)
        seen = own.forward(batch.images, qkv=(self.student_block,), stop_early=True)
        s = comparable(seen.qkv[self.student_block], own, taught, heads=self.heads)
        t = comparable(view.qkv[self.teacher_block], taught, own)
        attention = kl(student=relation(s.queries, s.keys), teacher=relation(t.queries, t.keys))
        values = kl(student=relation(s.values, s.values), teacher=relation(t.values, t.values))
        return Step.of({"attention": (attention, 1.0), "values": (values, 1.0)})


def _check_width(width: int, heads: int) -> None:
    if width % heads:
        below = width - width % heads
        near = f"{below} or {below + heads}" if below else str(heads)
        raise ConfigError(
            f"the student's width {width} cannot be cut into the {heads} heads of the teacher's block; choose "
            f"backbone.embed_dim as a multiple of {heads} (nearest: {near}), or a teacher with other heads"
        )


METHODS.add("tinymim", TinyMIM)
