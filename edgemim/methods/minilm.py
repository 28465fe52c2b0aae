"""MiniLM: match how the tokens of one block relate to each other, so that no width and no depth has to agree.

Source: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
    Transformers", NeurIPS 2020, arXiv:2002.10957 (version 1); Wang et al., "MiniLMv2: Multi-Head Self-Attention
    Relation Distillation for Compressing Pretrained Transformers", Findings of ACL 2021, arXiv:2012.15828.
Command: distill
Needs: a plain ViT as student and as teacher; version 1 needs equally many heads in both
Differs: images and patches in place of text; there is no teacher assistant. The authors' repository has weights
    but no training code, so these are not verified: the weight 1/3 of each of version 2's three relations; that
    the teacher's block is its last for up to 12 blocks, and the 21st of 24 (the same share of other depths) for
    deeper teachers; 48 relation heads for teachers of up to 12 blocks and 64 for deeper ones, and where that does
    not divide both widths, the largest smaller number that does. Class and register tokens take part where both
    models have equally many, else they are left out. The student stops at the projection of its last block, so
    what lies behind learns nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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

# Up to this depth a teacher counts as a base model, beyond it as a large one.
_BASE_DEPTH = 12
_BASE_HEADS, _LARGE_HEADS = 48, 64


@dataclass(frozen=True, kw_only=True)
class MiniLMSettings:
    """Settings of `minilm`; the defaults are those of the second version.

    Args:
        version: 2: relations of queries, of keys and of values among themselves, in relation heads.
            1: attention (queries to keys) and relations of values, in the models' own heads.
        relation_heads: Of version 2: the channels of all heads, side by side, are cut into so many equal parts;
            must divide both widths. 0: 48 (64 for a teacher of more than 12 blocks), or the largest smaller
            number that divides both widths.
        teacher_block: Matched block of the teacher (0-based); -1: its last, but in version 2 the one at 7/8 of
            the depth of a teacher of more than 12 blocks.
    """

    version: int = 2
    relation_heads: int = 0
    teacher_block: int = -1

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ConfigError(f"method.version must be 1 or 2; got {self.version}")
        if self.relation_heads < 0:
            raise ConfigError(f"method.relation_heads must not be negative; got {self.relation_heads}")
        if self.version == 1 and self.relation_heads:
            raise ConfigError("method.relation_heads belongs to version 2; leave it out, or set method.version=2")


class MiniLM(Method):
    """See the module."""

    Settings = MiniLMSettings
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
        self.student_block = adapter.depth - 1
        default = _teacher_block(teacher.adapter, settings.version)
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, default, teacher.adapter)
        self.asked = Asked(qkv=(self.teacher_block,))
        if settings.version == 1:
            _check_heads(adapter.heads_of(self.student_block), teacher.adapter.heads_of(self.teacher_block))
            self.relation_heads = 0
        else:
            self.relation_heads = _relation_heads(settings.relation_heads, adapter, teacher.adapter)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        own, taught = self.adapter, self.teacher.adapter
        view = look(self.teacher, batch, self.asked)
        seen = own.forward(batch.images, qkv=(self.student_block,), stop_early=True)
        s = comparable(seen.qkv[self.student_block], own, taught, heads=self.relation_heads)
        t = comparable(view.qkv[self.teacher_block], taught, own, heads=self.relation_heads)
        if self.settings.version == 1:
            return Step.of(
                {
                    "attention": (_distance((s.queries, s.keys), (t.queries, t.keys)), 1.0),
                    "values": (_distance((s.values, s.values), (t.values, t.values)), 1.0),
                }
            )
        return Step.of(
            {
                "queries": (_distance((s.queries, s.queries), (t.queries, t.queries)), 1 / 3),
                "keys": (_distance((s.keys, s.keys), (t.keys, t.keys)), 1 / 3),
                "values": (_distance((s.values, s.values), (t.values, t.values)), 1 / 3),
            }
        )


def _distance(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    return kl(student=relation(*student), teacher=relation(*teacher))


def _teacher_block(teacher: BackboneAdapter, version: int) -> int:
    return teacher.depth - 1 if version == 1 or teacher.depth <= _BASE_DEPTH else teacher.block_at(7 / 8)


def _check_heads(student: int, teacher: int) -> None:
    if student != teacher:
        raise ConfigError(
            f"method.version 1 matches attention heads one to one, but the student's last block has {student} and "
            f"the teacher's block has {teacher}; use version 2 (method.version=2)"
        )


def _relation_heads(given: int, student: BackboneAdapter, teacher: BackboneAdapter) -> int:
    common = math.gcd(student.width, teacher.width)
    divisors = [n for n in range(1, common + 1) if common % n == 0]
    if given and given not in divisors:
        raise ConfigError(
            f"method.relation_heads {given} does not divide the student's width {student.width} and the teacher's "
            f"{teacher.width}; numbers that do: {', '.join(map(str, divisors))}"
        )
    most = _BASE_HEADS if teacher.depth <= _BASE_DEPTH else _LARGE_HEADS
    return given or max(n for n in divisors if n <= most)


METHODS.add("minilm", MiniLM)
