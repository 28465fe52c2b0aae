"""MAE-lite: a small MAE whose attention logits follow those of a frozen, bigger one on the same visible patches.

Source: Wang et al., "A Closer Look at Self-Supervised Lightweight Vision Transformers", ICML 2023, arXiv:2205.14443.
Command: distill
Needs: a plain ViT as student and as teacher, best one pretrained with MAE
Differs: the teacher stops at the projection of its matched block and its decoder is never run. Not verified against
    the authors' code: the adapters start with Xavier-uniform weights; hidden states are the tokens after the
    matched blocks, before any final norm. Class and register tokens take part where both models have equally many,
    else they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses.mse import mse
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._pixels import PixelReconstruction
from edgemim.methods._relations import block_setting, comparable, relation
from edgemim.methods._teacher_view import shared_prefix, without_prefix
from edgemim.models.adapters.base import BackboneAdapter, Features
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class MAELiteSettings:
    """Settings of `maelite`; the defaults are the paper's for ViT-Tiny (which has 12 heads there).

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the student's decoder.
        norm_pix: Normalise each target patch by its own mean and deviation.
        student_block: Matched block of the student (0-based); -1: its last.
        teacher_block: That of the teacher; -1: its last.
        attention_weight: Factor of the distance of the attention logits.
        hidden_weight: Factor of the distance of the tokens after the matched blocks; 0: they are not compared.
    """

    decoder_width: int = 96
    decoder_depth: int = 1
    decoder_heads: int = 3
    norm_pix: bool = True
    student_block: int = -1
    teacher_block: int = -1
    attention_weight: float = 1.0
    hidden_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("attention_weight", "hidden_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"method.{name} must not be negative; got {getattr(self, name)}")


class MAELite(Method):
    """See the module."""

    Settings = MAELiteSettings
    needs_teacher = True
    student_needs = teacher_needs = ("visible", "blocks", "qkv")

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
        self.student_block = block_setting("student_block", settings.student_block, adapter.depth - 1, adapter)
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, taught.depth - 1, taught)
        self.pixels = PixelReconstruction(
            adapter,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            norm_pix=settings.norm_pix,
        )
        heads, wanted = adapter.heads_of(self.student_block), taught.heads_of(self.teacher_block)
        self.head_adapter = nn.Conv2d(heads, wanted, 1, bias=False)
        nn.init.xavier_uniform_(self.head_adapter.weight)
        self.hidden_adapter: nn.Module | None = None
        if settings.hidden_weight:
            self.hidden_adapter = nn.Linear(adapter.width, taught.width, bias=False).apply(initialise_linear)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        wanted = self._teacher_features(batch.for_teacher, plan)
        seen = self.adapter.forward(
            batch.images,
            plan,
            mode="visible",
            qkv=(self.student_block,),
            taps=() if self.hidden_adapter is None else (self.student_block,),
        )
        terms = {
            "pixels": (self.pixels(seen.final, batch.images, plan), 1.0),
            "attention": (self._attention_distance(seen, wanted), self.settings.attention_weight),
        }
        if self.hidden_adapter is not None:
            distance = self._hidden_distance(self.hidden_adapter, seen, wanted)
            terms["hidden"] = (distance, self.settings.hidden_weight)
        return Step.of(terms)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return self.pixels.images(tokens, batch.images, plan)

    def _teacher_features(self, images: Tensor, plan: MaskPlan) -> Features:
        assert self.teacher is not None
        block = (self.teacher_block,)
        taps = () if self.hidden_adapter is None else block
        features: Features = self.teacher(images, plan, mode="visible", qkv=block, taps=taps, stop_early=True)
        return features

    def _attention_distance(self, seen: Features, wanted: Features) -> Tensor:
        assert self.teacher is not None
        own, taught = self.adapter, self.teacher.adapter
        s = comparable(seen.qkv[self.student_block], own, taught)
        t = comparable(wanted.qkv[self.teacher_block], taught, own)
        logits = relation(s.queries, s.keys)
        with torch.autocast(logits.device.type, enabled=False):
            mapped = self.head_adapter(logits)
        return mse(student=mapped, teacher=relation(t.queries, t.keys))

    def _hidden_distance(self, project: nn.Module, seen: Features, wanted: Features) -> Tensor:
        assert self.teacher is not None
        own, taught = self.adapter, self.teacher.adapter
        kept = shared_prefix(own, taught)
        student = without_prefix(seen.taps[self.student_block], own.num_prefix, kept)
        teacher = without_prefix(wanted.taps[self.teacher_block], taught.num_prefix, kept)
        return mse(student=project(student), teacher=teacher)


METHODS.add("maelite", MAELite)
